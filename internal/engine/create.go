package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/undo"
)

// Create gives a container its keeping: name, id, resolved image, writable
// layer, volumes, record. It is ended by Remove. name "" = choose one.
func (e *creation) Create(ctx context.Context, name string, s hull.Spec) (hull.Container, []string, error) {
	return e.CreateIn(ctx, "", name, s)
}

// CreateIn is Create of a container of an existing pod; podID "" gives it a pod
// of its own. The pod's isolation and network are the container's.
func (e *creation) CreateIn(ctx context.Context, podID, name string, s hull.Spec) (_ hull.Container, _ []string, err error) {
	if podID != "" {
		pod, err := e.store.Pod(podID)
		if err != nil {
			return hull.Container{}, nil, err
		}
		s.Isolation, s.Runtime, s.Network = pod.Isolation, pod.Runtime, pod.Network
	}
	if s, err = e.withRuntime(s); err != nil {
		return hull.Container{}, nil, err
	}
	s = withDefaults(s, e.cfg)
	if err := validate(s); err != nil {
		return hull.Container{}, nil, err
	}
	drv, err := e.driver(s.Isolation, s.Runtime)
	if err != nil {
		return hull.Container{}, nil, err
	}
	if err := e.logs.Check(s.Log); err != nil {
		return hull.Container{}, nil, err
	}
	if _, err := parseSecurity(s.Security); err != nil {
		return hull.Container{}, nil, err
	}
	if _, err := capabilities(s.Security); err != nil {
		return hull.Container{}, nil, err
	}
	if err := errors.Join(e.checkUsers(s, drv), checkOwners(s, drv)); err != nil {
		return hull.Container{}, nil, err
	}
	if s, err = e.resolveShared(s); err != nil {
		return hull.Container{}, nil, notImage(err)
	}
	if s, err = e.resolveLinks(s); err != nil {
		return hull.Container{}, nil, err
	}
	if err := e.checkMachine(s, podID, drv); err != nil {
		return hull.Container{}, nil, err
	}
	if err := e.checkSecrets(ctx, s); err != nil {
		return hull.Container{}, nil, notImage(err)
	}
	if err := e.networks.Check(ctx, s.Network); err != nil && !errdefs.IsNotFound(err) { // a network may be made before the start
		return hull.Container{}, nil, err
	}
	img, err := e.images.Resolve(ctx, s.Image, s.Platform)
	if err != nil {
		return hull.Container{}, nil, err
	}
	res, err := resolve(s, img.Config)
	if err != nil {
		return hull.Container{}, nil, err
	}
	c := hull.Container{
		ID: newID(), Created: time.Now().UTC(), Spec: s, Resolved: res,
		Image:  hull.ImageRef{Name: s.Image, ID: img.ID, Manifest: img.Manifest, Platform: path.Join(img.OS, img.Architecture, img.Variant)},
		Status: hull.Status{Phase: hull.Created},
	}
	c.PodID = firstOf(podID, c.ID)
	if c.Name, err = e.chooseName(name); err != nil {
		return hull.Container{}, nil, err
	}

	var back undo.Stack
	defer back.OnError(ctx, undoLimit, &err)

	if err := e.images.Prepare(ctx, c.ID, img, s.StorageOpt); err != nil {
		return hull.Container{}, nil, fmt.Errorf("prepare root file system: %w", err)
	}
	back.Add("discard root file system", func(ctx context.Context) error { return e.images.Discard(ctx, c.ID) })

	wanted, err := e.wantedMounts(s, res)
	if err != nil {
		return hull.Container{}, nil, notImage(err)
	}
	if c.Mounts, err = e.volumes.Resolve(ctx, c.ID, wanted); err != nil {
		return hull.Container{}, nil, err
	}
	back.Add("drop volumes", func(ctx context.Context) error { return e.volumes.Drop(ctx, c.ID, c.Mounts, true) })

	if err := e.holdImages(ctx, &c, &back); err != nil {
		return hull.Container{}, nil, err
	}
	if err := e.record(&c, name == ""); err != nil {
		return hull.Container{}, nil, err
	}
	e.publish("create", c, nil)
	return c, append(e.warnings(s, drv.Info().Abilities), foreign(s, img)...), nil
}

// notImage keeps "not found" for the image: clients of a create answer it with a
// pull.
func notImage(err error) error {
	if !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("%s: %w", strings.TrimSuffix(err.Error(), ": "+errdefs.ErrNotFound.Error()), errdefs.ErrInvalidArgument)
}

// record stores a new container; a chosen name that is taken meanwhile is
// chosen again.
func (e *creation) record(c *hull.Container, chosen bool) error {
	for {
		err := e.store.PutContainer(*c, !c.Spec.AutoRemove)
		var taken *hull.NameTakenError
		if err == nil || !chosen || !errors.As(err, &taken) {
			return err
		}
		c.Name = randomName()
	}
}

// newID is 64 hex digits. Their first twelve are the default host name: with no
// letter in them resolvers take it for a number (moby issue 3869).
func newID() string {
	b := make([]byte, 32)
	for {
		_, _ = rand.Read(b) // never fails: crypto/rand
		id := hex.EncodeToString(b)
		if strings.ContainsAny(id[:12], "abcdef") {
			return id
		}
	}
}

