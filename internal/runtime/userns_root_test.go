package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux"
	"hull/internal/require"
)

const (
	testUIDs = 0x70100000
	testGIDs = 0x70200000
)

// userSpec is testSpec with a user namespace: "new" = made with the container,
// "joined" = the one that owns the network namespace.
func userSpec(t testing.TB, kind string, args ...string) *specs.Spec {
	t.Helper()
	require.Root(t)
	s := testSpec(args...)
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: testUIDs, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: testGIDs, Size: 65536}}
	user := specs.LinuxNamespace{Type: specs.UserNamespace}
	if kind == "joined" {
		path := filepath.Join(t.TempDir(), "net")
		must(t, linux.NewOwnedNetNS(path, idMap(s.Linux.UIDMappings), idMap(s.Linux.GIDMappings)))
		t.Cleanup(func() { must(t, linux.Unpin(path)) })
		user.Path = path
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = path
			}
		}
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, user)
	return s
}

func eachUserNS(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{"new", "joined"} {
		t.Run(kind, func(t *testing.T) {
			require.Root(t)
			f(t, kind)
		})
	}
}

// The container sees ids from 0, the host those of the range, and the disk the
// container's.
func TestUserNSIDs(t *testing.T) {
	require.Root(t)
	noLeaks(t)
	eachUserNS(t, func(t *testing.T, kind string) {
		root := overlayOf(t, rootfs(t))
		bind := t.TempDir()
		must(t, os.Chown(bind, 1000, 1000))
		s := userSpec(t, kind, "sh", "-ec", `
			id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map
			echo x >/made; test -O /made
			stat -c '%n %u:%g' /bin/busybox /proc/1 /dev /dev/pts /dev/pts/ptmx /dev/null /dev/shm /dev/mqueue /made /bind /t /sys/fs
			echo y >/bind/f; stat -c %u:%g /bind/f
			hostname; echo ok >/dev/null
			test -w /dev/stdout && echo writable >/dev/stdout`)
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/bind", Type: "bind", Source: bind, Options: []string{"rbind", "ridmap"}},
			specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"uid=33", "gid=34"}})
		r := run(t, s, root, Cgroup{})
		var lines []string
		for l := range strings.SplitSeq(r.out, "\n") {
			lines = append(lines, strings.Join(strings.Fields(l), " "))
		}
		got := strings.Join(lines, "\n")
		if got != strings.TrimSpace(`
0
0
0 1880096768 65536
0 1881145344 65536
/bin/busybox 0:0
/proc/1 0:0
/dev 0:0
/dev/pts 0:0
/dev/pts/ptmx 0:0
/dev/null 0:0
/dev/shm 0:0
/dev/mqueue 0:0
/made 0:0
/bind 1000:1000
/t 33:34
/sys/fs 65534:65534
0:0
box
writable`) {
			t.Errorf("output:\n%s", got)
		}
		for _, f := range []string{filepath.Join(root.Upper, "made"), filepath.Join(bind, "f")} {
			var st syscall.Stat_t
			must(t, syscall.Lstat(f, &st))
			if st.Uid != 0 || st.Gid != 0 {
				t.Errorf("%s belongs to %d:%d on disk", f, st.Uid, st.Gid)
			}
		}
	})
}

// An exec has the container's ids, too, also in one that was attached to.
func TestUserNSExec(t *testing.T) {
	require.Root(t)
	noLeaks(t)
	eachUserNS(t, func(t *testing.T, kind string) {
		s := userSpec(t, kind, "sleep", "60")
		c := start(t, s, Options{Rootfs: overlayOf(t, rootfs(t))})
		p := &specs.Process{Args: []string{"sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; echo x >/tmp/f; stat -c %u /tmp/f"}, Cwd: "/"}
		a, err := Attach(t.Context(), c.Init().Pid(), c.plan.Namespaces())
		must(t, err)
		defer func() { must(t, a.Destroy()) }()
		for who, c := range map[string]*Container{"maker": c, "attached": a} {
			r, err := execIn(t, c, s, p, false)
			must(t, err)
			l := strings.Fields(r.out)
			if len(l) != 4 || l[0] != "0" || l[1] != l[2] || l[3] != "0" {
				t.Errorf("%s: output %q", who, l)
			}
		}
		// Nothing of the exec is the container's before it runs there.
		u := &specs.Process{Args: []string{"id", "-u"}, Cwd: "/", User: specs.User{UID: 1000, GID: 1000}}
		r, err := execIn(t, c, s, u, false)
		must(t, err)
		if r.out != "1000" {
			t.Errorf("exec as user 1000: %q", r.out)
		}
	})
}

