package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// monitor is the process that each pod has on the host; everything that an instance
// needs there is below it.
const monitor = "hull-monitor"

// parallel is how many instances are started at a time.
const parallel = 4

// memory is the PSS of all of an instance's processes, bytes: memory that several
// share is split among them (proc_pid_smaps_rollup(5)).
func (s *session) memory(ctx context.Context, ids ...string) (int64, error) {
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	table, err := processes()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, id := range ids {
		got, err := s.c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			return 0, err
		}
		top, err := table.monitorOf(got.Container.State.Pid)
		if err != nil {
			return 0, fmt.Errorf("find the processes of %.12s: %w", id, err)
		}
		n, err := table.pss(top)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// many starts n instances and counts their memory.
func (s *session) many(ctx context.Context, isolation string, n int) (int64, error) {
	ids := make([]string, n)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for k := range ids {
		g.Go(func() error {
			i, err := s.boot(gctx, isolation, as{})
			if err == nil {
				ids[k] = i.id
			}
			return err
		})
	}
	err := g.Wait()
	var sum int64
	if err == nil {
		sum, err = s.memory(ctx, ids...)
	}
	g = &errgroup.Group{}
	g.SetLimit(parallel)
	for _, id := range ids {
		if id != "" {
			g.Go(func() error { return s.remove(ctx, id) })
		}
	}
	return sum, errors.Join(err, g.Wait())
}

// process is a line of the process table.
type process struct {
	comm   string
	parent int
}

type processTable map[int]process

func processes() (processTable, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	t := processTable{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended meanwhile
		}
		if p, ok := parseStat(b); ok {
			t[pid] = p
		}
	}
	return t, nil
}

// parseStat reads "PID (COMM) STATE PPID ..." (proc_pid_stat(5)); COMM may hold
// anything.
func parseStat(b []byte) (process, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 2 {
		return process{}, false
	}
	parent, err := strconv.Atoi(f[1])
	return process{comm: string(b[open+1 : end]), parent: parent}, err == nil
}

// monitorOf finds the monitor above a process.
func (t processTable) monitorOf(pid int) (int, error) {
	for at := pid; at > 1; at = t[at].parent {
		if name, _, _ := strings.Cut(t[at].comm, "~"); name == monitor { // behind it: how many pods it served
			return at, nil
		}
	}
	return 0, fmt.Errorf("process %d is not below a monitor on this machine: memory is counted only where the engine is", pid)
}

// pss is the sum over a process and all below it, bytes.
func (t processTable) pss(top int) (int64, error) {
	sum, err := readPSS(top)
	if err != nil {
		return 0, err
	}
	for pid, p := range t {
		if p.parent != top {
			continue
		}
		n, err := t.pss(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func readPSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, nil // it has ended, or is a zombie
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, nil // a kernel thread
}

// hostKernel is this machine's, as the probe says it.
func hostKernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}
