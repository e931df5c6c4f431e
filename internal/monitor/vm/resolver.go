package vm

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/dns"
	"hull/internal/linux"
)

// clientPort is where the network service leads queries from: what answers on
// dns.Port is led back the same way, so that a connection there never comes about.
const clientPort = 53

// dialResolver connects to the pod's name server: on the namespace's loopback,
// where it answers at once or is not there.
func dialResolver(netns string) (*os.File, error) {
	fd := -1
	err := linux.InNetNS(netns, func() error {
		var err error
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: clientPort, Addr: dns.Address().As4()})
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "resolver"), nil
}
