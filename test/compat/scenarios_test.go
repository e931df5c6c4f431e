package compat

import (
	"os"
	"path/filepath"
)

const (
	id      = `[0-9a-f]{64}`
	shortID = `[0-9a-f]{12}`
	empty   = `^$`
)

func write(name, content string) step {
	return step{host: func(dir string) error {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(file, []byte(content), 0o644) // #nosec: a test
	}}
}

func scenarios() []scenario {
	var all []scenario
	for _, group := range [][]scenario{running(), refusing(), looking(), processes(), limits(), users(), storage(), networks(), userNetworks(), lifecycles(), imageVerbs(), copying(), pruning()} {
		all = append(all, group...)
	}
	return all
}

func running() []scenario {
	return []scenario{
		{name: "run prints and removes", steps: []step{
			{run: "run --rm --name $T-a busybox echo hello", out: "hello"},
			{run: "ps -a --filter name=$T-a -q", out: empty},
		}},
		{name: "exit code", steps: []step{{run: "run --rm busybox sh -c 'exit 42'", code: 42}}},
		{name: "signal exit code", steps: []step{{run: "run --rm --init busybox sh -c 'kill -TERM $$$$'", code: 143}}},
		{name: "stdout and stderr apart", steps: []step{{run: "run --rm busybox sh -c 'echo out; echo err >&2'", out: "out", err: "^err\n$"}}},
		{name: "stdin", steps: []step{{run: "run --rm -i busybox cat", stdin: "through\n", out: "through"}}},
		{name: "stdin large", steps: []step{{run: "run --rm -i busybox wc -c", stdin: string(make([]byte, 1<<20)), out: "1048576"}}},
		{name: "no stdin without -i", steps: []step{{run: "run --rm busybox cat", stdin: "lost", out: empty}}},
		{name: "detached prints the id", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60", out: id, save: "ID"},
			{run: "inspect -f {{.Id}} $T-a", out: "$ID"},
			{run: "inspect -f {{.State.Status}} $T-a", out: "running"},
		}},
		{name: "environment", steps: []step{
			// docker's client sends them in no order.
			{run: "run --rm -e A=1 -e B=two -h box busybox env", out: `(?s).*(A=1\n.*B=two|B=two\n.*A=1).*`},
			{run: "run --rm busybox sh -c 'echo $$PATH'", out: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		}},
		{name: "host name", steps: []step{
			{run: "run --rm -h box busybox hostname", out: "box"},
			{run: "run --rm -h box busybox cat /etc/hostname", out: "box"},
			{run: "run --rm -h box --domainname example.org busybox cat /proc/sys/kernel/domainname", out: "example.org"},
		}},
		{name: "env file", steps: []step{
			write("env", "# comment\nFROM_FILE=yes\n"),
			{run: "run --rm --env-file $DIR/env busybox printenv FROM_FILE", out: "yes"},
		}},
		{name: "working directory is made", steps: []step{
			{run: "run --rm -w /made/here busybox pwd", out: "/made/here"},
		}},
		{name: "entrypoint", steps: []step{
			{run: "run --rm --entrypoint echo busybox a b", out: "a b"},
			{run: "run --rm --entrypoint '' busybox echo c", out: "c"},
		}},
		{name: "create, start attached", steps: []step{
			{run: "create --name $T-a busybox echo later", out: id},
			{run: "inspect -f {{.State.Status}} $T-a", out: "created"},
			{run: "start -a $T-a", out: "later"},
			{run: "start -a $T-a", out: "later"},
			{run: "inspect -f '{{.State.Status}} {{.State.ExitCode}}' $T-a", out: "exited 0"},
		}},
		{name: "cidfile", steps: []step{
			{run: "run --rm --cidfile $DIR/cid busybox true"},
			{run: "run --rm --cidfile $DIR/cid busybox true", code: 125, err: "container id file found"},
		}},
		{name: "tty", steps: []step{{run: "run --rm -t busybox tty", out: "/dev/(pts/0|console)"}}},
		{name: "devices", steps: []step{
			{run: "run --rm --device /etc busybox true", code: 125, err: "not a device node"},
			{run: "run --rm --device /etc/passwd:/dev/x busybox true", code: 125, err: "not a device node"},
			{run: "run --rm busybox ls /dev", out: `(?s)(console\n)?(core\n)?fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero`},
		}},
		{name: "three descriptors only", steps: []step{{run: "run --rm busybox ls /proc/self/fd", out: "0\n1\n2\n3"}}},
		{name: "labels", steps: []step{
			{run: "create --name $T-a --label x=1 --label y busybox", out: id},
			{run: "inspect -f '{{index .Config.Labels \"x\"}}' $T-a", out: "1"},
			{run: "ps -a --filter label=x=1 --filter name=$T-a --format {{.Names}}", out: "$T-a"},
			{run: "ps -a --filter label=x=2 --filter name=$T-a --format {{.Names}}", out: empty},
		}},
		{name: "wait", steps: []step{
			{run: "run -d --name $T-a busybox sh -c 'sleep 0.2; exit 7'"},
			{run: "wait $T-a", out: "7"},
			{run: "wait $T-a", out: "7"},
		}},
		{name: "sysctl", steps: []step{{run: "run --rm --sysctl net.ipv4.ip_unprivileged_port_start=99 busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start", out: "99"}}},
	}
}