// What the kernel gives root of a user namespace, and what it does not.
func TestUserNSRights(t *testing.T) {
	require.Root(t)
	noLeaks(t)
	eachUserNS(t, func(t *testing.T, kind string) {
		s := userSpec(t, kind, "sh", "-c", `
			mount -t tmpfs x /tmp 2>/dev/null && echo mounted
			mknod /dev/mem2 c 1 1 2>/dev/null && echo made a node
			hostname other 2>/dev/null && echo renamed
			cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward; ulimit -n
			exit 3`)
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "12345678", "net.ipv4.ip_forward": "1"}
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 444}}
		r := run(t, s, overlayOf(t, rootfs(t)), Cgroup{})
		if r.out != "12345678\n1\n333" || exitCode(r.status) != 3 {
			t.Errorf("output %q, exit code %d", r.out, exitCode(r.status))
		}
		// As in Docker, a capability that is added counts, over what is the container's.
		all := []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD"}
		s = userSpec(t, kind, "sh", "-c", `mount -t tmpfs x /tmp && hostname other && hostname; ip link set lo down 2>/dev/null; mknod /n c 1 3 || echo no node`)
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		if r := run(t, s, overlayOf(t, rootfs(t)), Cgroup{}); !strings.HasPrefix(r.out, "other\n") || !strings.HasSuffix(r.out, "no node") {
			t.Errorf("with CAP_SYS_ADMIN: %q", r.out)
		}
	})
}

// The sources of a mount of a whole tree are mapped where they can be.
func TestUserNSBindTree(t *testing.T) {
	require.Root(t)
	eachUserNS(t, func(t *testing.T, kind string) {
		s := userSpec(t, kind, "sh", "-c", "stat -c %u /h/etc /h/proc/1 /h/proc; ls /h/sys | grep -c .")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/h", Type: "bind", Source: "/", Options: []string{"rbind", "ro", "ridmap"}})
		r := run(t, s, overlayOf(t, rootfs(t)), Cgroup{})
		if l := strings.Fields(r.out); len(l) != 4 || l[0] != "0" || l[1] != "65534" || l[2] != "65534" || l[3] == "0" {
			t.Errorf("output %q", r.out)
		}
	})
}

// A terminal belongs to the container's user, and a main process with an init
// before it is made by a copy of this process.
func TestUserNSTTYAndInit(t *testing.T) {
	require.Root(t)
	eachUserNS(t, func(t *testing.T, kind string) {
		s := userSpec(t, kind, "sh", "-c", "stat -c %u:%g /dev/console $(readlink /proc/self/fd/0); id -u; cat /proc/1/comm")
		s.Process.Terminal = true
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		c, err := Create(t.Context(), plan(t, s, Options{Rootfs: overlayOf(t, rootfs(t)), Init: true}), Stdio{}, Cgroup{})
		must(t, err)
		defer func() { must(t, c.Destroy()) }()
		must(t, c.Start(t.Context()))
		var out []byte
		buf := make([]byte, 4096)
		for {
			n, err := c.Init().Console().Read(buf)
			out = append(out, buf[:n]...)
			if err != nil {
				break
			}
		}
		got := strings.Join(strings.Fields(string(out)), " ")
		if got != "1000:5 1000:5 1000 docker-init" {
			t.Errorf("output %q", got)
		}
	})
}

// A mapping of its own for one bind mount, as in the OCI specification.
func TestMountOwnIDs(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	must(t, os.Chown(dir, 7, 7))
	s := testSpec("stat", "-c", "%u:%g", "/b")
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 100}}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/b", Type: "bind", Source: dir, Options: []string{"bind"}, UIDMappings: m, GIDMappings: m})
	if r := run(t, s, overlayOf(t, rootfs(t)), Cgroup{}); r.out != "5007:5007" {
		t.Errorf("output %q", r.out)
	}
}
