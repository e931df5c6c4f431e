package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dockercmd "github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hull/api"
)

// Every flag of the quick verbs is docker's flag: same name, letter and kind. (The
// help texts are docker's own, hull-cli prints them.)
func TestFlagsAreDockers(t *testing.T) {
	dockerCLI, err := dockercmd.NewDockerCli()
	if err != nil {
		t.Fatal(err)
	}
	root := &cobra.Command{Use: "docker"}
	commands.AddCommands(root, dockerCLI)
	var exec execRequest
	for verb, table := range map[string][]flag{
		"run":  runFlags(&runRequest{}),
		"exec": execFlags(&exec, new([]string), new([]string)),
		"ps":   psFlags(&psRequest{}),
		"stop": flagsOf("stop"), "restart": flagsOf("restart"), "kill": flagsOf("kill"), "rm": flagsOf("rm"),
	} {
		cmd, _, err := root.Find([]string{verb})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range table {
			d := cmd.Flags().Lookup(f.name)
			if d == nil {
				t.Errorf("%s --%s: docker has no such flag", verb, f.name)
				continue
			}
			letter := ""
			if f.short != 0 {
				letter = string(f.short)
			}
			if d.Shorthand != letter || (d.NoOptDefVal != "") != f.isBool {
				t.Errorf("%s --%s: letter %q, bool %v; docker: letter %q, without value %q", verb, f.name, letter, f.isBool, d.Shorthand, d.NoOptDefVal)
			}
		}
		t.Logf("%s: %d of docker's %d flags are quick; the others: %s", verb, len(table), count(cmd.Flags()), others(cmd.Flags(), table))
	}
}

func flagsOf(verb string) []flag { _, table := simple(verb); return table }

func count(f *pflag.FlagSet) (n int) { f.VisitAll(func(*pflag.Flag) { n++ }); return n }

func others(f *pflag.FlagSet, table []flag) string {
	var names []string
	f.VisitAll(func(d *pflag.Flag) {
		if !slices.ContainsFunc(table, func(q flag) bool { return q.name == d.Name }) {
			names = append(names, d.Name)
		}
	})
	return strings.Join(names, " ")
}