func refusing() []scenario {
	return []scenario{
		{name: "unknown image", steps: []step{
			{run: "run --rm --pull never $T-missing true", code: 125, err: "no such image"},
			{run: "image inspect $T-missing", code: 1, err: "no such image"},
		}},
		{name: "bad reference", steps: []step{{run: "run --rm lower/UPPER true", code: 125, err: "invalid reference format"}}},
		{name: "name conflict", steps: []step{
			{run: "create --name $T-a busybox"},
			{run: "create --name $T-a busybox", code: 1, err: `conflict.*name.*"?/?$T-a"?.*already in use`},
		}},
		{name: "bad name", steps: []step{{run: "create --name bad/name busybox", code: 1, err: "invalid container name"}}},
		{name: "executable missing", steps: []step{
			{run: "run --rm busybox nosuchprogram", code: 127, err: "nosuchprogram.*(not found|no such file)"},
			{run: "run --rm busybox /no/such/program", code: 127, err: "no such file"},
		}},
		{name: "executable not executable", steps: []step{
			{run: "run --rm busybox /etc/passwd", code: 126, err: "permission denied"},
			{run: "run --rm busybox /etc", code: 126, err: "(permission denied|is a directory)"},
		}},
		{name: "no such container", steps: []step{
			{run: "start $T-none", code: 1, err: "no such container"},
			{run: "inspect $T-none", code: 1, out: `\[\]`, err: "no such object"},
			{run: "rm $T-none", code: 1, err: "no such container"},
			{run: "logs $T-none", code: 1, err: "no such container"},
			{run: "exec $T-none true", code: 1, err: "no such container"},
		}},
		{name: "what an exec leaves behind may write", steps: []step{
			{run: "run -d --name $T-a busybox sleep 600"},
			{run: "exec $T-a sh -c '(while [ ! -e /go ]; do sleep 0.1; done; /bin/echo late; echo $$? > /code) &'", out: empty},
			{run: "exec $T-a touch /go"},
			{run: "exec $T-a sh -c 'until [ -s /code ]; do sleep 0.1; done; cat /code'", out: "0"},
		}},
		{name: "exec in a stopped container", steps: []step{
			{run: "create --name $T-a busybox true"},
			{run: "exec $T-a true", code: 1, err: "is not running"},
		}},
		{name: "remove a running container", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "rm $T-a", code: 1, err: "(cannot|could not) remove.*running"},
			{run: "rm -f $T-a", out: "$T-a"},
		}},
		{name: "bad flags", steps: []step{
			{run: "run --rm --memory 1k busybox true", code: 125, err: "minimum memory limit"},
			{run: "run --rm -v relative:path:bad:mode busybox true", code: 125, err: "invalid"},
			{run: "run --rm -v /a:relative busybox true", code: 125, err: "(absolute|invalid)"},
			{run: "run --rm -u nosuchuser busybox true", code: 125, err: "nosuchuser"},
			{run: "run --rm --network nosuchnet busybox true", code: 125, err: "nosuchnet.*not found"},
			{run: "run --rm --pid container:$T-none busybox true", code: 125, err: "no such container: $T-none"},
			{run: "run --rm --volumes-from $T-none busybox true", code: 125, err: "no such container: $T-none"},
			{run: "run --rm --annotation =x busybox true", code: 125, err: "(annotation|empty)"},
			{run: "run --rm --security-opt writable-cgroups=maybe busybox true", code: 125, err: "invalid --security-opt"},
			{run: "run --rm --restart sometimes busybox true", code: 125, err: "restart"},
			{run: "run --rm --restart always busybox true", code: 125, err: "conflicting options"},
		}},
		{name: "events of the past", steps: []step{
			{run: "run --name $T-a busybox true"},
			{run: "events --since 0 --until 0s --filter container=$T-a --filter event=die --format {{.Action}}", out: "die", wait: true}, // until is a whole second
			{run: "events --until 0s --filter container=$T-a --filter event=die --format {{.Action}}", out: "die", wait: true},
			{run: "events --until 0 --filter container=$T-a", out: empty},
			{run: "commit -c 'LABEL mine=$T' $T-a $T-i", out: "sha256:.*"},
			{run: "events --until 0s --filter type=image --filter event=tag --filter label=mine=$T --format {{.Actor.Attributes.mine}}", out: "$T", wait: true},
			{run: "rmi $T-i"},
		}},
		{name: "links", steps: []step{
			{run: "run -d --name $T-db busybox sleep 600"},
			{run: "create --link $T-none busybox true", code: 1, err: "could not get container for $T-none"},
			{run: "run -d --name $T-web --link $T-db:db busybox sleep 600"},
			{run: "inspect -f '{{json .HostConfig.Links}}' $T-web", out: `\["/$T-db:/$T-web/db"\]`},
			{run: "ps --filter name=$T-db --no-trunc --format {{.Names}}", out: "$T-db,$T-web/db"},
			{run: "rename $T-db $T-sql"},
			{run: "inspect -f '{{.Name}} {{json .HostConfig.Links}}' $T-web", out: `/$T-web \["/$T-sql:/$T-web/db"\]`},
			{run: "container inspect -f {{.Name}} $T-web/db", out: "/$T-sql"},
			{run: "exec $T-web ping -c 1 -w 20 db", out: `(?s).*1 packets received.*`},
			{run: "restart -t 0 $T-sql"},
			{run: "exec $T-web ping -c 1 -w 20 db", out: `(?s).*1 packets received.*`},
			{run: "rm --link $T-web/db", out: "$T-web/db"},
			{run: "ps --filter name=$T-sql --no-trunc --format {{.Names}}", out: "$T-sql"},
		}},
		{name: "link to a container that has ended", steps: []step{
			{run: "create --name $T-db busybox true"},
			{run: "run --rm --link $T-db:db busybox true", code: 125, err: "cannot link to a non running container: /$T-db as /.*/db"},
		}},
		{name: "exec as nobody known", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "exec -u nosuchuser $T-a true", code: 1, err: "unable to find user nosuchuser: no matching entries in passwd file"},
			{run: "exec -u 1:nosuchgroup $T-a true", code: 1, err: "unable to find group nosuchgroup: no matching entries in group file"},
			{run: "exec -u 1:1 $T-a id -u", out: "1"},
		}},
		{name: "restart policy of a container with --rm", steps: []step{
			{run: "run -d --rm --name $T-a busybox sleep 60"},
			{run: "update --restart always $T-a", code: 1, err: "AutoRemove is enabled"},
		}},
		{name: "rename to the same name", steps: []step{
			{run: "create --name $T-a busybox"},
			{run: "rename $T-a $T-a", code: 1, err: "renaming a container with the same name"},
		}},
		{name: "kill a stopped container", steps: []step{
			{run: "create --name $T-a busybox true"},
			{run: "kill $T-a", code: 1, err: "is not running"},
		}},
	}
}

