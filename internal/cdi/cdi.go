// Package cdi gives containers the devices that vendors describe in files of the
// Container Device Interface (https://tags.cncf.io/container-device-interface):
// device nodes, mounts, variables and hooks under names as vendor.com/class=name.
//
// The files are read when somebody asks: nothing is watched.
package cdi

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"hull/internal/hull"
)

// Devices are those of some directories. It satisfies engine.Devices.
type Devices struct {
	dirs []string
	log  *slog.Logger
}

// New makes Devices of the files in dirs; of two with one name, the later directory's
// counts. log may be nil.
func New(dirs []string, log *slog.Logger) *Devices {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Devices{dirs: dirs, log: log}
}

func (d *Devices) read() (*cdi.Cache, error) {
	c, err := cdi.NewCache(cdi.WithSpecDirs(d.dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("read CDI files: %w", err)
	}
	for file, errs := range c.GetErrors() {
		d.log.Warn("CDI file cannot be used", "file", file, "error", errs)
	}
	return c, nil
}

// gpuVendors are asked, in this order, for what --gpus wants: kinds of their devices.
var gpuVendors = []string{"nvidia.com/gpu", "amd.com/gpu"} //nolint:gochecknoglobals // a constant

// Inject puts requested devices into a specification. Errors have Docker's words:
// errdefs.ErrInvalidArgument.
func (d *Devices) Inject(s *specs.Spec, requests []hull.DeviceRequest) error {
	if len(requests) == 0 {
		return nil
	}
	c, err := d.read()
	if err != nil {
		return err
	}
	for _, r := range requests {
		names, err := namesOf(c, r)
		if err != nil {
			return err
		}
		if _, err := c.InjectDevices(s, names...); err != nil {
			return fmt.Errorf("CDI device injection failed: %s: %w", err.Error(), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// namesOf are the devices that a request asks for.
func namesOf(c *cdi.Cache, r hull.DeviceRequest) ([]string, error) {
	if r.Driver == "cdi" {
		switch {
		case r.Count != 0:
			return nil, fmt.Errorf("unexpected count in CDI device request: %w", errdefs.ErrInvalidArgument)
		case len(r.Options) > 0:
			return nil, fmt.Errorf("unexpected options in CDI device request: %w", errdefs.ErrInvalidArgument)
		}
		return r.IDs, nil
	}
	none := fmt.Errorf("could not select device driver %q with capabilities: %v: %w", r.Driver, r.Capabilities, errdefs.ErrInvalidArgument)
	if !slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") }) {
		return nil, none
	}
	for _, kind := range gpuVendors {
		vendor, class := parser.ParseQualifier(kind)
		if r.Driver != "" && !strings.HasPrefix(vendor, r.Driver+".") {
			continue
		}
		if !slices.ContainsFunc(c.ListDevices(), func(n string) bool { return strings.HasPrefix(n, kind+"=") }) {
			continue
		}
		return gpus(vendor, class, r), nil
	}
	return nil, none
}

// gpus are a vendor's: all, those that are named, or the first so many.
func gpus(vendor, class string, r hull.DeviceRequest) (out []string) {
	switch {
	case len(r.IDs) > 0:
		for _, id := range r.IDs {
			out = append(out, parser.QualifiedName(vendor, class, id))
		}
	case r.Count < 0:
		out = []string{parser.QualifiedName(vendor, class, "all")}
	default:
		for i := range r.Count {
			out = append(out, parser.QualifiedName(vendor, class, fmt.Sprint(i)))
		}
	}
	return out
}
