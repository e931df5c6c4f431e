package vm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/drivertest/ground"
	"hull/internal/driver/vm"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/monitor"
	backend "hull/internal/monitor/vm"
	"hull/internal/require"
	"hull/internal/vmm"
)

// TestMain makes this binary a hull-monitor when it is started as one.
func TestMain(m *testing.M) {
	if os.Args[0] == "hull-monitor" {
		os.Exit(monitor.Main(map[string]monitor.NewBackend{backend.Name: backend.New}, map[string]monitor.Ahead{backend.Name: backend.Ahead}))
	}
	os.Exit(m.Run())
}

// shared is what all worlds of one test have in common, because it takes long to
// make: disks, the guest program, and the driver's directory with the templates.
type shared struct{ kernel, guest, root, disk, state string }

func prepare(t *testing.T) shared {
	t.Helper()
	s := shared{kernel: require.VM(t)}
	dir := t.TempDir()
	s.guest, s.root, s.disk, s.state = filepath.Join(dir, "hull-guest"), filepath.Join(dir, "root.erofs"), filepath.Join(dir, "empty.ext4"), filepath.Join(dir, "vm")
	tool := func(argv ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", argv, err, out)
		}
	}
	tool("go", "build", "-o", s.guest, "hull/cmd/hull-guest")
	tree := filepath.Join(dir, "tree")
	ground.Busybox(t, tree)
	tool("mkfs.erofs", "--quiet", s.root, tree)
	for _, f := range []string{s.root, s.disk} {
		if f == s.disk {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Truncate(f, vmm.DiskSize); err != nil {
			t.Fatal(err)
		}
	}
	tool("/usr/sbin/mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16", "-i", "65536", s.disk)
	return s
}

// world is a machine with one engine's parent cgroup.
type world struct {
	shared
	*ground.Ground

	t     testing.TB
	netns string
	disks int
}

func newWorld(t testing.TB, s shared) *world {
	t.Helper()
	w := &world{shared: s, Ground: ground.New(t, "/hulltest-vm-"), t: t}
	w.Patience, w.Tries = time.Minute, 50_000 // emulated processors on busy ones
	w.CreateParent()
	w.netns = filepath.Join(w.Dir, "netns")
	if err := linux.NewNetNS(w.netns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := linux.Unpin(w.netns); err != nil {
			t.Error(err)
		}
	})
	w.Begin()
	return w
}

func (w *world) Driver() driver.Driver {
	d, err := vm.New(vm.Config{
		MonitorPath: "/proc/self/exe", GuestPath: w.guest, Kernels: []string{w.kernel}, Dir: w.state, CgroupParent: w.Parent, RunDir: w.Dir, Log: w.Logger(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Closing(d)
	return d
}

func (w *world) NetNS() string { return w.netns }

func (w *world) Rootfs() hull.Rootfs {
	w.disks++
	disk := filepath.Join(w.Dir, fmt.Sprintf("disk%d", w.disks))
	if out, err := exec.Command("cp", "--sparse=always", w.disk, disk).CombinedOutput(); err != nil {
		w.t.Fatalf("copy disk: %v: %s", err, out)
	}
	return hull.Rootfs{Kind: hull.RootfsBlock, Block: w.root, Disk: disk}
}

// TestContractVMRoot: the contract holds for machines.
func TestContractVMRoot(t *testing.T) {
	if os.Getenv("HULL_VM") == "" {
		t.Skip("boots some forty machines: make test-vm runs it")
	}
	s := prepare(t)
	if err := os.Mkdir(s.state, 0o700); err != nil {
		t.Fatal(err)
	}
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, s) })
}