// runArgs are command lines that the quick part takes; what it asks of the engine
// must be what docker/cli asks.
func runArgs(envFile string) [][]string {
	return [][]string{
		{"busybox", "true"},
		{"--rm", "busybox", "sh", "-c", "exit 3", "-d"},
		{"-d", "--name", "a b", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-p", "9000", "-p", "127.0.0.1::81", "-p080:0443", "nginx:1.25"},
		{"-i", "busybox", "cat"},
		{"--rm", "-i", "-eA=1", "-e", "B=", "--env=C=x=y", "-e", "HULL_TEST_SET", "-e", "HULL_TEST_UNSET", "--env-file", envFile, "x"},
		{"-t", "busybox"},
		{"-td", "busybox"},
		{"-di", "busybox"},
		{"-v", "/a:/b", "-v", "/a:/b", "-v", "./rel:/c:ro", "-v", ".:/d", "-v", "vol:/e:nocopy", "-v", "/anon", "-v", "../up:/f", "-v", "/w", "busybox"},
		{"--network", "none", "--hostname", "h1", "--domainname", "d", "busybox"},
		{"--net=host", "busybox"},
		{"--network", "container:abc", "busybox"},
		{"--network=mynet", "busybox"},
		{"-w", "/x", "-u", "1:2", "-h", "h", "-l", "a=b", "-l", "c", "--label=d=e=f", "busybox"},
		{"--entrypoint", "/bin/sh", "busybox", "-c", "x"},
		{"--entrypoint=", "busybox", "x"},
		{"--isolation", "vm", "--runtime=hull", "--privileged", "--read-only", "--init", "busybox"},
		{"--init=false", "--privileged=false", "--rm=true", "busybox"},
		{"--cap-add", "net_admin", "--cap-add=CAP_SYS_TIME", "--cap-add", "NET_ADMIN", "--cap-drop", "all", "busybox"},
		{"--security-opt", "no-new-privileges", "--security-opt=seccomp=unconfined", "--security-opt", "apparmor=unconfined", "busybox"},
		{"-m", "512m", "--memory-reservation=1g", "--shm-size", "64MB", "--cpus", "1.5", "-c", "512", "--cpuset-cpus", "0,1", "--cpuset-mems=0", "--pids-limit", "100", "busybox"},
		{"--cpus=2", "--oom-score-adj", "500", "--oom-kill-disable", "busybox"},
		{"--cpus=0.25", "--oom-score-adj=-5", "busybox"},
		{"-d", "--restart", "on-failure:3", "-e", "A=1", "-eA=2", "-eB", "-e", "B=2", "busybox"},
		{"-d", "--restart=always", "busybox"},
		{"-d", "--restart=", "busybox"},
		{"--rm", "--restart", "no", "busybox"},
		{"--stop-signal", "INT", "--stop-timeout", "7", "busybox"},
		{"--stop-timeout=0", "busybox"},
		{"--pull", "never", "-q", "busybox"},
		{"--platform", "linux/amd64", "busybox"},
		{"--platform=linux/arm64", "busybox"},
		{"--detach-keys", "ctrl-x,q", "busybox"},
		{"--add-host", "a:1.2.3.4", "--add-host=b=5.6.7.8", "--add-host", "c:host-gateway", "busybox"},
		{"--dns", "1.1.1.1", "--dns-option", "ndots:2", "--dns-opt=rotate", "busybox"},
		{"--tmpfs", "/tmp", "--tmpfs=/run:size=1m,mode=700", "busybox"},
		{"--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt=tag=a=b", "busybox"},
		{"--log-driver=none", "busybox"},
		{"--group-add", "27", "--group-add", "audio", "--cgroup-parent", "/x", "--volume-driver=local", "busybox"},
		{"--no-healthcheck", "busybox"},
		{"--cgroupns", "host", "--userns=host", "--uts", "host", "--pid=host", "--ipc", "shareable", "busybox"},
		{"-P", "--", "busybox", "--rm"},
		{"-itd", "--name=x", "busybox"},
		{"sha256:c3839dd800b9eb7603340509769c43e146a74c63dca3045a8e7dc8ee07e53966"},
		{"localhost:5000/a/b:c@sha256:c3839dd800b9eb7603340509769c43e146a74c63dca3045a8e7dc8ee07e53966"},
	}
}

func TestRunAsksWhatDockerAsks(t *testing.T) {
	t.Setenv("HULL_TEST_SET", "from the environment")
	t.Chdir(t.TempDir())
	envFile := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(envFile, []byte("\ufeff# c\n\n  F1=a b \nF2\nHULL_TEST_SET\r\nF3=#x\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range runArgs(envFile) {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			args := append([]string{"run"}, args...)
			mk := func() *engine {
				e := newEngine(t)
				e.stdout, e.stderr, e.exit, e.warnings = "out\n", "err\n", 3, []string{"careful"}
				e.echo = slices.Contains(args, "-i")
				if slices.Contains(args, "-t") {
					e.stderr = ""
				}
				return e
			}
			want := docker(t, mk(), "hello", args...)
			got, handed := quick(t, mk(), "hello", args...)
			if handed {
				t.Fatal("handed over")
			}
			compareRun(t, got, want)

			own := mk()
			own.own = true
			got, _ = quick(t, own, "hello", args...)
			compareAtOnce(t, got, want)
		})
	}
}

