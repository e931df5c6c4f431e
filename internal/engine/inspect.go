package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

// Container is a record with its present status.
func (e *views) Container(_ context.Context, ref string) (hull.Container, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return c, err
	}
	c.Execs, c.Links = e.runs.liveExecs(c.ID), e.links(c)
	return c, nil
}

// List gives all records, newest first.
func (e *views) List(context.Context) ([]hull.Container, error) {
	all := e.store.Containers()
	nameLinked(all)
	return all, nil
}

// youth is how old a run must be for its log to be read as it is. A workload has
// run for longer than that when Docker answers a start, and clients count on its
// first words being in the log then.
const youth = 100 * time.Millisecond

// Logs opens a container's log.
func (e *views) Logs(ctx context.Context, ref string, r hull.LogsRequest) (hull.LogReader, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return nil, err
	}
	var ended <-chan struct{}
	if x := e.runs.run(c.ID); x != nil {
		ended = x.exited
	}
	if ended != nil && !r.Follow {
		select {
		case <-ended:
		case <-ctx.Done():
		case <-time.After(min(youth, youth-time.Since(c.Status.StartedAt))):
		}
	}
	return e.logs.Read(ctx, c, r, ended)
}

// Size is the bytes of the writable layer and of the whole root file system.
func (e *views) Size(ctx context.Context, ref string) (rw, root int64, err error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return 0, 0, err
	}
	return e.images.Size(ctx, c.ID)
}

// Stats samples a container; one that does not run has none (zero Read).
func (e *views) Stats(ctx context.Context, ref string) (hull.Stats, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return hull.Stats{}, err
	}
	pod := e.runs.pod(c.PodID)
	if pod == nil || !c.Status.Phase.Live() {
		return hull.Stats{}, nil
	}
	st, err := driver.Stats(ctx, pod.box, c.ID)
	if err != nil {
		return st, fmt.Errorf("stats of %s: %w", c.Name, err)
	}
	st.Read, st.OnlineCPUs = time.Now().UTC(), runtime.NumCPU()
	if st.SystemCPU, err = systemCPU(); err != nil {
		return st, err
	}
	if c.Status.Endpoint.NetNS != "" {
		if st.Networks, err = e.networks.Stats(ctx, c.Status.Endpoint.NetNS); err != nil {
			return st, fmt.Errorf("network statistics of %s: %w", c.Name, err)
		}
	}
	return st, nil
}

// clockTicks is USER_HZ, 100 on every architecture Go runs Linux on (proc(5)).
const clockTicks = 100

// systemCPU is the time all CPUs have spent, ns, from /proc/stat.
func systemCPU() (uint64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("read /proc/stat: unexpected first line %q: %w", line, errdefs.ErrInternal)
	}
	var ticks uint64
	for _, v := range f[1:8] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks * uint64(time.Second/clockTicks), nil
}

// Top lists a container's processes as ps does, with the user's ps options.
func (e *views) Top(ctx context.Context, ref, psArgs string) (titles []string, rows [][]string, err error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return nil, nil, err
	}
	pod := e.runs.pod(c.PodID)
	switch {
	case c.Status.Restarting:
		return nil, nil, fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.ID, errdefs.ErrConflict)
	case pod == nil || !c.Status.Phase.Live():
		return nil, nil, fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
	}
	titles, rows, ok, err := driver.Processes(ctx, pod.box, c.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("list processes of %s: %w", c.Name, err)
	}
	if ok {
		e.publish("top", c, nil)
		return titles, rows, nil
	}
	pids, err := driver.Pids(ctx, pod.box, c.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("list processes of %s: %w", c.Name, err)
	}
	if psArgs == "" {
		psArgs = "-ef"
	}
	e.publish("top", c, nil)
	titles, rows, err = psTable(ctx, psArgs, pids)
	if err == nil && c.Status.Endpoint.IDs.Size > 0 {
		containerUsers(titles, rows, c.Status.Endpoint.IDs)
	}
	return titles, rows, err
}