var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`) //nolint:gochecknoglobals // compiled once

func (e *creation) chooseName(name string) (string, error) {
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return randomName(), nil
	}
	if !nameRule.MatchString(name) {
		return "", fmt.Errorf("invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed: %w", name, errdefs.ErrInvalidArgument)
	}
	// Before anything is made; PutContainer is what decides.
	if c, err := e.store.Container(name); err == nil && c.Name == name {
		return "", &hull.NameTakenError{Name: name, ID: c.ID}
	}
	return name, nil
}

// wantedMounts is the user's mounts, those of --volumes-from, and the image's
// volumes that nothing else covers. A nameless volume (-v /data) is one of these.
func (e *creation) wantedMounts(s hull.Spec, res hull.Resolved) ([]hull.Mount, error) {
	out := slices.Clone(s.Mounts)
	has := func(target string) bool {
		return slices.ContainsFunc(out, func(m hull.Mount) bool { return path.Clean(m.Target) == path.Clean(target) })
	}
	for i, m := range out {
		if slices.ContainsFunc(out[:i], func(o hull.Mount) bool { return path.Clean(o.Target) == path.Clean(m.Target) }) {
			return nil, fmt.Errorf("duplicate mount point: %s: %w", m.Target, errdefs.ErrInvalidArgument)
		}
	}
	nameless := func(m hull.Mount) bool { return m.Type == hull.MountVolume && m.Source == "" && m.ViaBind }
	last := slices.DeleteFunc(slices.Clone(out), func(m hull.Mount) bool { return !nameless(m) })
	out = slices.DeleteFunc(out, nameless)
	for _, from := range s.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		if mode != "" && mode != "ro" && mode != "rw" && mode != "z" && mode != "Z" {
			return nil, fmt.Errorf("invalid mode %q for volumes-from: %w", mode, errdefs.ErrInvalidArgument)
		}
		o, err := e.store.Container(ref)
		if err != nil {
			return nil, err
		}
		for _, mp := range o.Mounts {
			if has(mp.Target) || mp.Type == hull.MountTmpfs {
				continue
			}
			m := mp.Spec
			m.Source = firstOf(mp.Name, m.Source)
			m.ReadOnly = m.ReadOnly || mode == "ro"
			m.FromImage, m.NoCopy = false, true // the image's files are the other's to copy
			out = append(out, m)
		}
	}
	for _, m := range last {
		if !has(m.Target) {
			out = append(out, m)
		}
	}
	for _, v := range res.Volumes {
		if !has(v) {
			out = append(out, hull.Mount{Type: hull.MountVolume, Target: path.Clean(v), FromImage: true})
		}
	}
	return out, nil
}

// resolveShared replaces container:NAME in namespace and network modes by the
// full id, so that a rename does not break it.
func (e *creation) resolveShared(s hull.Spec) (hull.Spec, error) {
	for _, mode := range []*string{&s.Network.Mode, &s.Namespaces.PID, &s.Namespaces.IPC, &s.Namespaces.UTS} {
		ref, ok := strings.CutPrefix(*mode, "container:")
		if !ok {
			continue
		}
		o, err := e.store.Container(ref)
		if err != nil {
			return s, err
		}
		*mode = "container:" + o.ID
	}
	if strings.HasPrefix(s.Network.Mode, "container:") {
		switch n := s.Network; {
		case s.Hostname != "":
			return s, conflict("hostname and the network mode")
		case len(n.Ports) > 0 || n.PublishAll:
			return s, conflict("port publishing and the container type network mode")
		case len(n.Exposed) > 0:
			return s, conflict("port exposing and the container type network mode")
		case len(n.DNS) > 0:
			return s, conflict("dns and the network mode")
		case len(n.ExtraHosts) > 0:
			return s, conflict("custom host-to-IP mapping and the network mode")
		}
		o, err := e.store.Container(strings.TrimPrefix(s.Network.Mode, "container:"))
		if err != nil {
			return s, err
		}
		s.Hostname, s.Domainname = hostnameOf(o), o.Spec.Domainname // it is the other's network, and so its name
	}
	return s, nil
}

func conflict(what string) error {
	return fmt.Errorf("conflicting options: %s: %w", what, errdefs.ErrInvalidArgument)
}

// foreign warns, in Docker's words, of an image for other processors that nobody asked for.
func foreign(s hull.Spec, img hull.Image) []string {
	if s.Platform != "" || img.Architecture == "" || img.Architecture == runtime.GOARCH {
		return nil
	}
	return []string{fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested",
		path.Join(img.OS, img.Architecture, img.Variant), path.Join(runtime.GOOS, runtime.GOARCH))}
}

// warnings tells the user what this host will not do.
func (e *creation) warnings(s hull.Spec, abilities []string) []string {
	var w []string
	if s.Resources.OomKillDisable != nil && *s.Resources.OomKillDisable && s.Resources.Memory == 0 {
		w = append(w, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if s.Health != nil && !slices.Contains(abilities, "exec") {
		w = append(w, "This isolation cannot run health checks; the check is ignored.")
	}
	if s.Network.Mode == "host" && (len(s.Network.Ports) > 0 || s.Network.PublishAll) {
		w = append(w, "Published ports are discarded when using host network mode")
	}
	return w
}
