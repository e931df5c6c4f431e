package store

import (
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/require"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestFullDiskIsSurvived fills the file system below the store.
func TestFullDiskIsSurvived(t *testing.T) {
	t.Parallel()
	require.Root(t)
	runtime.LockOSThread() // never unlocked: the thread and its mounts end with the test
	must(t, syscall.Unshare(syscall.CLONE_FS|syscall.CLONE_NEWNS))
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"))
	s, err := Open(Config{Root: filepath.Join(dir, "root"), RunDir: filepath.Join(t.TempDir(), "run")})
	must(t, err)
	must(t, s.PutContainer(testContainer(0), true))

	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	must(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	must(t, f.Close())
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	n := 0 // of those that fit into what the database has
	for err = nil; err == nil && n < 10000; {
		n++
		c := testContainer(n)
		c.Spec.Front = fmt.Appendf(nil, "%q", strings.Repeat("x", 1000))
		err = s.PutContainer(c, true)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal("want ENOSPC, got", err)
	}
	if got := len(s.Containers()); got != n {
		t.Errorf("%d records, %d were accepted", got, n)
	}
	must(t, s.UpdateStatus(testID(0), func(st *hull.Status) error { st.Phase = hull.Running; return nil }))
	must(t, os.Remove(filler))
	must(t, s.PutContainer(testContainer(n), true))
	must(t, s.Close())

	s, err = Open(Config{Root: filepath.Join(dir, "root"), RunDir: filepath.Join(t.TempDir(), "run2"), BootID: "next"})
	must(t, err)
	if c, err := s.Container(testID(0)); err != nil || c.Status.Phase != hull.Running || len(s.Containers()) != n+1 {
		t.Error(c.Status, err, len(s.Containers()), "of", n+1)
	}
	must(t, s.Close())
	must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) // a process that another test starts may hold it for a moment
}
