// Package compare runs one image under each isolation of an engine and measures what
// people argue about when they choose between a container and a virtual machine.
package compare

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/client"

	"hull/api"
	"hull/cmd/internal/probe"
)

// Options say what is compared, and how often.
type Options struct {
	Image      string
	Command    []string // run inside of an instance; its output says what it achieves
	Env        []string // of the instances
	Isolations []string // nil = all that work here
	Boots      int      // of each isolation
	Instances  int      // idle ones at once, for their memory
	FullVM     string   // a distribution's disk image to boot beside, "" = none
	Patience   time.Duration
	Probe      string                           // path of hull-probe
	Progress   func(format string, args ...any) // may be nil
}

// Report is the comparison of one image.
type Report struct {
	Image     string    `json:"image"`
	ImageID   string    `json:"image_id"`
	ImageSize int64     `json:"image_size"` // bytes on disk, one copy for all instances
	Host      string    `json:"host"`
	Command   []string  `json:"command,omitempty"`
	Instances int       `json:"instances"`
	When      time.Time `json:"when"`
	Figures   []Figures `json:"figures"`
}

// Figures are one isolation's. What could not be measured is 0, and Missing says why.
type Figures struct {
	Isolation string            `json:"isolation"`
	Boundary  string            `json:"boundary"`
	Kernel    string            `json:"kernel"`                // that the instance sees
	OwnKernel bool              `json:"own_kernel"`            // it is not the host's
	FirstBoot time.Duration     `json:"first_boot_ns"`         // create to the first byte that the program writes
	Boot      time.Duration     `json:"boot_ns"`               // median of the later ones
	Restored  time.Duration     `json:"restored_ns,omitempty"` // vm: with a file system in memory for each of the image's volumes
	Cold      time.Duration     `json:"cold_ns,omitempty"`     // vm: with a volume more
	Memory    int64             `json:"memory"`                // bytes, PSS of all processes that an idle instance needs
	MemoryAll int64             `json:"memory_all"`            // of Report.Instances of them
	Disk      int64             `json:"disk"`                  // bytes that an idle instance adds
	Inside    probe.Figures     `json:"inside"`                // measured by hull-probe
	Download  float64           `json:"download"`              // MiB/s out of the instance, through a published port
	Requests  float64           `json:"requests_per_s"`        // 64 bytes there and back, one at a time
	Answers   time.Duration     `json:"answers_ns,omitempty"`  // create to the first connection that the service takes; without a port: to Command's first success
	Load      float64           `json:"load,omitempty"`        // what Command says per second, the best of three
	LoadUnit  string            `json:"load_unit,omitempty"`
	Missing   map[string]string `json:"missing,omitempty"`
}

func (f *Figures) miss(what string, err error) {
	if f.Missing == nil {
		f.Missing = map[string]string{}
	}
	f.Missing[what] = err.Error()
}

// Run measures. It removes all that it made, also when ctx ends. An isolation that
// fails is in the report with the reason; an error is for all of them.
func Run(ctx context.Context, c client.APIClient, info *api.Info, o Options) (r *Report, err error) {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	isolations, err := choose(info, o.Isolations)
	if err != nil {
		return nil, err
	}
	s := &session{c: c, o: o}
	defer func() { err = errors.Join(err, s.cleanUp()) }()
	o.Progress("prepare %s", o.Image)
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	r = &Report{
		Image: o.Image, ImageID: s.image.ID, ImageSize: s.image.Size, Host: info.Name, Command: o.Command,
		Instances: max(1, o.Instances), When: time.Now().UTC().Truncate(time.Second),
	}
	host := hostKernel()
	for _, name := range isolations {
		f := Figures{Isolation: name, Boundary: info.Isolations[name].Details["boundary"]}
		if err := s.measure(ctx, &f); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			f.miss("instance", err)
		}
		f.OwnKernel = f.Kernel != "" && f.Kernel != host
		r.Figures = append(r.Figures, f)
	}
	if o.FullVM != "" {
		r.Figures = append(r.Figures, fullVM(ctx, info, o))
	}
	return r, ctx.Err()
}