// psTable runs the host's ps and keeps the lines of pids. ps is the field's own
// tool for these columns; this is not the run path.
func psTable(ctx context.Context, args string, pids []int) ([]string, [][]string, error) {
	list := make([]string, len(pids))
	for i, p := range pids {
		list[i] = strconv.Itoa(p)
	}
	if strings.ContainsAny(args, "\n\x00") {
		return nil, nil, fmt.Errorf("ps arguments %q: %w", args, errdefs.ErrInvalidArgument)
	}
	// By pid first: of itself ps selects its own user's processes. It refuses that
	// beside some of the user's options.
	fields := strings.Fields(args)
	out, err := exec.CommandContext(ctx, "ps", append(slices.Clip(fields), "-q"+strings.Join(list, ","))...).Output() //nolint:gosec // no shell; ps options only
	if err != nil {
		out, err = exec.CommandContext(ctx, "ps", fields...).Output() //nolint:gosec // no shell; ps options only
	}
	if err != nil {
		return nil, nil, fmt.Errorf("running ps %s: %w", args, errdefs.ErrInvalidArgument.WithMessage(err.Error()))
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	titles := strings.Fields(lines[0])
	at := slices.Index(titles, "PID")
	if at < 0 {
		return nil, nil, fmt.Errorf("couldn't find PID field in ps output: %w", errdefs.ErrInvalidArgument)
	}
	rows := [][]string{}
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		if len(f) <= at || !slices.Contains(list, f[at]) {
			continue
		}
		if len(f) > len(titles) { // the last column may hold blanks
			f = append(f[:len(titles)-1:len(titles)-1], strings.Join(f[len(titles)-1:], " "))
		}
		rows = append(rows, f)
	}
	return titles, rows, nil
}

// Info describes the engine; the front adds what it knows of images.
// Examine says how the host stands to what the engine needs of it: what the services
// find, then user namespaces and isolations.
func (e *views) Examine(context.Context) []hull.Finding {
	var out []hull.Finding
	for _, look := range e.cfg.Examine {
		out = append(out, look()...)
	}
	users := hull.Finding{Subject: "user namespaces", Verdict: hull.Fine, Says: "each container has its own"}
	switch {
	case e.cfg.UserNS.Reason != "":
		users.Verdict, users.Says = hull.Limited, e.cfg.UserNS.Reason
		users.Means, users.Next = "root in a container is root of the host, held back by capabilities and seccomp alone", "see docs/guide/user-namespaces.md"
	case e.cfg.UserNS.Default == usersHost:
		users.Says = "on demand (--userns private)"
	}
	out = append(out, users)
	for _, name := range slices.Sorted(maps.Keys(e.drivers)) {
		out = append(out, isolationFinding(name, e.drivers[name].Info(), name == e.cfg.DefaultIsolation))
	}
	return out
}

func isolationFinding(name hull.Isolation, i driver.Info, usual bool) hull.Finding {
	f := hull.Finding{Subject: "isolation " + string(name), Verdict: hull.Fine, Says: "available"}
	for _, key := range slices.Sorted(maps.Keys(i.Details)) {
		f.Says += ", " + key + " " + i.Details[key]
	}
	if i.Unavailable != "" {
		f.Verdict, f.Says = hull.Limited, i.Unavailable
		if usual {
			f.Verdict = hull.Broken
		}
		f.Means, f.Next = "--isolation "+string(name)+" is refused", "see docs/guide/isolation.md"
	}
	return f
}

func (e *views) Info(context.Context) (hull.EngineInfo, error) {
	info := e.cfg.Host
	info.DefaultIsolation, info.Isolations = e.cfg.DefaultIsolation, map[hull.Isolation]hull.IsolationInfo{}
	for name, d := range e.drivers {
		i := d.Info()
		info.Isolations[name] = hull.IsolationInfo{Available: i.Unavailable == "", Reason: i.Unavailable, Abilities: i.Abilities, Details: i.Details}
	}
	if e.runtimes != nil {
		info.Runtimes = e.runtimes.Paths()
	}
	for _, c := range e.store.Containers() {
		info.Containers++
		switch {
		case c.Status.Phase == hull.Paused:
			info.Paused++
		case c.Status.Phase == hull.Running:
			info.Running++
		default:
			info.Stopped++
		}
	}
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", "cgroup.controllers")); err == nil {
		info.CgroupVersion = 2
	} else {
		info.CgroupVersion = 1
	}
	return info, nil
}