// compareAtOnce compares what the user sees, and what is asked of hull's engine where
// it is asked in its own way.
func compareAtOnce(t *testing.T, got, want outcome) {
	t.Helper()
	if got.code != want.code || got.stdout != want.stdout || got.err != want.err {
		t.Errorf("at once: code %d, stdout %q, stderr %q\ndocker: code %d, stdout %q, stderr %q",
			got.code, got.stdout, got.err, want.code, want.stdout, want.err)
	}
	runs := got.find(t, "POST", api.RunPath)
	if len(runs) == 0 { // detached: in the way of all engines
		compareRun(t, got, want)
		return
	}
	if n := len(got.find(t, "POST", "")); n != 2 {
		t.Errorf("%d requests: %v", n, got.requests)
	}
	asked, err := url.ParseQuery(runs[0].Query)
	if err != nil {
		t.Fatal(err)
	}
	if streams := got.find(t, "POST", api.RunStreamsPath); len(streams) != 1 || streams[0].Query != "key="+asked.Get("key") {
		t.Errorf("streams %v for key %s", streams, asked.Get("key"))
	}
	asked.Del("key")
	create, attach := want.find(t, "POST", "/containers/create")[0], want.find(t, "POST", "/attach")[0]
	query, err := url.ParseQuery(create.Query + "&" + attach.Query)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(query, asked); d != "" {
		t.Errorf("query (-docker's create and attach +quick):\n%s", d)
	}
	if d := cmp.Diff(decode(t, create.Body), decode(t, runs[0].Body), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, network.Port{})); d != "" {
		t.Errorf("body (-docker's create +quick):\n%s", d)
	}
}

func compareRun(t *testing.T, got, want outcome) {
	t.Helper()
	if got.code != want.code || got.stdout != want.stdout || got.err != want.err {
		t.Errorf("quick: code %d, stdout %q, stderr %q\ndocker: code %d, stdout %q, stderr %q",
			got.code, got.stdout, got.err, want.code, want.stdout, want.err)
	}
	a, b := got.find(t, "POST", "/containers/create"), want.find(t, "POST", "/containers/create")
	if len(a) != len(b) {
		t.Fatalf("%d create requests, docker makes %d", len(a), len(b))
	}
	for i := range a {
		if a[i].Query != b[i].Query {
			t.Errorf("create?%s, docker: %s", a[i].Query, b[i].Query)
		}
		if d := cmp.Diff(decode(t, b[i].Body), decode(t, a[i].Body), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, network.Port{})); d != "" {
			t.Errorf("create body (-docker +quick):\n%s", d)
		}
	}
	for _, suffix := range []string{"/attach", "/start", "/kill"} {
		if d := cmp.Diff(want.find(t, "POST", suffix), got.find(t, "POST", suffix)); d != "" {
			t.Errorf("%s (-docker +quick):\n%s", suffix, d)
		}
	}
}

func decode(t *testing.T, body string) container.CreateRequest {
	t.Helper()
	var r container.CreateRequest
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	slices.Sort(r.HostConfig.Binds) // docker/cli has these in the order of a map
	slices.Sort(r.Env)
	return r
}

