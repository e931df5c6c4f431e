package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var tempSeq atomic.Uint64 //nolint:gochecknoglobals // makes names of temporary files unique in this process

// WriteFile replaces path by a file with data, so that a reader sees either the
// old or the new content. sync waits for the disk, file and directory; without
// it a power cut (not a crash of the process) may lose the new content.
func WriteFile(path string, data []byte, perm os.FileMode, sync bool) (err error) {
	tmp := fmt.Sprintf("%s.tmp%d.%d", path, os.Getpid(), tempSeq.Add(1))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(tmp, path); err != nil {
		return err
	}
	if sync {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// SyncDir waits until a directory's entries are on disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ReadAll reads at most limit bytes of f; more is EFBIG.
func ReadAll(f io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("larger than %d bytes: %w", limit, unix.EFBIG)
	}
	return b.Bytes(), nil
}

// BootID names this boot of the kernel: facts written under another one are
// about processes that are gone.
func BootID() (string, error) { return bootID() }

//nolint:gochecknoglobals // constant, read when first used
var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
})

// OOMKilled says whether a cgroup's memory.events, or memory.oom_control of version 1,
// counts a process that the kernel's out-of-memory killer has ended (cgroups(7)).
func OOMKilled(events []byte) bool {
	for line := range strings.SplitSeq(string(events), "\n") {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}
