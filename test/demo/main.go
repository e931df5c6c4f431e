// Command demo shows hull from nothing to a running Redis: it makes the image
// from Debian packages (cached), runs it on an engine of its own, talks to it,
// and leaves nothing behind. Engine, bridge and ports live in a network and a
// mount namespace of the demo, so that it touches nothing on the machine.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hull/test/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case os.Geteuid() != 0:
		err = errors.New("the demo makes an image with chroot and starts an engine: run it as root")
	case len(os.Args) == 2 && os.Args[1] == "inside":
		err = inside(ctx)
	default:
		err = outside(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

// outside makes the image, then runs this program again in namespaces of its own.
func outside(ctx context.Context) error {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	fmt.Println("Making a Redis image from Debian packages (minutes the first time, then cached) ...")
	archive, err := images.Make(ctx, "redis")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	state, err := os.MkdirTemp("", "hull-demo-")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--propagation", "private", self, "inside") // #nosec: ourselves
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "DEMO_ARCHIVE="+archive,
		"HULL_ROOT="+state+"/root", "HULL_RUN="+state+"/run", "HULL_HOST=", "DOCKER_HOST=", "DOCKER_CONTEXT=")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return errors.Join(cmd.Run(), os.RemoveAll(state))
}

func inside(ctx context.Context) (err error) {
	if err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "up").Run(); err != nil {
		return fmt.Errorf("bring the loopback up: %w", err)
	}
	defer func() { err = errors.Join(err, stopEngine()) }()

	started := time.Now()
	if err := show(ctx, "hull", "load", "-q", "-i", os.Getenv("DEMO_ARCHIVE")); err != nil {
		return err
	}
	if err := show(ctx, "hull", "run", "-d", "--name", "db", "-p", "6379:6379", "redis"); err != nil {
		return err
	}
	if err := talk(ctx); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"hull", "ps"},
		{"hull", "exec", "db", "redis-cli", "GET", "greeting"},
		{"hull", "logs", "--tail", "3", "db"},
		{"hull", "stats", "--no-stream", "db"},
		{"hull", "rm", "-f", "db"},
	} {
		if err := show(ctx, argv...); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll of that took %.1f s. Nothing is left: the engine and its state end with the demo.\n", time.Since(started).Seconds())
	return nil
}

// show runs a command as a person would see it.
func show(ctx context.Context, argv ...string) error {
	fmt.Printf("\n$ %s\n", strings.Join(argv, " "))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) // #nosec: the list above
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return nil
}

// talk speaks Redis's protocol through the published port.
func talk(ctx context.Context) error {
	conn, err := connect(ctx, "127.0.0.1:6379")
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println("\n(through the published port, 127.0.0.1:6379)")
	in := bufio.NewReader(conn)
	for _, line := range []string{"SET greeting hello-from-hull", "GET greeting"} {
		if _, err := fmt.Fprintf(conn, "%s\r\n", line); err != nil {
			return err
		}
		answer, err := in.ReadString('\n')
		if err == nil && strings.HasPrefix(answer, "$") {
			answer, err = in.ReadString('\n')
		}
		if err != nil {
			return fmt.Errorf("read the answer to %q: %w", line, err)
		}
		fmt.Printf("> %s\n%s\n", line, strings.TrimSpace(answer))
	}
	return nil
}

// connect waits for Redis, for at most 15 s.
func connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, conn.SetDeadline(time.Now().Add(10 * time.Second))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to Redis: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stopEngine ends the hulld that hull started: the one in our mount namespace.
func stopEngine() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	for _, comm := range comms {
		dir := filepath.Dir(comm)
		name, err := os.ReadFile(comm)
		if err != nil || string(name) != "hulld\n" {
			continue
		}
		if ns, err := os.Readlink(dir + "/ns/mnt"); err != nil || ns != own {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop the engine: %w", err)
		}
		for range 500 {
			if _, err := os.Stat(dir); err != nil {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return errors.New("the engine did not stop in 10 s")
	}
	return nil
}
