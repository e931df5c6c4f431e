package logfile

import (
	"encoding/json"
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

// TestFullFileSystem fills the file system below a log, in the middle of a
// record and in the middle of a rotation, and makes room again.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	require.Root(t)
	runtime.LockOSThread() // never unlocked: the thread and its mounts end with the test
	must(t, syscall.Unshare(syscall.CLONE_FS|syscall.CLONE_NEWNS))
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	for _, files := range []int{1, 3} {
		dir := t.TempDir()
		must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
		path := filepath.Join(dir, "log")
		w, err := Open(hull.LogTarget{Driver: JSONFile, Path: path, MaxSize: 100000, MaxFiles: files})
		must(t, err)
		filler := filepath.Join(dir, "filler")
		must(t, os.WriteFile(filler, make([]byte, 128<<10), 0o600))
		n, failures := 0, 0
		write := func(until func() bool) {
			for i := 0; i < 5000 && !until(); i++ {
				if err := w.Write(Stdout, fmt.Appendf(nil, "line %d %s\n", n, strings.Repeat("x", 1000)), now); err != nil {
					if !errors.Is(err, syscall.ENOSPC) {
						t.Fatal(err)
					}
					failures++
				}
				n++
			}
		}
		write(func() bool { return n == 400 })
		if files > 1 && failures != 1 {
			t.Errorf("%d files: told of %d losses, want one", files, failures)
		}
		must(t, os.Remove(filler))
		write(func() bool { return n == 450 })
		must(t, w.Close())
		var all string
		for i := files - 1; i >= 0; i-- {
			if b, err := os.ReadFile(Old(path, i)); err == nil {
				all += string(b)
			}
		}
		last, notices := "", 0
		for rec := range strings.Lines(all) {
			var r struct{ Log string }
			if err := json.Unmarshal([]byte(rec), &r); err != nil {
				t.Fatalf("torn record %q: %v", rec, err)
			}
			if strings.HasPrefix(r.Log, "hull: about ") {
				notices++
			}
			last = r.Log
		}
		if !strings.HasPrefix(last, "line 449 ") || notices != failures {
			t.Errorf("%d files: last line %.20q, %d notices of %d losses", files, last, notices, failures)
		}
		must(t, syscall.Unmount(dir, 0))
	}
}
