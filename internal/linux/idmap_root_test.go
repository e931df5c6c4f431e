package linux

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/require"
)

func ids(base uint32) []IDMap { return []IDMap{{Container: 0, Host: base, Size: 65536}} }

// A network namespace of a user namespace of its own, found again by its path.
func TestOwnedNetNS(t *testing.T) {
	require.Root(t)
	path := filepath.Join(t.TempDir(), "ns")
	start := time.Now()
	if err := NewOwnedNetNS(path, ids(1<<20), ids(1<<20)); err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %v", time.Since(start))
	t.Cleanup(func() {
		if err := Unpin(path); err != nil {
			t.Error(err)
		}
	})
	owner, err := OpenUserNS(path)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	second := path + "2"
	if err := NewNetNSIn(second, owner); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unpin(second); err != nil {
			t.Error(err)
		}
	})
	other, err := OpenUserNS(second)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	a, err := owner.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := other.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(a, b) {
		t.Error("the second network namespace belongs to another user namespace")
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a child is left: %v", err)
	}
}

// What is 0 on disk is the first id of the range in the clone, and the reverse.
func TestCloneIDMapped(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "f"), 7, 8); err != nil {
		t.Fatal(err)
	}
	ns, err := NewUserNS(ids(1<<20), ids(1<<21))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	m, err := CloneIDMapped(dir, ns)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(FD(m), "f", &st, 0); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 1<<20+7 || st.Gid != 1<<21+8 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	if _, err := CloneIDMapped("/proc/self", ns); err == nil {
		t.Error("procfs can be idmapped now: the fallback for it can go")
	}
}
