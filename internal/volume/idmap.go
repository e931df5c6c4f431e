package volume

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"hull/internal/hull"
	"hull/internal/linux"
)

// mappings remembers which file systems can show their files' owners through a
// user namespace's ids.
type mappings struct {
	mu    sync.Mutex
	users *os.File // a user namespace to try with
	known map[uint64]hull.Mapping
}

// kernelOnly are file systems whose files are the kernel's own: nobody expects to
// own anything there, and none of them can be idmapped (linux/magic.h).
var kernelOnly = []int64{ //nolint:gochecknoglobals // a constant that Go cannot express
	0x9fa0,     // proc
	0x62656572, // sysfs
	0x27e0eb,   // cgroup
	0x63677270, // cgroup2
	0x64626720, // debugfs
	0x74726163, // tracefs
	0xcafe4a11, // bpf
	0x73636673, // securityfs
	0x6e736673, // nsfs
	0x1cd1,     // devpts
	0xde5e81e4, // efivarfs
	0x6165676c, // pstore
	0x62656570, // configfs
	0x19800202, // mqueue
	0x65735543, // fusectl
	0x42494e4d, // binfmt_misc
}

// Mapping finds out, by trying, how the file system of a bind mount's source gets
// on with user namespaces. What it refuses is logged once a file system.
func (s *Service) Mapping(source string) (hull.Mapping, error) {
	f, err := linux.OpenTree(source, false)
	if err != nil {
		return hull.Refused, fmt.Errorf("look at %s: %w", source, err)
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(linux.FD(f), &st); err != nil {
		return hull.Refused, fmt.Errorf("look at %s: %w", source, err)
	}
	s.maps.mu.Lock()
	defer s.maps.mu.Unlock()
	// The number of a file system without a device is given to the next one when it
	// is gone: nothing is known by it.
	device := st.Dev>>8&0xfff != 0
	if m, ok := s.maps.known[st.Dev]; ok && device {
		return m, nil
	}
	m, err := s.maps.try(f)
	if s.maps.known == nil {
		s.maps.known = map[uint64]hull.Mapping{}
	}
	if _, told := s.maps.known[st.Dev]; err != nil && !told {
		s.log.Warn("a file system cannot show its owners through a user namespace: containers that mount it run in the host's",
			"path", source, "device", fmt.Sprintf("%d:%d", st.Dev>>8&0xfff, st.Dev&0xff), "error", err)
	}
	s.maps.known[st.Dev] = m
	return m, nil
}

// try gives a detached clone a mapping. The error says why there is none.
func (m *mappings) try(tree *os.File) (hull.Mapping, error) {
	var fs syscall.Statfs_t
	if err := syscall.Fstatfs(linux.FD(tree), &fs); err != nil {
		return hull.Refused, err
	}
	if slices.Contains(kernelOnly, int64(uint32(fs.Type))) { //nolint:gosec // a magic number has 32 bits
		return hull.Unmapped, nil
	}
	if m.users == nil {
		one := []linux.IDMap{{Host: 1, Size: 1}}
		var err error
		if m.users, err = linux.NewUserNS(one, one); err != nil {
			return hull.Refused, err
		}
	}
	if err := linux.SetIDMap(tree, m.users, false); err != nil {
		if isDevtmpfs(tree) && errors.Is(err, syscall.EINVAL) {
			return hull.Unmapped, nil // -v /dev:/dev
		}
		return hull.Refused, err
	}
	return hull.Mapped, nil
}

// isDevtmpfs tells it from other tmpfs, whose magic number it has.
func isDevtmpfs(f *os.File) bool {
	var a, b syscall.Stat_t
	return syscall.Fstat(linux.FD(f), &a) == nil && syscall.Stat("/dev", &b) == nil && a.Dev == b.Dev
}
