package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
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

// one loads the container that a verb with no other argument is about.
func (a *app) one(cmd *command, args []string) (*container, error) {
	id, err := oneID(cmd.flags(), args)
	if err != nil {
		return nil, err
	}
	return a.load(id)
}

func (a *app) state(_ context.Context, cmd *command, args []string) error {
	c, err := a.one(cmd, args)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(c.full(), "", "  ")
	if err != nil {
		return err
	}
	_, err = a.out.Write(b)
	return err
}

func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
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

func (a *app) kill(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	all := fs.Bool("all", false, "obsolete: a container that has stopped is no error")
	fs.BoolVar(all, "a", false, "short for --all")
	p, err := positional(fs, args, 1, 2)
	if err != nil {
		return err
	}
	c, err := a.load(p[0])
	if err != nil {
		return err
	}
	sig := syscall.SIGTERM
	if len(p) == 2 && p[1] != "" {
		if sig, err = parseSignal(p[1]); err != nil {
			return err
		}
	}
	if sig == syscall.SIGKILL && !c.OwnPids {
		// Without a pid namespace the others live on when the first process dies.
		return c.killAll(ctx)
	}
	if err := c.signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			err = errStopped
			if *all {
				return nil
			}
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

func (c *container) killAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	return c.cg.Kill(ctx)
}

// removeLimit is how long the end of a container may take.
const removeLimit = 10 * time.Second

func (a *app) delete(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	force := fs.Bool("force", false, "kill it first; a missing container is no error")
	fs.BoolVar(force, "f", false, "short for --force")
	id, err := oneID(fs, args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if errors.Is(err, errNotExist) {
		// What a creation that was killed has left.
		rerr := os.RemoveAll(filepath.Join(a.root, id))
		if *force {
			return rerr
		}
		return errors.Join(err, rerr)
	}
	if err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	switch s := c.status(); {
	case s == specs.StateStopped, s == specs.StateCreated, *force:
		return a.remove(ctx, c)
	default:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
	}
}

// remove kills what is left of a container and gives back what it holds.
func (a *app) remove(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	if err := c.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := c.cg.Kill(ctx); err != nil {
		return err
	}
	if err := c.cg.Destroy(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	if err := runHooks(ctx, c.Spec, "poststop", c.Bundle, c.ociState(specs.StateStopped)); err != nil {
		a.log.warnf("%v", err) // as the specification says
	}
	return nil
}

func (a *app) list(_ context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "short for --format")
	quiet := fs.Bool("quiet", false, "only ids")
	fs.BoolVar(quiet, "q", false, "short for --quiet")
	if _, err := positional(fs, args, 0, 0); err != nil {
		return err
	}
	all, err := a.all()
	if err != nil {
		return err
	}
	switch {
	case *quiet:
		for _, s := range all {
			fmt.Fprintln(a.out, s.ID)
		}
		return nil
	case *format == "json":
		return json.NewEncoder(a.out).Encode(all)
	case *format == "table":
		w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
		fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
		for _, s := range all {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
		}
		return w.Flush()
	}
	return errors.New("invalid format option")
}

// all are the containers below the root; nil without any, which JSON has as null,
// like runc's.
func (a *app) all() ([]fullState, error) {
	dirs, err := os.ReadDir(a.root)
	if errors.Is(err, os.ErrNotExist) && !a.rootSet {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []fullState
	for _, d := range dirs {
		c, err := a.load(d.Name())
		if errors.Is(err, errNotExist) {
			continue // being made or removed
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "load container %s: %v\n", d.Name(), err)
			continue
		}
		s := c.full()
		s.Owner = owner(c.dir)
		all = append(all, s)
	}
	return all, nil
}

// owner is the name of a container's owner, or #UID.
func owner(dir string) string {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return ""
	}
	uid := strconv.Itoa(int(st.Uid))
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}

func (a *app) ps(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "short for --format")
	p, err := leading(fs, args, 1)
	if err != nil {
		return err
	}
	c, err := a.load(p[0])
	if err != nil {
		return err
	}
	pids, err := c.cg.Pids()
	if err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	slices.Sort(pids)
	switch *format {
	case "json":
		return json.NewEncoder(a.out).Encode(pids)
	case "table":
	default:
		return errors.New("invalid format option")
	}
	opts := p[1:]
	if len(opts) == 0 {
		opts = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", opts...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return a.processes(string(out), pids)
}

// processes prints the lines of ps that are about pids, and the title.
func (a *app) processes(out string, pids []int) error {
	title, rest, _ := strings.Cut(out, "\n")
	col := slices.Index(strings.Fields(title), "PID")
	if col < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Fprintln(a.out, title)
	for line := range strings.Lines(rest) {
		f := strings.Fields(line)
		if col >= len(f) {
			continue
		}
		n, err := strconv.Atoi(f[col])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, n) {
			fmt.Fprint(a.out, line)
		}
	}
	return nil
}

func (a *app) pause(ctx context.Context, cmd *command, args []string) error {
	c, err := a.one(cmd, args)
	if err != nil {
		return err
	}
	if s := c.status(); s != specs.StateRunning && s != specs.StateCreated {
		return errors.New("container not running or created: " + string(s))
	}
	return c.cg.Freeze(ctx)
}

func (a *app) resume(ctx context.Context, cmd *command, args []string) error {
	c, err := a.one(cmd, args)
	if err != nil {
		return err
	}
	if c.status() != "paused" {
		return errors.New("container not paused")
	}
	return c.cg.Thaw(ctx)
}
