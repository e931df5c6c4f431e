package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/moby/moby/client"

	"hull/cmd/internal/probe"
)

// How long each of the network's figures is measured.
const span = time.Second

// network measures the way through the published port, as a client on the host has it.
func (s *session) network(ctx context.Context, id string, f *Figures) error {
	got, err := s.c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	if got.Container.NetworkSettings == nil {
		return errors.New("the engine does not say where the port is")
	}
	bound := got.Container.NetworkSettings.Ports[probePort()]
	if len(bound) == 0 {
		return errors.New("the port is not published")
	}
	addr := net.JoinHostPort("127.0.0.1", bound[0].HostPort)
	if f.Requests, err = requests(ctx, addr); err != nil {
		return err
	}
	f.Download, err = download(ctx, addr)
	return err
}

// connect opens the probe's port. The listener may come a moment after the probe's
// first words.
func connect(ctx context.Context, addr string, what byte) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	for try := 0; ; try++ {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			if err = c.SetDeadline(time.Now().Add(30 * time.Second)); err == nil {
				_, err = c.Write([]byte{what})
			}
			if err == nil {
				return c, nil
			}
			err = errors.Join(err, c.Close())
		}
		if try == 20 || ctx.Err() != nil {
			return nil, fmt.Errorf("connect to the instance's published port: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// requests is how many small messages go there and back in a second, one at a time:
// from the median of their times.
func requests(ctx context.Context, addr string) (float64, error) {
	c, err := connect(ctx, addr, probe.Echo)
	if err != nil {
		return 0, err
	}
	defer c.Close() //nolint:errcheck // measured by then
	buf := make([]byte, probe.Frame)
	var times []time.Duration
	for start := time.Now(); time.Since(start) < span || len(times) < 3; {
		t := time.Now()
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return 0, err
		}
		times = append(times, time.Since(t))
	}
	slices.Sort(times)
	return 1 / times[len(times)/2].Seconds(), nil
}

// download is MiB/s out of the instance on one connection.
func download(ctx context.Context, addr string) (float64, error) {
	c, err := connect(ctx, addr, probe.Download)
	if err != nil {
		return 0, err
	}
	defer c.Close() //nolint:errcheck // measured by then
	buf := make([]byte, 256<<10)
	if _, err := io.ReadFull(c, buf); err != nil {
		return 0, err
	}
	var n int
	start := time.Now()
	for time.Since(start) < span {
		k, err := c.Read(buf)
		if err != nil {
			return 0, err
		}
		n += k
	}
	return float64(n) / (1 << 20) / time.Since(start).Seconds(), nil
}