func looking() []scenario {
	return []scenario{
		{name: "ps columns", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "ps --filter name=$T-a", out: `CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES\n` + shortID + ` +busybox +"sleep 60" +.*ago +Up .* +$T-a`},
			{run: "ps --filter name=$T-a --no-trunc -q", out: id},
			{run: "ps --filter name=$T-a -q", out: shortID},
			{run: "ps -s --filter name=$T-a --format {{.Size}}", out: `0B \(virtual .*B\)`},
		}},
		{name: "ps filters", steps: []step{
			{run: "create --name $T-a busybox"},
			{run: "run --name $T-b busybox sh -c 'exit 3'", code: 3},
			{run: "ps -a --filter status=created --filter name=$T- --format {{.Names}}", out: "$T-a"},
			{run: "ps -a --filter status=exited --filter name=$T- --format {{.Names}}", out: "$T-b"},
			{run: "ps -a --filter exited=3 --filter name=$T- --format {{.Names}}", out: "$T-b"},
			{run: "ps -a --filter ancestor=busybox --filter name=$T- --format {{.Names}}", out: "$T-b\n$T-a"},
			{run: "ps -a --filter before=$T-b --filter name=$T- --format {{.Names}}", out: "$T-a"},
			{run: "ps -a --filter since=$T-a --filter name=$T- --format {{.Names}}", out: "$T-b"},
			{run: "ps -a --filter nosuch=1", code: 1, err: "invalid filter"},
		}},
		{name: "inspect", steps: []step{
			{run: "run -d --name $T-a -p 127.0.0.1::80 -v $DIR:/d:ro busybox sleep 60"},
			{run: "inspect -f '{{.Name}} {{.Path}} {{json .Args}} {{.Config.Image}} {{.HostConfig.NetworkMode}}' $T-a", out: `/$T-a sleep \["60"\] busybox (bridge|default)`},
			{run: "inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}{{end}}' $T-a", out: "bind /d false"},
			{run: "inspect -f '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostIp}}' $T-a", out: "127.0.0.1"},
			{run: "inspect -f '{{.State.Running}} {{gt .State.Pid 1}}' $T-a", out: "true true"},
			{run: "inspect --type image busybox -f {{.Os}}", out: "linux"},
		}},
		{name: "logs tail and streams", steps: []step{
			{run: "run --name $T-a busybox sh -c 'echo one; echo two; echo bad >&2'", out: "one\ntwo", err: "bad"},
			{run: "logs $T-a", out: "one\ntwo", err: "^bad\n$"},
			{run: "run --name $T-b busybox seq 1 100"},
			{run: "logs --tail 2 $T-b", out: "99\\n100"},
			{run: "logs -t --tail 3 $T-a", out: `\d{4}-\d\d-\d\dT[0-9:.]+Z one\n\d{4}.* two`},
			{run: "logs --since 1h $T-a", out: "one\ntwo"},
			{run: "logs --until 1h $T-a", out: empty},
		}},
		{name: "logs follow ends with the container", steps: []step{
			{run: "run -d --name $T-a busybox sh -c 'echo a; sleep 0.3; echo b'"},
			{run: "logs -f $T-a", out: "a\nb"},
		}},
		{name: "no log", steps: []step{
			{run: "run --name $T-a --log-driver none busybox echo x", out: "x"},
			{run: "logs $T-a", code: 1, err: "does not support reading"},
		}},
		{name: "log driver local", steps: []step{
			{run: "run --name $T-a --log-driver local busybox echo kept", out: "kept"},
			{run: "logs $T-a", out: "kept"},
		}},
		{name: "top", steps: []step{
			{run: "run -d --name $T-a busybox sleep 61"},
			{run: "top $T-a", out: `(?s).*PID.*sleep 61.*`},
			{run: "top $T-a -o pid,args", out: `(?s)PID +COMMAND\n\d+ +sleep 61`},
		}},
		{name: "stats", steps: []step{
			{run: "run -d --name $T-a --memory 64m busybox sleep 60"},
			{run: "stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' $T-a", out: `$T-a .*B / 64MiB 1`},
		}},
		{name: "diff", steps: []step{
			{run: "run --name $T-a busybox sh -c 'echo x > /new; rm /bin/acpid; mkdir /tmp/d'"},
			{run: "diff $T-a", out: `(?s).*D /bin/acpid.*A /new.*A /tmp/d.*|(?s).*A /new.*`},
		}},
		{name: "port", steps: []step{
			{run: "run -d --name $T-a -p 127.0.0.1:38081:80 -p 127.0.0.1:38082:53/udp busybox sleep 60"},
			{run: "port $T-a", out: `(?s)(53/udp -> 127.0.0.1:38082\n80/tcp -> 127.0.0.1:38081|80/tcp -> 127.0.0.1:38081\n53/udp -> 127.0.0.1:38082)`},
			{run: "port $T-a 80", out: "127.0.0.1:38081"},
			{run: "port $T-a 81", code: 1, err: "no public port"},
		}},
		{name: "version and info", steps: []step{
			{run: "version --format {{.Server.APIVersion}}", out: `1\.\d+`},
			{run: "info --format {{.OSType}}", out: "linux"},
			{run: "info --format {{.Swarm.LocalNodeState}}", out: "inactive"},
		}},
		{name: "system df", steps: []step{{run: "system df", out: `(?s)TYPE +TOTAL +ACTIVE +SIZE +RECLAIMABLE\nImages .*Containers .*Local Volumes .*Build Cache .*`}}},
	}
}

