package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hull/internal/linux"
)

// runDir is the part of the store on tmpfs. Files are named KIND/ID.PART; PART is
// record or status. See slots.go.
type runDir string

// openRunDir empties dir when another boot wrote it.
func openRunDir(dir, bootID string) (runDir, error) {
	if bootID == "" {
		var err error
		if bootID, err = linux.BootID(); err != nil {
			return "", fmt.Errorf("read boot id: %w", err)
		}
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

// slots is a file's place.
func (r runDir) slots(kind, id, part string) slotFile {
	return slotFile{path: string(r) + "/" + kind + "/" + id + "." + part}
}

func (r runDir) remove(kind, id, part string) error {
	if err := syscall.Unlink(r.slots(kind, id, part).path); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("remove run file: %w", err)
	}
	return nil
}

// each calls fn for every file of a kind.
func (r runDir) each(kind string, fn func(id, part string) error) error {
	entries, err := os.ReadDir(filepath.Join(string(r), kind))
	if err != nil {
		return fmt.Errorf("read run directory: %w", err)
	}
	for _, e := range entries {
		if id, part, ok := strings.Cut(e.Name(), "."); ok {
			if err := fn(id, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaceFile writes path by rename, without fsync. A reader sees the old
// content or the new one.
func replaceFile(path string, b []byte) (err error) {
	tmp := path + ".tmp"
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
