package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"hull/internal/linux"
)

// diskLimit reads --storage-opt: size, in bytes; 0 = none.
func diskLimit(opt map[string]string) (size int64, err error) {
	for k, v := range opt {
		if k != "size" {
			return 0, fmt.Errorf("unknown storage option %q; there is size: %w", k, errdefs.ErrInvalidArgument)
		}
		if size, err = units.RAMInBytes(v); err != nil || size <= 0 {
			return 0, fmt.Errorf("storage option size: %q is not a size: %w", v, errdefs.ErrInvalidArgument)
		}
	}
	return size, nil
}

// limit bounds what is made below a new writable layer's directory, which is a
// quota project: upper and work are of the same one, so that renames between them
// stay renames.
func (s *boxStore) limit(dir string, size int64) error {
	if size == 0 {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	s.quotaMu.Lock() // one caller at a time finds a free project
	defer s.quotaMu.Unlock()
	err = linux.LimitTree(f, 0, size)
	if errors.Is(err, linux.ErrNoQuota) {
		return fmt.Errorf("storage option size needs project quota on %s: XFS or ext4 mounted with prjquota; without it bound what the container writes by a volume with a size (volume create --opt size=...): %w",
			filepath.Dir(dir), errdefs.ErrNotImplemented)
	}
	return err
}

// limitOf gives back the quota project of a writable layer after its removal.
func (s *boxStore) limitOf(dir string) (free func() error) {
	none := func() error { return nil }
	if !s.quotas() {
		return none
	}
	f, err := os.Open(dir)
	if err != nil {
		return none
	}
	defer f.Close()
	own, err := linux.ProjectOf(f)
	if err != nil || own == 0 {
		return none
	}
	return func() error {
		parent, err := os.Open(filepath.Dir(dir))
		if err != nil {
			return err
		}
		defer parent.Close()
		if all, err := linux.ProjectOf(parent); err != nil || all == own {
			return nil //nolint:nilerr // inherited: not ours
		}
		if err := linux.FreeTree(parent, own); err != nil && !errors.Is(err, linux.ErrNoQuota) {
			return fmt.Errorf("free quota: %w", err)
		}
		return nil
	}
}

// quotas says whether the file system has project quota, found out once: it is
// asked on the path of every removal.
func (s *boxStore) quotas() bool {
	s.quotaOnce.Do(func() {
		f, err := os.Open(filepath.Join(s.root, "containers"))
		if err != nil {
			return
		}
		defer f.Close()
		s.hasQuota = linux.HasQuota(f)
	})
	return s.hasQuota
}