func processes() []scenario {
	return []scenario{
		{name: "exec", steps: []step{
			{run: "run -d --name $T-a -e X=1 -w /tmp busybox sleep 60"},
			{run: "exec $T-a printenv X", out: "1"},
			{run: "exec $T-a pwd", out: "/tmp"},
			{run: "exec -w /etc -e Y=2 $T-a sh -c 'pwd; printenv Y'", out: "/etc\n2"},
			{run: "exec $T-a sh -c 'exit 5'", code: 5},
			{run: "exec -i $T-a cat", stdin: "in", out: "in"},
			{run: "exec -t $T-a tty", out: "/dev/pts/[0-9]+"},
			{run: "exec -u nobody $T-a id -un", out: "nobody"},
			{run: "exec -u 1234:5678 $T-a sh -c 'id -u; id -g'", out: "1234\n5678"},
			{run: "exec $T-a /etc/passwd", code: 126},
			{run: "exec -d $T-a touch /tmp/detached", out: empty},
			{run: "exec $T-a ls /tmp/detached", out: "/tmp/detached", wait: true},
			{run: "exec $T-a sh -c 'echo out; echo err >&2'", out: "out", err: "^err"},
		}},
		{name: "exec of a missing program", hull: "126 before Docker 23", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "exec $T-a nosuchprogram", code: 127},
		}},
		{name: "exec shares the namespaces", steps: []step{
			{run: "run -d --name $T-a busybox sleep 62"},
			{run: "exec $T-a ps -o pid,args", out: `(?s).* 1 sleep 62.*`},
			{run: "exec $T-a sh -c 'test $$(readlink /proc/1/ns/net) = $$(readlink /proc/self/ns/net) && echo same'", out: "same"},
		}},
		{name: "init reaps", steps: []step{
			{run: "run -d --init --name $T-a busybox sleep 63"},
			{run: "exec $T-a ps -o pid,args", out: `(?s).*\s1 \S+.*\n\s+\d+ sleep 63.*`},
		}},
		{name: "pid host", steps: []step{
			{run: "run --rm --pid host busybox sh -c 'ps | wc -l'", out: `[1-9]\d+|[4-9]`},
		}},
		{name: "stop signal and timeout", steps: []step{
			{run: "run -d --name $T-a --stop-signal USR1 busybox sh -c 'trap \"exit 9\" USR1; while :; do sleep 0.1; done'"},
			{run: "exec $T-a true"},
			{run: "stop $T-a", out: "$T-a"},
			{run: "inspect -f {{.State.ExitCode}} $T-a", out: "9"},
		}},
		{name: "stop then kill", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "stop -t 1 $T-a"},
			{run: "inspect -f '{{.State.Status}} {{.State.ExitCode}}' $T-a", out: "exited 137"},
			{run: "stop $T-a", out: "$T-a"},
		}},
		{name: "kill with a signal", steps: []step{
			{run: "run -d --name $T-a busybox sh -c 'trap \"echo got it\" HUP; while :; do sleep 0.1; done'"},
			{run: "exec $T-a true"},
			{run: "kill -s HUP $T-a", out: "$T-a"},
			{run: "logs $T-a", out: "got it", wait: true},
			{run: "kill -s NOSUCH $T-a", code: 1, err: "signal"},
		}},
		{name: "pause", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "pause $T-a", out: "$T-a"},
			{run: "inspect -f '{{.State.Status}} {{.State.Paused}}' $T-a", out: "paused true"},
			{run: "pause $T-a", code: 1, err: "already paused"},
			{run: "exec $T-a true", code: 1, err: "paused"},
			{run: "unpause $T-a", out: "$T-a"},
			{run: "exec $T-a echo on", out: "on"},
			{run: "unpause $T-a", code: 1, err: "not paused"},
		}},
		{name: "rename", steps: []step{
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "rename $T-a $T-b"},
			{run: "inspect -f {{.Name}} $T-b", out: "/$T-b"},
			{run: "inspect $T-a", code: 1},
		}},
		{name: "namespaces of another container", steps: []step{
			{run: "run -d --name $T-a -h shared busybox sleep 64"},
			{run: "run --rm --network container:$T-a busybox hostname", out: "shared"},
			{run: "run --rm --pid container:$T-a busybox ps -o args", out: `(?s).*sleep 64.*`},
			{run: "run --rm --ipc container:$T-a busybox true", code: 125, err: "(ipc|shareable)"},
		}},
		{name: "shared memory of another container", steps: []step{
			{run: "run -d --name $T-a --ipc shareable busybox sh -c 'echo theirs > /dev/shm/f; sleep 64'"},
			{run: "run --rm --ipc container:$T-a busybox sh -c 'until [ -s /dev/shm/f ]; do usleep 9999; done; cat /dev/shm/f; echo mine > /dev/shm/g'", out: "theirs"},
			{run: "exec $T-a cat /dev/shm/g", out: "mine"},
		}},
	}
}

