package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux/cgroup"
)

// number is an integer flag that knows whether it was given.
type number struct {
	p     **int64
	bytes bool
}

func (n number) String() string { return "" }

func (n number) Set(s string) error {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil && n.bytes {
		v, err = units.RAMInBytes(s)
	}
	if err == nil {
		*n.p = &v
	}
	return err
}

func unsigned(v *int64) *uint64 {
	if v == nil {
		return nil
	}
	u := uint64(*v)
	return &u
}

func updateFlags(fs *flag.FlagSet, r *specs.LinuxResources) (done func()) {
	m, c, p := &specs.LinuxMemory{}, &specs.LinuxCPU{}, &specs.LinuxPids{}
	var shares, period, rtPeriod, burst, idle, weight, kernel *int64
	fs.Var(number{&m.Limit, true}, "memory", "memory limit in bytes")
	fs.Var(number{&m.Swap, true}, "memory-swap", "memory and swap limit in bytes")
	fs.Var(number{&m.Reservation, true}, "memory-reservation", "soft memory limit in bytes")
	fs.Var(number{&kernel, true}, "kernel-memory", "obsolete, ignored")
	fs.Var(number{&kernel, true}, "kernel-memory-tcp", "obsolete, ignored")
	fs.Var(number{&c.Quota, false}, "cpu-quota", "microseconds per period")
	fs.Var(number{&period, false}, "cpu-period", "microseconds")
	fs.Var(number{&burst, false}, "cpu-burst", "microseconds")
	fs.Var(number{&shares, false}, "cpu-share", "relative weight")
	fs.Var(number{&c.RealtimeRuntime, false}, "cpu-rt-runtime", "microseconds")
	fs.Var(number{&rtPeriod, false}, "cpu-rt-period", "microseconds")
	fs.Var(number{&idle, false}, "cpu-idle", "0 or 1")
	fs.StringVar(&c.Cpus, "cpuset-cpus", "", "CPUs")
	fs.StringVar(&c.Mems, "cpuset-mems", "", "memory nodes")
	fs.Var(number{&p.Limit, false}, "pids-limit", "number of processes")
	fs.Var(number{&weight, false}, "blkio-weight", "relative weight")
	return func() {
		c.Shares, c.Period, c.RealtimePeriod, c.Burst, c.Idle = unsigned(shares), unsigned(period), unsigned(rtPeriod), unsigned(burst), idle
		r.Memory, r.CPU, r.Pids = m, c, p
		if weight != nil {
			w := uint16(*weight)
			r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
		}
	}
}

func (a *app) update(_ context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	var r specs.LinuxResources
	done := updateFlags(fs, &r)
	var file string
	fs.StringVar(&file, "resources", "", "file with resources in JSON, - for standard input")
	fs.StringVar(&file, "r", "", "short for --resources")
	id, err := oneID(fs, args)
	if err != nil {
		return err
	}
	done()
	if file != "" {
		var b []byte
		if file == "-" {
			b, err = io.ReadAll(os.Stdin)
		} else {
			b, err = os.ReadFile(file)
		}
		if err != nil {
			return err
		}
		r = specs.LinuxResources{}
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("resources: %w", err)
		}
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	if c.status() == specs.StateStopped {
		return fmt.Errorf("container %s is stopped", id)
	}
	warn, err := c.cg.Set(&r)
	for _, w := range warn {
		a.log.warnf("%s", w)
	}
	return err
}

// event is one line of events, as runc has them.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func (a *app) events(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	interval := fs.Duration("interval", 5*time.Second, "between samples")
	once := fs.Bool("stats", false, "print one sample")
	id, err := oneID(fs, args)
	if err != nil {
		return err
	}
	if *interval <= 0 {
		return errors.New("duration interval must be greater than 0")
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	if c.status() == specs.StateStopped {
		return fmt.Errorf("container with id %s is not running", id)
	}
	enc := json.NewEncoder(a.out)
	var ooms uint64
	for {
		s, err := c.cg.Stats()
		if err != nil {
			return err
		}
		if err := enc.Encode(event{"stats", id, runcStats(s)}); err != nil {
			return err
		}
		if *once {
			return nil
		}
		if n, err := c.cg.OOMKills(); err == nil && n > ooms {
			ooms = n
			if err := enc.Encode(event{Type: "oom", ID: id}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(*interval):
		}
		if !c.alive() {
			return nil
		}
	}
}

// runcStats gives a sample runc's field names.
func runcStats(s *cgroup.Stats) map[string]any {
	cpu, mem := s.CpuStats, s.MemoryStats
	entry := func(u, limit, maximum, fail uint64) map[string]any {
		return map[string]any{"usage": u, "limit": limit, "max": maximum, "failcnt": fail}
	}
	return map[string]any{
		"cpu": map[string]any{
			"usage": map[string]any{
				"total": cpu.CpuUsage.TotalUsage, "percpu": cpu.CpuUsage.PercpuUsage,
				"kernel": cpu.CpuUsage.UsageInKernelmode, "user": cpu.CpuUsage.UsageInUsermode,
			},
			"throttling": map[string]any{
				"periods": cpu.ThrottlingData.Periods, "throttledPeriods": cpu.ThrottlingData.ThrottledPeriods, "throttledTime": cpu.ThrottlingData.ThrottledTime,
			},
		},
		"memory": map[string]any{
			"cache": mem.Cache,
			"usage": entry(mem.Usage.Usage, mem.Usage.Limit, mem.Usage.MaxUsage, mem.Usage.Failcnt),
			"swap":  entry(mem.SwapUsage.Usage, mem.SwapUsage.Limit, mem.SwapUsage.MaxUsage, mem.SwapUsage.Failcnt),
			"raw":   mem.Stats,
		},
		"pids":  map[string]any{"current": s.PidsStats.Current, "limit": s.PidsStats.Limit},
		"blkio": map[string]any{"ioServiceBytesRecursive": s.BlkioStats.IoServiceBytesRecursive, "ioServicedRecursive": s.BlkioStats.IoServicedRecursive},
	}
}
