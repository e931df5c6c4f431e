package linux

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxFds is how many descriptors the kernel passes in one message.
const MaxFds = 253

// SendFds writes data (at least one byte) and duplicates of files as one message.
// The caller keeps its own.
func SendFds(c *net.UnixConn, data []byte, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = FD(f)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(data, oob, nil)
	runtime.KeepAlive(files)
	if err == nil && n < len(data) {
		_, err = c.Write(data[n:])
	}
	return err
}

// RecvFds reads one message of at most len(buf) bytes with at most max
// descriptors; they are close-on-exec and the caller's to close. Descriptors that
// do not fit are closed, and the message refused.
func RecvFds(c *net.UnixConn, buf []byte, max int) (int, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*max))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return n, nil, err
	}
	files, err := ParseFds(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("more descriptors than expected")
	}
	if err != nil {
		CloseAll(files)
		return n, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	return n, files, nil
}

// ParseFds takes the descriptors out of a control message and makes them
// close-on-exec.
func ParseFds(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			CloseAll(files)
			return nil, err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

// CloseAll closes every non-nil file.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// FD is f's descriptor without the side effect of os.File.Fd, which makes a
// pollable file blocking. It is valid while f is open.
func FD(f *os.File) int {
	fd := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(n uintptr) { fd = int(n) }) // fails only when closed: -1 then
	}
	return fd
}
