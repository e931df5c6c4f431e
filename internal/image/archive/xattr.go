package archive

import (
	"os"

	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

// listXattrs names the attributes of path; following a link is up to path
// (/proc/self/fd/N is one, and meant to be followed).
func listXattrs(path string) ([]string, error) {
	return xattrNames(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
}

func xattrNames(list func([]byte) (int, error)) ([]string, error) {
	b, err := xattrCall(list)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	var names []string
	for n := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
		names = append(names, string(n))
	}
	return names, nil
}

func getXattr(path, name string) ([]byte, error) {
	return xattrCall(func(b []byte) (int, error) { return unix.Getxattr(path, name, b) })
}

// xattrCall runs a call that fills a buffer, with one large enough. A file
// system without attributes has none.
func xattrCall(call func([]byte) (int, error)) ([]byte, error) {
	b := make([]byte, 256)
	for {
		n, err := call(b)
		switch {
		case err == nil:
			return b[:n], nil
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENODATA):
			return nil, nil
		case !errors.Is(err, unix.ERANGE) || len(b) >= 1<<17:
			return nil, err
		}
		b = make([]byte, len(b)*8)
	}
}

// setXattr sets an attribute of base in p, following no link; base "" is p
// itself, which only the link in /proc leads to.
func setXattr(p *os.File, base, attr string, value []byte) error {
	if base == "" {
		return unix.Setxattr(procPath(p, ""), attr, value, 0)
	}
	return unix.Lsetxattr(procPath(p, base), attr, value, 0)
}