func limits() []scenario {
	return []scenario{
		{name: "memory limit and OOM", steps: []step{
			{run: "run --name $T-b --memory 16m --memory-swap 16m busybox dd if=/dev/zero of=/dev/null bs=64M count=1", code: 137},
			{run: "inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' $T-b", out: "true 137"},
		}},
		{name: "pids limit", steps: []step{
			{run: "run --rm --pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'", err: "(can't fork|resource temporarily unavailable)", code: 2},
		}},
		{name: "ulimit", steps: []step{{run: "run --rm --ulimit nofile=100:200 busybox sh -c 'ulimit -n; ulimit -Hn'", out: "100\n200"}}},
		{name: "shm size", steps: []step{
			{run: "run --rm busybox df -k /dev/shm", out: `(?s).*65536.*`},
			{run: "run --rm --shm-size 8m busybox df -k /dev/shm", out: `(?s).*8192.*`},
		}},
		{name: "capabilities", steps: []step{
			{run: "run --rm busybox grep CapEff /proc/self/status", out: `CapEff:\t00000000a80425fb`},
			{run: "run --rm --cap-drop ALL busybox grep CapEff /proc/self/status", out: `CapEff:\t0000000000000000`},
			{run: "run --rm --cap-drop ALL --cap-add NET_ADMIN busybox grep CapEff /proc/self/status", out: `CapEff:\t0000000000001000`},
			{run: "run --rm -u 1000 busybox grep CapEff /proc/self/status", out: `CapEff:\t0000000000000000`},
			{run: "run --rm --cap-add NOSUCH busybox true", code: 125, err: "capability"},
		}},
		{name: "no new privileges and seccomp", steps: []step{
			{run: "run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status", out: `NoNewPrivs:\t1`},
			{run: "run --rm busybox grep Seccomp: /proc/self/status", out: `Seccomp:\t2`},
			{run: "run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status", out: `Seccomp:\t0`},
			{run: "run --rm busybox unshare -U true", code: 1, err: "(operation not permitted|unshare)"},
		}},
		{name: "masked and read-only paths", steps: []step{
			{run: "run --rm busybox sh -c 'wc -c < /proc/timer_list'", out: "0"},
			{run: "run --rm busybox sh -c 'echo 1 > /proc/sys/kernel/panic'", code: 1, err: "read-only"},
			{run: "run --rm busybox mount -t tmpfs x /mnt", err: "(permission denied|not permitted|no such)", code: 1},
		}},
		{name: "read-only root", steps: []step{
			{run: "run --rm --read-only busybox touch /x", code: 1, err: "read-only"},
			{run: "run --rm --read-only busybox touch /etc/hosts", code: 1, err: "read-only"},
			{run: "run --rm --read-only --tmpfs /tmp busybox touch /tmp/x"},
		}},
		{name: "tmpfs options", steps: []step{
			{run: "run --rm --tmpfs /t:size=1m,mode=1700 busybox sh -c 'df -k /t | tail -1; stat -c %a /t'", out: `(?s).*1024.*1700`},
		}},
		{name: "device", steps: []step{
			{run: "run --rm --device /dev/fuse busybox ls /dev/fuse", out: "/dev/fuse"},
			{run: "run --rm busybox ls /dev/fuse", code: 1},
		}},
		{name: "privileged", hull: "runc refuses capabilities outside its own bounding set", steps: []step{
			{run: "run --rm --privileged busybox sh -c 'mkdir /m && mount -t tmpfs x /m && echo mounted'", out: "mounted"},
		}},
		{name: "update", steps: []step{
			{run: "run -d --name $T-a --memory 64m --memory-swap 64m busybox sleep 60"},
			{run: "update --memory 32m --memory-swap 32m $T-a", out: "$T-a"},
			{run: "inspect -f {{.HostConfig.Memory}} $T-a", out: "33554432"},
			{run: "stats --no-stream --format {{.MemUsage}} $T-a", out: `.*/ 32MiB`},
		}},
	}
}

func users() []scenario {
	return []scenario{
		{name: "users", steps: []step{
			{run: "run --rm busybox id", out: `uid=0\(root\) gid=0\(root\).*`},
			{run: "run --rm -u www-data busybox id", out: `uid=33\(www-data\) gid=33\(www-data\).*`},
			{run: "run --rm -u 33 busybox id -u", out: "33"},
			{run: "run --rm -u 1234:33 busybox id", out: `uid=1234 gid=33\(www-data\).*`},
			{run: "run --rm -u www-data:users busybox id -gn", out: "users"},
			{run: "run --rm --group-add users --group-add 4242 busybox id -G", out: `.*100.*4242.*`},
			{run: "run --rm -u mail busybox printenv HOME", out: "/var/spool/mail"},
		}},
	}
}