// What the quick part cannot do exactly as docker does, it does not do.
func TestRunHandsOver(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"--help"}, {"--unknown", "x"}, {"-p", "1-2:3-4", "x"}, {"-p", "[::1]:1:2", "x"}, {"-p", "a", "x"}, {"-p", "99999", "x"}, {"-p", "1:2:3:4", "x"},
		{"-p", "published=1,target=2", "x"}, {"-v", "a:b:c:d", "x"}, {"-v", "c:/x:/y", "x"}, {"-v", "", "x"}, {"-v", "/a:", "x"}, {"--mount", "type=bind", "x"},
		{"--network", "name=a,alias=b", "x"}, {"--network", "a", "--network", "b", "x"}, {"--network", "", "x"}, {"--gpus", "all", "x"},
		{"-m", "lots", "x"}, {"--cpus", "1/2", "x"}, {"--cpus", "-1", "x"}, {"--restart", ":3", "x"}, {"--restart", "a:b", "x"}, {"--rm", "--restart", "always", "x"},
		{"-e", "", "x"}, {"-e", "=a", "x"}, {"--env-file", "/nonexistent", "x"}, {"-l", "=a", "x"}, {"-l", "a b=c", "x"}, {"--pull", "always", "x"}, {"--pull", "bad", "x"},
		{"--platform", "nonsense", "x"}, {"-a", "stdout", "x"}, {"--sig-proxy=false", "x"}, {"--detach-keys", "nonsense!", "x"}, {"-it", "x"}, {"--cidfile", "/dev/null", "x"},
		{"--security-opt", "seccomp=/a", "x"}, {"--security-opt", "systempaths=unconfined", "x"}, {"--dns", "::1", "x"}, {"--add-host", "x", "x"}, {"--rm=maybe", "x"},
		{"--userns", "bad", "x"}, {"--pid", "bad", "x"}, {"--log-driver", "none", "--log-opt", "a=b", "x"}, {"-x", "x"}, {"-d"}, {"-e"}, {"--name"}, {""},
		{"--health-cmd", "true", "x"}, {"--ulimit", "nofile=1", "x"}, {"--sysctl", "net.a=1", "x"}, {"--device", "/dev/null", "x"}, {"--link", "a", "x"}, {"--ip", "1.2.3.4", "x"},
	} {
		e := newEngine(t)
		if o, handed := quick(t, e, "", append([]string{"run"}, args...)...); !handed {
			t.Errorf("run %q: not handed over: %+v", args, o)
		}
		if r := e.requests(); len(r) > 0 {
			t.Errorf("run %q: asked the engine before it handed over: %v", args, r)
		}
	}
}

func TestRunHandsOverMissingImage(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.createStatus = 404
	cid := filepath.Join(t.TempDir(), "cid")
	if _, handed := quick(t, e, "", "run", "--cidfile", cid, "x"); !handed {
		t.Error("not handed over")
	}
	if !absent(cid) {
		t.Error("left a cidfile")
	}
	e = newEngine(t)
	e.own, e.createStatus = true, 404
	if o, handed := quick(t, e, "", "run", "x"); !handed {
		t.Errorf("at once: not handed over: %+v", o)
	}
}

// An engine of before api.RunPath, still running where hull was replaced.
func TestRunOnAnOlderEngine(t *testing.T) {
	t.Parallel()
	mk := func() *engine { e := newEngine(t); e.stdout, e.exit, e.older = "out\n", 3, true; return e }
	args := []string{"run", "--rm", "x"}
	got, handed := quick(t, mk(), "", args...)
	if handed || len(got.find(t, "POST", api.RunPath)) != 1 {
		t.Errorf("handed over %v, requests %v", handed, got.requests)
	}
	compareRun(t, got, docker(t, mk(), "", args...))
}

func TestRunWritesCIDFile(t *testing.T) {
	t.Parallel()
	cid := filepath.Join(t.TempDir(), "cid")
	quick(t, newEngine(t), "", "run", "--cidfile", cid, "x")
	if b, err := os.ReadFile(cid); err != nil || string(b) != "c0ffee" {
		t.Errorf("cidfile %q, %v", b, err)
	}
}

func TestRunExitCodes(t *testing.T) {
	t.Parallel()
	for message, code := range map[string]int{
		`exec: "x": executable file not found in $PATH`:          127,
		`exec: "/x": stat /x: no such file or directory`:         127,
		`exec: "/etc": permission denied`:                        126,
		`exec: "/etc": is a directory`:                           126,
		"driver failed programming external connectivity: taken": 125,
	} {
		for _, flags := range [][]string{{"run", "x"}, {"run", "--rm", "x"}, {"run", "-d", "x"}} {
			mk := func() *engine { e := newEngine(t); e.startError = message; return e }
			want := docker(t, mk(), "", flags...)
			got, handed := quick(t, mk(), "", flags...)
			if handed || want.code != code {
				t.Fatalf("%v: handed over %v, docker's code %d", flags, handed, want.code)
			}
			compareRun(t, got, want)

			own := mk()
			own.own = true
			got, _ = quick(t, own, "", flags...)
			compareAtOnce(t, got, want)
		}
	}
}

