package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (a *app) print(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}

// fullState is what runc prints: the specification's state and a bit more.
type fullState struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (c *container) full() fullState {
	s := c.ociState()
	return fullState{s.Version, s.ID, s.Pid, s.Status, s.Bundle, c.Rootfs, c.Created, s.Annotations, ""}
}

func (a *app) state(_ context.Context, args []string) error {
	id, err := oneID(flags("state"), args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	return a.print(c.full())
}

func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", s)
		}
		return syscall.Signal(n), nil
	}
	n := strings.ToUpper(s)
	if !strings.HasPrefix(n, "SIG") {
		n = "SIG" + n
	}
	if sig := unix.SignalNum(n); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func (a *app) kill(ctx context.Context, args []string) error {
	fs := flags("kill")
	all := fs.Bool("all", false, "every process of the container")
	fs.BoolVar(all, "a", false, "short for --all")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() < 1 || fs.NArg() > 2 {
		return errors.New("kill needs a container id and at most one signal")
	}
	c, err := a.load(fs.Arg(0))
	if err != nil {
		return err
	}
	sig := syscall.SIGTERM
	if fs.NArg() == 2 {
		if sig, err = parseSignal(fs.Arg(1)); err != nil {
			return err
		}
	}
	ownPids := c.Namespaces&unix.CLONE_NEWPID != 0
	if *all || (sig == syscall.SIGKILL && !ownPids) {
		return c.killAll(ctx, sig)
	}
	if err := c.signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return errors.New("container not running")
		}
		return err
	}
	if sig == syscall.SIGKILL {
		// A frozen process does not die on v1.
		if frozen, err := c.cg.Frozen(); err == nil && frozen {
			return c.cg.Thaw(ctx)
		}
	}
	return nil
}

func (c *container) killAll(ctx context.Context, sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		return c.cg.Kill(ctx)
	}
	pids, err := c.cg.Pids()
	if err != nil {
		return err
	}
	for _, p := range pids {
		if err := syscall.Kill(p, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

func (a *app) delete(ctx context.Context, args []string) error {
	fs := flags("delete")
	force := fs.Bool("force", false, "kill it first; a missing container is no error")
	fs.BoolVar(force, "f", false, "short for --force")
	id, err := oneID(fs, args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if errdefs.IsNotFound(err) {
		// What a creation that was killed has left.
		rerr := os.RemoveAll(filepath.Join(a.root, id))
		if *force {
			return rerr
		}
		return err
	}
	if err != nil {
		return err
	}
	switch s := c.status(); {
	case s == specs.StateStopped, *force:
	case s == specs.StateCreated:
	default:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
	}
	return a.remove(ctx, c, true)
}

// remove kills what is left of a container and gives back what it holds.
func (a *app) remove(ctx context.Context, c *container, kill bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if kill {
		if err := c.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		if err := c.cg.Kill(ctx); err != nil {
			return err
		}
	}
	if err := c.cg.Destroy(ctx); err != nil {
		return err
	}
	if c.Spec.Hooks != nil {
		st := c.ociState()
		for _, h := range c.Spec.Hooks.Poststop {
			if err := runHooks(ctx, []specs.Hook{h}, st); err != nil {
				fmt.Fprintln(os.Stderr, "hull-runc: warning:", err) // as the specification says
			}
		}
	}
	return os.RemoveAll(c.dir)
}

func (a *app) list(_ context.Context, args []string) error {
	fs := flags("list")
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "short for --format")
	quiet := fs.Bool("quiet", false, "only ids")
	fs.BoolVar(quiet, "q", false, "short for --quiet")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dirs, err := os.ReadDir(a.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	all := []fullState{}
	for _, d := range dirs {
		c, err := a.load(d.Name())
		if err != nil {
			continue // being made or removed
		}
		all = append(all, c.full())
	}
	switch {
	case *quiet:
		for _, s := range all {
			fmt.Fprintln(a.out, s.ID)
		}
		return nil
	case *format == "json":
		b, err := json.Marshal(all)
		if err != nil {
			return err
		}
		_, err = a.out.Write(b)
		return err
	case *format == "table":
		w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
		fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
		for _, s := range all {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), "root")
		}
		return w.Flush()
	}
	return fmt.Errorf("invalid format option: %q", *format)
}

func (a *app) ps(ctx context.Context, args []string) error {
	fs := flags("ps")
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "short for --format")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() < 1 {
		return errors.New("ps needs a container id")
	}
	c, err := a.load(fs.Arg(0))
	if err != nil {
		return err
	}
	pids, err := c.cg.Pids()
	if err != nil {
		return err
	}
	slices.Sort(pids)
	if *format == "json" {
		if pids == nil {
			pids = []int{}
		}
		return json.NewEncoder(a.out).Encode(pids)
	}
	opts := fs.Args()[1:]
	if len(opts) == 0 {
		opts = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", opts...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	col := slices.Index(strings.Fields(lines[0]), "PID")
	if col < 0 {
		return errors.New("ps: no PID column in its output")
	}
	fmt.Fprintln(a.out, lines[0])
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		if col >= len(f) {
			continue
		}
		if n, err := strconv.Atoi(f[col]); err == nil && slices.Contains(pids, n) {
			fmt.Fprintln(a.out, l)
		}
	}
	return nil
}

func (a *app) pause(ctx context.Context, args []string) error {
	id, err := oneID(flags("pause"), args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	if s := c.status(); s != specs.StateRunning && s != specs.StateCreated {
		return fmt.Errorf("container not running or created: %s", s)
	}
	return c.cg.Freeze(ctx)
}

func (a *app) resume(ctx context.Context, args []string) error {
	id, err := oneID(flags("resume"), args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	if frozen, err := c.cg.Frozen(); err != nil || !frozen {
		return errors.New("container not paused")
	}
	return c.cg.Thaw(ctx)
}