func storage() []scenario {
	return []scenario{
		{name: "bind mount", steps: []step{
			write("file", "from the host\n"),
			{run: "run --rm -v $DIR:/d busybox cat /d/file", out: "from the host"},
			{run: "run --rm -v $DIR:/d busybox sh -c 'echo back > /d/back'"},
			{host: func(dir string) error { _, err := os.Stat(filepath.Join(dir, "back")); return err }},
			{run: "run --rm -v $DIR:/d:ro busybox touch /d/x", code: 1, err: "read-only"},
			{run: "run --rm -v $DIR/file:/f busybox cat /f", out: "from the host"},
			{run: "run --rm -v $DIR/new:/n busybox ls -d /n", out: "/n"},
			{run: "run --rm --mount type=bind,source=$DIR/missing,target=/n busybox true", code: 125, err: "bind source path does not exist"},
		}},
		{name: "named volume", steps: []step{
			{run: "volume create $T-v", out: "$T-v"},
			{run: "run --rm -v $T-v:/data busybox sh -c 'echo kept > /data/x'"},
			{run: "run --rm -v $T-v:/data busybox cat /data/x", out: "kept"},
			{run: "volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' $T-v", out: "$T-v local local"},
			{run: "create --name $T-a -v $T-v:/data busybox"},
			{run: "volume rm $T-v", code: 1, err: "in use"},
			{run: "rm $T-a"},
			{run: "volume rm $T-v", out: "$T-v"},
			{run: "volume inspect $T-v", code: 1, err: "no such volume"},
		}},
		{name: "volume copies the image's content up", steps: []step{
			{run: "run --rm -v $T-v:/etc busybox cat /etc/group", out: `(?s)root:x:0:.*`},
			{run: "run --rm -v $T-w:/etc:nocopy busybox ls /etc", out: `(?s)host.*resolv.conf`},
		}},
		{name: "anonymous volume goes with --rm", steps: []step{
			{run: "run --rm --name $T-a -v /data busybox sh -c 'echo x > /data/x; grep -c /data /proc/mounts'", out: "1"},
		}},
		{name: "volumes-from", steps: []step{
			{run: "create --name $T-a -v $T-v:/data busybox"},
			{run: "run --rm --volumes-from $T-a busybox sh -c 'echo shared > /data/y'"},
			{run: "run --rm --volumes-from $T-a:ro busybox touch /data/z", code: 1, err: "read-only"},
			{run: "run --rm -v $T-v:/v busybox cat /v/y", out: "shared"},
			{run: "run --rm --volumes-from $T-a -v /data busybox cat /data/y", out: "shared"},
			{run: "create --name $T-b -v /usr busybox"},
			{run: "run --rm --volumes-from $T-b busybox /bin/ls -A /usr", out: empty},
		}},
		{name: "data survives a restart", steps: []step{
			{run: "run --name $T-a busybox sh -c 'echo x >> /count; wc -l < /count'", out: "1"},
			{run: "start -a $T-a", out: "2"},
			{run: "start -a $T-a", out: "3"},
		}},
	}
}

func networks() []scenario {
	return []scenario{
		{name: "none", steps: []step{{run: "run --rm --network none busybox ls /sys/class/net", out: "lo"}}},
		{name: "host", steps: []step{{run: "run --rm --network host busybox true"}}},
		{name: "bridge has an address, a gateway and a resolver", steps: []step{
			{run: "run --rm busybox ip -4 -o addr show eth0", out: `(?s).*inet \d+\.\d+\.\d+\.\d+/\d+ .*`},
			{run: "run --rm busybox ip route", out: `(?s)default via .* dev eth0.*`},
			{run: "run --rm --dns 192.0.2.1 --dns-search example.org busybox cat /etc/resolv.conf", out: `(?s).*search example.org.*nameserver 192.0.2.1.*|(?s).*nameserver 192.0.2.1.*search example.org.*`},
			{run: "run --rm --add-host there:192.0.2.7 busybox cat /etc/hosts", out: `(?s).*192.0.2.7\s+there.*`},
			{run: "run --rm -h box busybox grep box /etc/hosts", out: `(?s)\d+\.\d+\.\d+\.\d+\s+box.*`},
		}},
		{name: "containers reach each other", steps: []step{
			{run: "run -d --name $T-a busybox sh -c 'mkdir /w; echo page > /w/index.html; httpd -f -p 80 -h /w'"},
			{run: "inspect -f {{.NetworkSettings.Networks.bridge.IPAddress}} $T-a", out: `\d+\.\d+\.\d+\.\d+`, save: "IP"},
			{run: "run --rm busybox wget -q -O - http://$IP/", out: "page", wait: true},
		}},
		{name: "port conflict", steps: []step{
			{run: "run -d --name $T-a -p 127.0.0.1:38090:80 busybox sleep 60"},
			{run: "run -d --name $T-b -p 127.0.0.1:38090:80 busybox sleep 60", code: 125, err: "(port is already allocated|already in use)"},
			{run: "inspect -f {{.State.Status}} $T-b", out: "created"},
			{run: "rm -f $T-a"},
			{run: "start $T-b", out: "$T-b"},
		}},
		{name: "mac address", hull: "needs API 1.44", steps: []step{
			{run: "run --rm --mac-address 02:42:ac:11:00:99 busybox cat /sys/class/net/eth0/address", out: "02:42:ac:11:00:99"},
		}},
		{name: "network list", steps: []step{
			{run: "network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'", out: `(?s).*bridge bridge local.*host host local.*none null local.*`},
			{run: "network inspect -f {{.Driver}} bridge", out: "bridge"},
			{run: "network inspect $T-none", code: 1, err: "not found"},
			{run: "network rm bridge", code: 1, err: "pre-defined network"},
		}},
	}
}