// When the engine dies during a run, its successor is asked for the exit before the
// container ends.
func TestRunOutlivesItsEngine(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.own, e.dies, e.stdout, e.exit = true, true, "out\n", 3
	o, _ := quick(t, e, "", "run", "--rm", "x")
	if o.code != 3 || o.stdout != "out\n" || o.err != "" {
		t.Errorf("code %d, stdout %q, stderr %q", o.code, o.stdout, o.err)
	}
	if w := o.find(t, "POST", "/wait"); len(w) != 1 || w[0].Query != "condition=removed" {
		t.Errorf("asked to wait: %v", w)
	}
}

func TestExecAsksWhatDockerAsks(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"c0ffee", "true"}, {"-i", "c0ffee", "cat"}, {"-d", "c0ffee", "a", "-b"}, {"-t", "c0ffee", "x"}, {"-di", "c0ffee", "x"},
		{"-u", "1:2", "--privileged", "-w", "/x", "-eA=b", "-e", "HULL_TEST_UNSET", "c0ffee", "x"},
		{"--detach-keys=ctrl-a", "c0ffee", "x"}, {"nosuch", "x"},
	} {
		mk := func() *engine {
			e := newEngine(t)
			e.stdout, e.exit, e.echo = "out\n", 5, slices.Contains(args, "-i")
			return e
		}
		args := append([]string{"exec"}, args...)
		want := docker(t, mk(), "hello", args...)
		got, handed := quick(t, mk(), "hello", args...)
		if handed {
			t.Errorf("%v: handed over", args)
			continue
		}
		if got.code != want.code || got.stdout != want.stdout || got.err != want.err {
			t.Errorf("%v: quick: code %d, stdout %q, stderr %q\ndocker: code %d, stdout %q, stderr %q",
				args, got.code, got.stdout, got.err, want.code, want.stdout, want.err)
		}
		for _, suffix := range []string{"/exec", "/start"} {
			a, b := got.find(t, "POST", suffix), want.find(t, "POST", suffix)
			if slices.Contains(args, "nosuch") {
				continue // docker looks for the container first
			}
			if len(a) != 1 || len(b) != 1 {
				t.Errorf("%v: %d %s requests, docker %d", args, len(a), suffix, len(b))
				continue
			}
			if d := cmp.Diff(object(t, b[0].Body), object(t, a[0].Body)); d != "" {
				t.Errorf("%v: %s (-docker +quick):\n%s", args, suffix, d)
			}
		}
	}
}

// hull's own engine makes one step of making and starting an exec, and there is no
// difference to be seen.
func TestExecAtOnce(t *testing.T) {
	for _, args := range [][]string{{"c0ffee", "true"}, {"-i", "c0ffee", "cat"}, {"-t", "c0ffee", "x"}, {"nosuch", "x"}} {
		run := func(own bool) outcome {
			e := newEngine(t)
			e.own, e.stdout, e.stderr, e.exit, e.echo = own, "out\n", "err\n", 5, slices.Contains(args, "-i")
			o, handed := quick(t, e, "hello", append([]string{"exec"}, args...)...)
			if handed {
				t.Fatalf("%v: handed over", args)
			}
			return o
		}
		two, one := run(false), run(true)
		if one.code != two.code || one.stdout != two.stdout || one.err != two.err {
			t.Errorf("%v: in one step %d %q %q, in two %d %q %q", args, one.code, one.stdout, one.err, two.code, two.stdout, two.err)
		}
		if n := len(one.find(t, "POST", "/start")); n != 0 {
			t.Errorf("%v: %d requests to start", args, n)
		}
		if len(one.requests) > 2 {
			t.Errorf("%v: requests %v", args, one.requests)
		}
	}
}

