package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// runDir is the part of the store on tmpfs. Files are named KIND/ID.PART.
type runDir string

// openRunDir empties dir when another boot wrote it.
func openRunDir(dir, bootID string) (runDir, error) {
	if bootID == "" {
		b, err := os.ReadFile(bootIDFile)
		if err != nil {
			return "", fmt.Errorf("read boot id: %w", err)
		}
		bootID = strings.TrimSpace(string(b))
	}
	boot := filepath.Join(dir, "boot")
	old, err := os.ReadFile(boot)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read run directory: %w", err)
	}
	r := runDir(dir)
	if string(old) == bootID {
		return r, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("clear run directory of an earlier boot: %w", err)
	}
	for _, kind := range []string{kindContainer, kindPod} {
		if err := os.MkdirAll(filepath.Join(dir, kind), 0o700); err != nil {
			return "", fmt.Errorf("make run directory: %w", err)
		}
	}
	// Last, so that a directory that has the file has everything.
	return r, replaceFile(boot, []byte(bootID))
}

func (r runDir) path(kind, id, part string) string {
	return string(r) + "/" + kind + "/" + id + "." + part
}

// put replaces a file. Writers of one id are serialised by the caller.
func (r runDir) put(kind, id, part string, b []byte) error {
	return replaceFile(r.path(kind, id, part), b)
}

func (r runDir) remove(kind, id, part string) error {
	if err := syscall.Unlink(r.path(kind, id, part)); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("remove run file: %w", err)
	}
	return nil
}

// each calls fn for every file of a kind, and removes half-written ones.
func (r runDir) each(kind string, fn func(id, part string, b []byte)) error {
	dir := filepath.Join(string(r), kind)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read run directory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, part, ok := strings.Cut(e.Name(), ".")
		if !ok || strings.HasSuffix(part, tmpSuffix) {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove half-written record: %w", err)
			}
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read record: %w", err)
		}
		fn(id, part, b)
	}
	return nil
}

const tmpSuffix = "tmp"

// replaceFile writes path by rename, without fsync. A reader sees the old
// content or the new one.
func replaceFile(path string, b []byte) (err error) {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := syscall.Rename(tmp, path); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}