func lifecycles() []scenario {
	return []scenario{
		{name: "restart on failure", steps: []step{
			{run: "run -d --name $T-a --restart on-failure:2 busybox sh -c 'echo run; exit 3'"},
			{run: "inspect -f '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' $T-a", out: "2 exited 3", wait: true},
			{run: "logs $T-a", out: "run\nrun\nrun"},
		}},
		{name: "restart always, until stopped", steps: []step{
			{run: "run -d --name $T-a --restart always busybox sleep 0.2"},
			{run: "inspect -f '{{gt .RestartCount 0}}' $T-a", out: "true", wait: true},
			{run: "stop -t 1 $T-a"},
			{run: "inspect -f {{.State.Running}} $T-a", out: "false"},
		}},
		{name: "restart command", steps: []step{
			{run: "run -d --name $T-a busybox sh -c 'echo up; exec sleep 60'"},
			{run: "logs $T-a", out: "up", wait: true}, // else it may be killed before it has said so
			{run: "restart -t 0 $T-a", out: "$T-a"},
			{run: "logs $T-a", out: "up\nup", wait: true},
			{run: "inspect -f {{.State.Status}} $T-a", out: "running"},
		}},
		{name: "health", steps: []step{
			{run: "run -d --name $T-a --health-cmd 'test -e /ok' --health-interval 200ms --health-retries 2 busybox sh -c 'touch /ok; sleep 60'"},
			{run: "inspect -f {{.State.Health.Status}} $T-a", out: "healthy", wait: true},
			{run: "ps --filter name=$T-a --format {{.Status}}", out: `Up .*\(healthy\)`},
			{run: "exec $T-a rm /ok"},
			{run: "inspect -f {{.State.Health.Status}} $T-a", out: "unhealthy", wait: true},
			{run: "ps -q --filter health=unhealthy --filter name=$T-a", out: shortID},
			{run: "inspect -f '{{(index .State.Health.Log 0).ExitCode}}' $T-a", out: "[01]"},
		}},
		{name: "restart when unhealthy", steps: []step{
			{run: "run -d --name $T-a --restart unhealthy --health-cmd false --health-interval 100ms --health-retries 1 busybox sleep 60"},
			{run: "inspect -f '{{gt .RestartCount 0}}' $T-a", out: "true", wait: true},
		}, hull: "the policy is hull's own"},
	}
}

func imageVerbs() []scenario {
	return []scenario{
		{name: "tag, list, remove", steps: []step{
			{run: "tag busybox $T-x:v1"},
			{run: "images $T-x --format '{{.Repository}} {{.Tag}}'", out: "$T-x v1"},
			{run: "rmi $T-x:v1", out: "Untagged: .*$T-x:v1"},
			{run: "images -q $T-x", out: empty},
			{run: "rmi $T-x:v1", code: 1, err: "no such image"},
		}},
		{name: "history", steps: []step{
			{run: "history busybox --format {{.CreatedBy}} --no-trunc", out: ".+"},
		}},
		{name: "image in use", steps: []step{
			{run: "create --name $T-a busybox"},
			{run: "commit $T-a $T-y", out: "sha256:" + id},
			{run: "create --name $T-b $T-y"},
			{run: "rmi $T-y", code: 1, err: "(unable to remove|conflict).*(in use|is using|using its)"},
		}},
		{name: "commit", steps: []step{
			{run: "run --name $T-a busybox sh -c 'echo data > /kept; rm /bin/acpid'"},
			{run: "commit -m msg -a me -c 'CMD [\"cat\",\"/kept\"]' -c 'ENV Z=9' $T-a $T-img", out: "sha256:" + id},
			{run: "run --rm $T-img", out: "data"},
			{run: "run --rm $T-img printenv Z", out: "9"},
			{run: "run --rm $T-img ls /bin/acpid", code: 1},
			{run: "inspect -f '{{.Comment}} {{.Author}}' $T-img", out: "msg me"},
		}},
		{name: "export and import", steps: []step{
			{run: "run --name $T-a busybox sh -c 'echo e > /exported'"},
			{run: "export -o $DIR/fs.tar $T-a"},
			{run: "import -c 'CMD [\"cat\",\"/exported\"]' $DIR/fs.tar $T-imp", out: "sha256:" + id},
			{run: "run --rm $T-imp", out: "e"},
		}},
		{name: "save and load", steps: []step{
			{run: "run --name $T-a busybox sh -c 'echo s > /saved'"},
			{run: "commit $T-a $T-s:1", save: "ID"},
			{run: "save -o $DIR/s.tar $T-s:1"},
			{run: "rm $T-a"},
			{run: "rmi $T-s:1"},
			{run: "load -i $DIR/s.tar", out: "Loaded image: $T-s:1"},
			{run: "inspect -f {{.Id}} $T-s:1", out: "$ID"},
			{run: "run --rm $T-s:1 cat /saved", out: "s"},
		}},
		{name: "image inspect", steps: []step{
			{run: "image inspect -f '{{json .Config.Cmd}} {{.Architecture}}' busybox", out: `\["sh"\] (amd64|arm64)`},
			{run: "image inspect -f '{{len .RootFS.Layers}}' busybox", out: "1"},
		}},
	}
}