// object decodes an exec request into what the engine sees.
func object(t *testing.T, body string) any {
	t.Helper()
	var r struct {
		container.ExecCreateRequest
		Detach bool
	}
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if len(r.Env) == 0 {
		r.Env = nil
	}
	return r
}

func TestExecHandsOver(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"c"}, {"--help"}, {"-it", "c", "x"}, {"a/b", "x"}, {"--bad", "c", "x"}, {"-e", "", "c", "x"}, {"--env-file=/nonexistent", "c", "x"}, {"--detach-keys=!!", "c", "x"}} {
		if o, handed := quick(t, newEngine(t), "", append([]string{"exec"}, args...)...); !handed {
			t.Errorf("exec %q: not handed over: %+v", args, o)
		}
	}
}

func TestPsAsksAndPrintsWhatDockerDoes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	list := []container.Summary{
		{ID: strings.Repeat("ab", 32), Names: []string{"/other/link", "/web"}, Image: "nginx:1.25", ImageID: "sha256:" + strings.Repeat("12", 32), Command: "/docker-entrypoint.sh nginx -g 'daemon off;'", Created: now.Add(-70 * time.Minute).Unix(), Status: "Up 2 hours (healthy)", Ports: testPorts("0.0.0.0/80/80/tcp", "::/80/80/tcp", "0.0.0.0/443/8443/tcp", "/9000/0/tcp", "/9001/0/tcp", "/9003/0/tcp", "/9000/0/udp", "0.0.0.0/81/81/tcp", "127.0.0.1/90/90/tcp")},
		{ID: strings.Repeat("cd", 32), Names: []string{"/b"}, Image: "sha256:" + strings.Repeat("34", 32), ImageID: "sha256:" + strings.Repeat("34", 32), Command: "sh", Created: now.Add(-75 * time.Second).Unix(), Status: "Exited (0) 1 second ago"},
		{ID: "short", Names: nil, Image: "", Command: strings.Repeat("x", 20), Created: 0, Status: "Created"},
		{ID: strings.Repeat("ef", 32), Names: []string{"/c"}, Image: "localhost:5000/a/b", Command: strings.Repeat("x", 21) + `"`, Created: now.Add(-48 * time.Hour).Unix(), Status: "Up"},
	}
	for _, args := range [][]string{
		{"ps"}, {"ps", "-a"}, {"ps", "-aq"}, {"ps", "--no-trunc"}, {"ps", "-q", "--no-trunc"}, {"ps", "-l"}, {"ps", "-n", "3"}, {"ps", "-n=0"}, {"ps", "--last=2", "-l"},
		{"container", "ls", "--all"}, {"container", "ps"}, {"container", "list"}, {"ps", "-f", "name=web", "--filter", "status=running", "-f", "Name=b"}, {"ps", "--filter", "label=a=b"},
	} {
		mk := func() *engine { e := newEngine(t); e.containers = list; return e }
		want := docker(t, mk(), "", args...)
		got, handed := quick(t, mk(), "", args...)
		if handed {
			t.Errorf("%v: handed over", args)
			continue
		}
		if d := cmp.Diff(want.stdout, got.stdout); d != "" {
			t.Errorf("%v (-docker +quick):\n%s", args, d)
		}
		if d := cmp.Diff(want.find(t, "GET", "/json"), got.find(t, "GET", "/json")); d != "" {
			t.Errorf("%v (-docker +quick):\n%s", args, d)
		}
	}
}

