package compare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// load runs the user's command inside of an instance of the image as it is: once its
// service answers, until the command succeeds, and then for the figure that it prints.
func (s *session) load(ctx context.Context, f *Figures) error {
	start := time.Now()
	id, err := s.create(ctx, &container.Config{Image: s.image.ID, Env: s.o.Env}, &container.HostConfig{Isolation: container.Isolation(f.Isolation)})
	if err != nil {
		return err
	}
	if _, err := s.c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return err
	}
	// Some programs never end when they come too early (redis-benchmark).
	if err := s.listening(ctx, id); err != nil {
		return err
	}
	f.Answers = time.Since(start)
	for {
		out, code, err := s.exec(ctx, id, s.o.Command, "")
		if err != nil {
			return err
		}
		if code == 0 {
			if len(s.ports()) == 0 {
				f.Answers = time.Since(start)
			}
			f.note(out, 0)
			break
		}
		if code == 126 || code == 127 || time.Since(start) > s.o.Patience {
			return fmt.Errorf("ended with %d: %s", code, lastLine(out))
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range 2 {
		t := time.Now()
		out, code, err := s.exec(ctx, id, s.o.Command, "")
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("ended with %d, after it had succeeded once: %s", code, lastLine(out))
		}
		f.note(out, time.Since(t))
	}
	return s.remove(ctx, id)
}

// ports are the image's TCP ports.
func (s *session) ports() (out []string) {
	if s.image.Config == nil {
		return nil
	}
	for p := range s.image.Config.ExposedPorts {
		port, proto, _ := strings.Cut(p, "/")
		if proto == "" || proto == "tcp" {
			out = append(out, port)
		}
	}
	return out
}

// listening waits until the service takes a connection on one of the image's ports.
func (s *session) listening(ctx context.Context, id string) error {
	ports := s.ports()
	if len(ports) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	var last error
	for {
		got, err := s.c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			return errors.Join(err, last)
		}
		if !got.Container.State.Running {
			return fmt.Errorf("the image's own program ended with %d before it listened", got.Container.State.ExitCode)
		}
		for _, n := range got.Container.NetworkSettings.Networks {
			for _, port := range ports {
				d := net.Dialer{Timeout: time.Second}
				c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(n.IPAddress.String(), port))
				if err == nil {
					return c.Close()
				}
				last = err
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait until the service listens: %w", errors.Join(ctx.Err(), last))
		}
	}
}

// note keeps the best figure; took is how long the command ran, 0 = not known.
func (f *Figures) note(out string, took time.Duration) {
	v, unit, ok := Rate(out)
	if !ok {
		if took == 0 {
			return
		}
		v, unit = 1/took.Seconds(), "runs/s"
	}
	if v > f.Load {
		f.Load, f.LoadUnit = v, unit
	}
}

// Rate finds the last figure "per second" in a program's output, as redis-benchmark,
// pgbench, wrk, ab and sysbench print it.
func Rate(out string) (perSecond float64, unit string, ok bool) {
	const number = `([0-9][0-9,]*(?:\.[0-9]+)?)`
	for _, p := range []struct{ pattern, unit string }{
		{`(?im)\btps\s*=\s*` + number, "transactions/s"},
		{`(?im)\bRequests(?: per second|/sec)\s*:\s*` + number, "requests/s"},
		{`(?im)` + number + `\s+(requests|transactions|queries|operations|ops|events|runs)(?: per second|/s(?:ec)?\b)`, ""},
		{`(?im)\b(?:transactions|queries|events)\s*:.*\(\s*` + number + ` per sec`, "per second"},
	} {
		found := regexp.MustCompile(p.pattern).FindAllStringSubmatch(out, -1)
		if len(found) == 0 {
			continue
		}
		last := found[len(found)-1]
		v, err := strconv.ParseFloat(strings.ReplaceAll(last[1], ",", ""), 64)
		if err != nil {
			continue
		}
		unit := p.unit
		if unit == "" {
			unit = strings.ToLower(last[2]) + "/s"
		}
		return v, unit, true
	}
	return 0, "", false
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