func copying() []scenario {
	return []scenario{
		{name: "cp into and out of a running container", steps: []step{
			write("src/a", "A\n"), write("src/sub/b", "B\n"),
			{run: "run -d --name $T-a busybox sleep 60"},
			{run: "cp $DIR/src $T-a:/dst"},
			{run: "exec $T-a cat /dst/a /dst/sub/b", out: "A\nB"},
			{run: "cp $DIR/src/. $T-a:/tmp"},
			{run: "exec $T-a cat /tmp/a", out: "A"},
			{run: "cp $T-a:/dst/sub $DIR/out"},
			{host: func(dir string) error { _, err := os.ReadFile(filepath.Join(dir, "out", "b")); return err }},
			{run: "cp $DIR/src/a $T-a:/no/such/dir/", code: 1, err: "(could not find|no such|not found)"},
			{run: "cp $T-a:/dst/a/ $DIR/x", code: 1, err: "not a directory"},
			{run: "cp $T-a:/dst/. $DIR/all"},
			{run: "cp $DIR/all/sub/. $T-a:/tmp"},
			{run: "exec $T-a cat /tmp/b", out: "B"},
			{run: "cp $T-a:/no/such $DIR/x", code: 1, err: "could not find the file"},
		}},
		{name: "cp gives files to the container's user", steps: []step{
			write("src/a", "A\n"),
			{run: "run -d --name $T-a -u 1000:1001 busybox sleep 60"},
			{run: "cp -a $DIR/src $T-a:/dst"},
			{run: "exec $T-a stat -c %u:%g /dst/a", out: "1000:1001"},
		}},
		{name: "names of images", steps: []step{
			{run: "tag busybox $T-i:one"}, {run: "tag busybox $T-i:two"},
			{run: "images --filter reference=docker.io/library/$T-i:o* --format {{.Tag}}", out: "one"},
			{run: "save -o $DIR/all.tar $T-i"},
			{run: "rmi $T-i:one $T-i:two"},
			{run: "load -q -i $DIR/all.tar", out: `(?s)Loaded image: $T-i:(one\nLoaded image: $T-i:two|two\nLoaded image: $T-i:one)`},
			{run: "tag busybox sha256:$T", code: 1, err: "refusing to create an ambiguous tag using digest algorithm as name"},
		}},
		{name: "commit expands variables", steps: []step{
			{run: "create --name $T-a -e A=1 busybox"},
			{run: "commit -c 'ENV B=$$A/$${NONE:-2}' $T-a $T-i"},
			{run: "run --rm $T-i printenv B", out: "1/2"},
		}},
		{name: "cp with a stopped container", steps: []step{
			write("one", "1\n"),
			{run: "create --name $T-a busybox cat /one"},
			{run: "cp $DIR/one $T-a:/one"},
			{run: "start -a $T-a", out: "1"},
			{run: "cp $T-a:/etc/passwd $DIR/passwd"},
			{host: func(dir string) error { _, err := os.ReadFile(filepath.Join(dir, "passwd")); return err }},
			{run: "cp $T-a:/etc/group -", out: `(?s).*root:x:0:.*`},
		}},
		{name: "cp follows links of a volume as the container does", steps: []step{
			write("new", "new"), write("data/old", "old"),
			{host: func(dir string) error { return os.Symlink("old", filepath.Join(dir, "data", "near")) }},
			{host: func(dir string) error { return os.Symlink("/vol/old", filepath.Join(dir, "data", "whole")) }},
			{run: "create --name $T-a -v $DIR/data:/vol busybox cat /vol/old"},
			{run: "cp $DIR/new $T-a:/vol/near"},
			{run: "start -a $T-a", out: "new"},
			write("new", "newer"),
			{run: "cp $DIR/new $T-a:/vol/whole"},
			{run: "start -a $T-a", out: "newer"},
			{run: "diff $T-a", out: "(A /vol)?"},
			{run: "cp $T-a:/vol $DIR/copy"},
			{host: func(dir string) error { _, err := os.ReadFile(filepath.Join(dir, "copy", "old")); return err }},
		}},
		{name: "cp follows no link out of the container", steps: []step{
			write("secret", "host"),
			{run: "run --name $T-a busybox ln -s $DIR/secret /leak"},
			{run: "cp -L $T-a:/leak $DIR/stolen", code: 1},
		}},
	}
}

func pruning() []scenario {
	return []scenario{
		{name: "container prune", steps: []step{
			{run: "run --name $T-a --label mine=$T busybox true"},
			{run: "container prune -f --filter label=mine=$T", out: `(?s)Deleted Containers:\n` + id + `\n\nTotal reclaimed space: .*`},
			{run: "ps -aq --filter name=$T-a", out: empty},
		}},
		{name: "volume prune", hull: "needs API 1.42", steps: []step{
			{run: "volume create --label mine=$T $T-v"},
			{run: "volume prune -af --filter label=mine=$T", out: `(?s)Deleted Volumes:\n$T-v\n\nTotal reclaimed space: .*`},
		}},
		{name: "image prune", steps: []step{
			{run: "create --name $T-a --label mine=$T busybox"},
			{run: "commit -c 'LABEL mine=$T' $T-a", save: "ID"},
			{run: "image prune -f --filter label=mine=$T", out: `(?s)Deleted Images:\n.*$ID.*Total reclaimed space: .*`},
		}},
	}
}
