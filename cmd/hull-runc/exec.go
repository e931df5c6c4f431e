package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/runtime"
)

// list is a flag that may be given often.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type execFlags struct {
	createFlags
	process, cwd, user, pidFile, apparmor, label string
	env, caps, groups                            list
	tty, noNewPrivs, ignorePaused                bool
}

func (f *execFlags) parse(args []string) (*flag.FlagSet, error) {
	fs := flags("exec")
	fs.StringVar(&f.consoleSocket, "console-socket", "", "socket that gets the terminal's master side")
	fs.StringVar(&f.cwd, "cwd", "", "working directory")
	fs.Var(&f.env, "env", "NAME=VALUE, may be given often")
	fs.Var(&f.env, "e", "short for --env")
	fs.BoolVar(&f.tty, "tty", false, "with a terminal")
	fs.BoolVar(&f.tty, "t", false, "short for --tty")
	fs.StringVar(&f.user, "user", "", "UID[:GID]")
	fs.StringVar(&f.user, "u", "", "short for --user")
	fs.Var(&f.groups, "additional-gids", "additional group, may be given often")
	fs.Var(&f.groups, "g", "short for --additional-gids")
	fs.StringVar(&f.process, "process", "", "file with a process in JSON")
	fs.StringVar(&f.process, "p", "", "short for --process")
	fs.BoolVar(&f.detach, "detach", false, "do not wait")
	fs.BoolVar(&f.detach, "d", false, "short for --detach")
	fs.StringVar(&f.pidFile, "pid-file", "", "file for the process id")
	fs.StringVar(&f.label, "process-label", "", "SELinux label")
	fs.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile")
	fs.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	fs.Var(&f.caps, "cap", "another capability, may be given often")
	fs.Var(&f.caps, "c", "short for --cap")
	fs.IntVar(&f.preserveFds, "preserve-fds", 0, "hand over descriptors 3 to 3+N-1")
	fs.BoolVar(&f.ignorePaused, "ignore-paused", false, "also in a paused container")
	return fs, fs.Parse(args)
}

func (f *execFlags) spec(c *container, args []string) (*specs.Process, error) {
	if f.process != "" {
		b, err := os.ReadFile(f.process)
		if err != nil {
			return nil, err
		}
		var p specs.Process
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("%s: %w", f.process, err)
		}
		return &p, nil
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	p := *c.Spec.Process
	p.Args, p.Terminal = args, f.tty
	p.Env = append(append([]string{}, p.Env...), f.env...)
	p.NoNewPrivileges = p.NoNewPrivileges || f.noNewPrivs
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.label != "" {
		p.SelinuxLabel = f.label
	}
	if len(f.caps) > 0 {
		k := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			k = *p.Capabilities
		}
		k.Bounding = append(append([]string{}, k.Bounding...), f.caps...)
		k.Effective = append(append([]string{}, k.Effective...), f.caps...)
		k.Permitted = append(append([]string{}, k.Permitted...), f.caps...)
		p.Capabilities = &k
	}
	if f.user != "" {
		uid, gid, both := strings.Cut(f.user, ":")
		n, err := strconv.ParseUint(uid, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", f.user, err)
		}
		p.User.UID = uint32(n)
		if both {
			if n, err = strconv.ParseUint(gid, 10, 31); err != nil {
				return nil, fmt.Errorf("user %q: %w", f.user, err)
			}
			p.User.GID = uint32(n)
		}
	}
	for _, g := range f.groups {
		n, err := strconv.ParseUint(g, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", g, err)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(n))
	}
	return &p, nil
}

func (a *app) exec(ctx context.Context, args []string) error {
	var f execFlags
	fs, err := f.parse(args)
	if err != nil {
		return err
	}
	if fs.NArg() < 1 {
		return errors.New("exec needs a container id")
	}
	c, err := a.load(fs.Arg(0))
	if err != nil {
		return err
	}
	switch s := c.status(); {
	case s == specs.StateStopped:
		return errors.New("cannot exec in a stopped container")
	case s == "paused" && !f.ignorePaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	p, err := f.spec(c, fs.Args()[1:])
	if err != nil {
		return err
	}
	if err := checkConsole(p, &f.createFlags); err != nil {
		return err
	}
	plan, err := runtime.PrepareExec(c.Spec, p, false)
	if err != nil {
		return err
	}
	h, err := runtime.Attach(ctx, c.Pid, c.Namespaces)
	if err != nil {
		return err
	}
	if !c.alive() { // the pid was somebody else's when we attached
		return errors.Join(errors.New("cannot exec in a stopped container"), h.Destroy())
	}
	io := runtime.Stdio{}
	if !p.Terminal {
		io.In, io.Out, io.Err = os.Stdin, os.Stdout, os.Stderr
	}
	if io.Extra, err = preserved(f.preserveFds); err != nil {
		return err
	}
	var gate *runtime.Gate
	if f.detach {
		if gate, err = privateGate(); err != nil {
			return err
		}
		io.Detached = gate
	}
	proc, err := h.Exec(ctx, plan, io, cgroupDirs(c.cg))
	if err != nil {
		return err
	}
	if f.pidFile != "" {
		if err := linux.WriteFile(f.pidFile, []byte(strconv.Itoa(proc.Pid())), 0o644, false); err != nil {
			return errors.Join(err, proc.Close())
		}
	}
	if f.consoleSocket != "" {
		if err := sendConsole(f.consoleSocket, proc.Console()); err != nil {
			return errors.Join(err, proc.Close())
		}
	}
	if f.detach {
		return openPrivate(gate, p.Args[0])
	}
	term, err := attachTerminal(proc, p.Terminal)
	if err != nil {
		return err
	}
	if err := proc.Start(ctx); err != nil {
		term.restore()
		return err
	}
	return waitForwarding(proc, term)
}

// privateGate is a gate that nobody else opens: two pipes.
func privateGate() (*runtime.Gate, error) {
	dir, err := os.MkdirTemp("", "hull-runc-exec")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return newGate(dir)
}

// openPrivate closes our copies of the gate, so that the end of file is the
// process's, and opens it.
func openPrivate(g *runtime.Gate, args0 string) error {
	fd, err := unix.Open(linux.ProcPath(g.Result), unix.O_RDONLY|unix.O_CLOEXEC, 0) // not os.Open: a blocking one
	if err != nil {
		return err
	}
	r := os.NewFile(uintptr(fd), resultFifo)
	defer r.Close()
	defer g.Start.Close()
	g.Result.Close()
	return (&runtime.Gate{Start: g.Start, Result: r}).Open(args0)
}
