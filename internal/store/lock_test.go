package store

import (
	"syscall"
	"testing"
)

// TestUnlockedForAll: a directory that was given back is free though somebody, as a child
// of this process that has not executed its program yet, has the lock's file open.
func TestUnlockedForAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := lockDir(dir)
	must(t, err)
	child, err := syscall.Dup(int(f.Fd()))
	must(t, err)
	defer syscall.Close(child)
	if again, err := lockDir(dir); err == nil {
		again.Close()
		t.Fatal("two have it")
	}
	must(t, unlockDir(f))
	f, err = lockDir(dir)
	must(t, err)
	must(t, unlockDir(f))
}
