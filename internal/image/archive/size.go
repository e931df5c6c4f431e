package archive

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Size adds up the sizes of the regular files below root, hard links once.
func Size(root *os.File) (int64, error) {
	s := &sizer{seen: map[uint64]bool{}}
	err := s.dir(root)
	return s.sum, err
}

type sizer struct {
	sum  int64
	seen map[uint64]bool
}

func (s *sizer) dir(d *os.File) error {
	names, err := readNames(d)
	if err != nil {
		return fmt.Errorf("read directory: %w", err)
	}
	for _, n := range names {
		var st unix.Stat_t
		if unix.Fstatat(fdOf(d), n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // went away meanwhile
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if st.Nlink > 1 && s.seen[st.Ino] {
				continue
			}
			if st.Nlink > 1 {
				s.seen[st.Ino] = true
			}
			s.sum += st.Size
		case unix.S_IFDIR:
			fd, err := unix.Openat(fdOf(d), n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			sub := os.NewFile(uintptr(fd), n)
			err = s.dir(sub)
			sub.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}