// choose gives the isolations to compare, in the order of their strength.
func choose(info *api.Info, want []string) ([]string, error) {
	var out []string
	for _, name := range []string{"container", "sandbox", "vm"} {
		i, ok := info.Isolations[name]
		asked := slices.Contains(want, name)
		switch {
		case asked && !ok:
			return nil, fmt.Errorf("isolation %s: this engine does not know it", name)
		case asked && !i.Available:
			return nil, fmt.Errorf("isolation %s is not available here: %s", name, i.Reason)
		case asked || len(want) == 0 && i.Available:
			out = append(out, name)
		}
	}
	for _, name := range want {
		if !slices.Contains(out, name) {
			return nil, fmt.Errorf("isolation %q: want container, sandbox or vm", name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no isolation of this engine is available: see hull info")
	}
	return out, nil
}

// measure fills in the figures of one isolation.
func (s *session) measure(ctx context.Context, f *Figures) error {
	s.o.Progress("%s: boot %d times", f.Isolation, s.o.Boots)
	var err error
	if f.FirstBoot, f.Boot, err = s.boots(ctx, f, max(2, s.o.Boots), as{}); err != nil {
		return err
	}
	if f.Isolation == "vm" {
		if f.Restored, f.Cold, err = s.bothWays(ctx, f); err != nil {
			return err
		}
	}
	i, err := s.boot(ctx, f.Isolation, as{})
	if err != nil {
		return err
	}
	if f.Memory, err = s.memory(ctx, i.id); err != nil {
		f.miss("memory", err)
	}
	if f.Disk, err = s.disk(ctx, i.id); err != nil {
		f.miss("disk", err)
	}
	s.o.Progress("%s: system calls, files, network", f.Isolation)
	if err := s.inside(ctx, i.id, &f.Inside); err != nil {
		f.miss("inside", err)
	}
	if err := s.network(ctx, i.id, f); err != nil {
		f.miss("network", err)
	}
	if err := s.remove(ctx, i.id); err != nil {
		return err
	}
	if s.o.Instances > 1 {
		s.o.Progress("%s: %d at once", f.Isolation, s.o.Instances)
		if f.MemoryAll, err = s.many(ctx, f.Isolation, s.o.Instances); err != nil {
			f.miss("instances", err)
		}
	} else {
		f.MemoryAll = f.Memory
	}
	if len(s.o.Command) > 0 {
		s.o.Progress("%s: %v", f.Isolation, s.o.Command)
		if err := s.load(ctx, f); err != nil {
			f.miss("command", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// boots starts and removes instances one after the other. rest is the median of all
// but the first.
func (s *session) boots(ctx context.Context, f *Figures, n int, how as) (first, rest time.Duration, err error) {
	var took []time.Duration
	for range n {
		i, err := s.boot(ctx, f.Isolation, how)
		if err != nil {
			return 0, 0, err
		}
		f.Kernel = i.kernel
		took = append(took, i.took)
		if err := s.remove(ctx, i.id); err != nil {
			return 0, 0, err
		}
	}
	first, later := took[0], took[1:]
	slices.Sort(later)
	return first, later[len(later)/2], nil
}

// bothWays are the two ways in which a machine comes up.
func (s *session) bothWays(ctx context.Context, f *Figures) (restored, cold time.Duration, err error) {
	inMemory := map[string]string{}
	if c := s.image.Config; c != nil {
		for dir := range c.Volumes {
			inMemory[dir] = ""
		}
	}
	n := max(2, s.o.Boots/2)
	if _, restored, err = s.boots(ctx, f, n, as{tmpfs: inMemory}); err != nil {
		return 0, 0, err
	}
	_, cold, err = s.boots(ctx, f, n, as{volume: probePath + "-volume"})
	return restored, cold, err
}
