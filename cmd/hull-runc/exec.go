package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux/cgroup"
	"hull/internal/runtime"
)

// list is a flag that may be given often.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type execFlags struct {
	createFlags
	process, cwd, user, apparmor, label string
	env, caps, groups, cgroups          list
	tty, noNewPrivs, ignorePaused       bool
}

func (f *execFlags) register(fs *flag.FlagSet) {
	f.registerIO(fs)
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
	fs.StringVar(&f.label, "process-label", "", "SELinux label")
	fs.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile")
	fs.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	fs.Var(&f.caps, "cap", "another capability, may be given often")
	fs.Var(&f.caps, "c", "short for --cap")
	fs.Var(&f.cgroups, "cgroup", "[CONTROLLER[,CONTROLLER...]:]PATH, an existing cgroup below the container's, may be given often")
	fs.BoolVar(&f.ignorePaused, "ignore-paused", false, "also in a paused container")
}

// spec is the process to run.
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
		if p.Env == nil {
			p.Env = []string{} // not the container's
		}
		return &p, checkProcess(&p)
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	p := *c.Spec.Process
	p.Args, p.Terminal = args, f.tty
	p.Env = slices.Concat(p.Env, f.env)
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
	f.addCaps(&p)
	if err := f.setUser(&p.User); err != nil {
		return nil, err
	}
	return &p, checkProcess(&p)
}

// addCaps adds capabilities as runc does: to the ambient set only where the
// container has inheritable ones.
func (f *execFlags) addCaps(p *specs.Process) {
	if len(f.caps) == 0 {
		return
	}
	k := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		k = *p.Capabilities
	}
	k.Bounding = slices.Concat(k.Bounding, f.caps)
	k.Effective = slices.Concat(k.Effective, f.caps)
	k.Permitted = slices.Concat(k.Permitted, f.caps)
	if k.Inheritable != nil {
		k.Ambient = slices.Concat(k.Ambient, f.caps)
	}
	p.Capabilities = &k
}

func (f *execFlags) setUser(u *specs.User) error {
	if f.user != "" {
		uid, gid, both := strings.Cut(f.user, ":")
		n, err := strconv.ParseUint(uid, 10, 31)
		if err != nil {
			return fmt.Errorf("bad uid: %w", err)
		}
		u.UID = uint32(n)
		if both {
			if n, err = strconv.ParseUint(gid, 10, 31); err != nil {
				return fmt.Errorf("bad gid: %w", err)
			}
			u.GID = uint32(n)
		}
	}
	u.AdditionalGids = slices.Clone(u.AdditionalGids)
	for _, g := range f.groups {
		n, err := strconv.ParseUint(g, 10, 31)
		if err != nil {
			return fmt.Errorf("additional-gids must be a positive number %s: %w", g, err)
		}
		u.AdditionalGids = append(u.AdditionalGids, uint32(n))
	}
	return nil
}

func (a *app) exec(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	var f execFlags
	f.register(fs)
	p, err := leading(fs, args, 1)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err == nil {
		err = a.execIn(ctx, p[0], p[1:], &f)
	}
	var code exitError
	if err == nil || errors.As(err, &code) {
		return err
	}
	return execFailed{fmt.Errorf("exec failed: %w", err)}
}

func (a *app) execIn(ctx context.Context, id string, args []string, f *execFlags) (err error) {
	c, err := a.load(id)
	if err != nil {
		return err
	}
	switch s := c.status(); {
	case s == specs.StateStopped:
		return errors.New("cannot exec in a stopped container")
	case s == "paused" && !f.ignorePaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	p, err := f.spec(c, args)
	if err != nil {
		return err
	}
	if err := checkConsole(p, &f.createFlags); err != nil {
		return err
	}
	cg, err := subCgroups(c.cg, f.cgroups)
	if err != nil {
		return err
	}
	extra, err := preserved(nil, f.preserveFds)
	if err != nil {
		return err
	}
	plan, err := runtime.PrepareExec(c.Spec, p, false)
	if err != nil {
		return err
	}
	for _, w := range plan.Warnings {
		a.log.warnf("%s", w)
	}
	h, err := runtime.Attach(ctx, c.Pid, c.Namespaces)
	if err != nil {
		return err
	}
	if !c.alive() { // the pid was somebody else's when we attached
		return errors.Join(errors.New("cannot exec in a stopped container"), h.Destroy())
	}
	if m := plan.Process.FirstCPUs; m != nil {
		a.log.debugf("nsexec-0[%d]: affinity: 0x%s", os.Getpid(), m.Hex())
	}
	a.log.debugf("nsexec container setup")
	io := runtime.Stdio{Extra: extra, Hooks: a.notifier(c), Outlive: true, Leave: f.detach}
	if !p.Terminal {
		io.In, io.Out, io.Err = os.Stdin, os.Stdout, os.Stderr
	}
	proc, err := h.Exec(ctx, plan, io, cg)
	if err != nil {
		return fmt.Errorf("unable to start container process: %w", err)
	}
	a.log.debugf("child process in init()")
	term, err := attachTerminal(proc, p.Terminal && !f.detach)
	if err == nil {
		err = handOver(proc, &f.createFlags)
	}
	if err == nil {
		a.log.debugf("setns_init: about to exec")
		err = proc.Start(ctx)
	}
	if err != nil {
		term.restore()
		return plainExecError(errors.Join(err, proc.Close()))
	}
	if f.detach {
		return nil
	}
	return waitForwarding(proc, term)
}

// subCgroups is where an exec's process goes: the container's own cgroups, or
// those below them that args name.
func subCgroups(g *cgroup.Group, args []string) (runtime.Cgroup, error) {
	cg := cgroupOf(g)
	if len(args) == 0 {
		return cg, nil
	}
	seen := map[string]bool{}
	for _, arg := range args {
		ctrs, path, ok := strings.Cut(arg, ":")
		if !ok {
			if len(args) != 1 {
				return cg, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", arg)
			}
			for i := range cg.Dirs {
				if err := descend(&cg.Dirs[i], arg); err != nil {
					return cg, err
				}
			}
			return cg, nil
		}
		for c := range strings.SplitSeq(ctrs, ",") {
			if c == "" {
				return cg, fmt.Errorf("invalid --cgroup argument: %s (empty <controller> prefix)", arg)
			}
			if seen[c] {
				return cg, fmt.Errorf("invalid --cgroup argument(s): controller %s specified multiple times", c)
			}
			seen[c] = true
			i := slices.IndexFunc(cg.Dirs, func(d runtime.CgroupDir) bool { return slices.Contains(strings.Split(d.Hierarchy, ","), c) })
			if i < 0 {
				return cg, fmt.Errorf("unknown controller %s in SubCgroupPaths", c)
			}
			if err := descend(&cg.Dirs[i], path); err != nil {
				return cg, err
			}
		}
	}
	return cg, nil
}

// descend goes to a cgroup below d, and nowhere else.
func descend(d *runtime.CgroupDir, path string) error {
	p := filepath.Join(d.Path, path)
	if p != d.Path && !strings.HasPrefix(p, d.Path+"/") {
		return fmt.Errorf("bad sub cgroup path: %s", path)
	}
	if _, err := os.Stat(p); err != nil {
		return fmt.Errorf("adding pid to cgroup: %w", err)
	}
	d.Path = p
	return nil
}