func TestPsHandsOver(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"docker.io/library/redis", "library/redis:7", "redis@sha256:" + strings.Repeat("a", 64), "index.docker.io/x/y", "wíde"} {
		e := newEngine(t)
		e.containers = []container.Summary{{ID: "1", Names: []string{"/a"}, Image: image, ImageID: "x"}}
		if o, handed := quick(t, e, "", "ps"); !handed {
			t.Errorf("image %s: not handed over: %q", image, o.stdout)
		}
	}
	for _, args := range [][]string{{"-s"}, {"--format", "x"}, {"x"}, {"-f", "bad"}, {"--help"}, {"-n", "x"}} {
		if _, handed := quick(t, newEngine(t), "", append([]string{"ps"}, args...)...); !handed {
			t.Errorf("ps %q: not handed over", args)
		}
	}
}

func TestSimpleVerbsAskAndPrintWhatDockerDoes(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"stop a b c", "stop -t 3 --signal INT a", "stop a -t=0", "stop noa b noc", "container stop a", "restart a b", "restart -s TERM -t 1 a nob",
		"kill a", "kill --signal=HUP a b", "kill noa", "pause a b", "unpause a noc", "rm a b", "rm -fv a noa", "rm --force=false -v noa b", "rm -l a", "start a nob c noe", "start a",
	} {
		args := strings.Fields(args)
		want := docker(t, newEngine(t), "", args...)
		got, handed := quick(t, newEngine(t), "", args...)
		if handed {
			t.Errorf("%v: handed over", args)
			continue
		}
		if got.code != want.code || got.stdout != want.stdout || got.err != want.err {
			t.Errorf("%v: quick: code %d, stdout %q, stderr %q\ndocker: code %d, stdout %q, stderr %q",
				args, got.code, got.stdout, got.err, want.code, want.stdout, want.err)
		}
		sorted := cmpopts.SortSlices(func(a, b request) bool { return a.Path < b.Path })
		if d := cmp.Diff(want.find(t, want.method(), ""), got.find(t, want.method(), ""), sorted); d != "" {
			t.Errorf("%v (-docker +quick):\n%s", args, d)
		}
	}
	for _, args := range []string{"stop", "stop --bad a", "stop a/b", "stop -t x a", "start -a x", "start -i x", "rm", "kill", "stop --time 3 a"} {
		if _, handed := quick(t, newEngine(t), "", strings.Fields(args)...); !handed {
			t.Errorf("%s: not handed over", args)
		}
	}
}

// method is that of the verb's requests.
func (o outcome) method() string { return o.requests[len(o.requests)-1].Method }

func FuzzPorts(f *testing.F) {
	f.Add([]byte{0, 80, 80, 0, 1, 80, 81, 1, 2, 82, 82, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		ips := []string{"", "0.0.0.0", "::", "127.0.0.1"}
		protos := []string{"tcp", "udp", "sctp"}
		var specs []string
		for ; len(b) >= 4; b = b[4:] {
			specs = append(specs, strings.Join([]string{ips[int(b[0])%len(ips)], itoa(b[1] % 8), itoa(b[2] % 8), protos[int(b[3])%len(protos)]}, "/"))
		}
		theirs := testPorts(specs...)
		raw, err := json.Marshal(theirs)
		if err != nil {
			t.Fatal(err)
		}
		var ours []portSummary
		if err := json.Unmarshal(raw, &ours); err != nil {
			t.Fatal(err)
		}
		// Equal ports may come in any order in docker's; then there is no one answer.
		for i := range ours {
			if slices.Contains(ours[i+1:], ours[i]) {
				return
			}
		}
		if a, b := ports(ours), formatter.DisplayablePorts(theirs); a != b {
			t.Errorf("%v:\nquick:  %s\ndocker: %s", specs, a, b)
		}
	})
}

func TestTableIsStableAsText(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if !table(&b, []summary{{ID: "0123456789abcdef", Names: []string{"/n"}, Image: "i", Command: "c", Created: 100, Status: "Up"}}, false, time.Unix(160, 0)) {
		t.Fatal("handed over")
	}
	want := "CONTAINER ID   IMAGE     COMMAND   CREATED              STATUS    PORTS     NAMES\n" +
		"0123456789ab   i         \"c\"       About a minute ago   Up                  n\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
