package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

// opener opens the image's root for copying content up into a volume.
func (e *base) opener(ctx context.Context, id string) func() (*os.File, error) {
	return func() (*os.File, error) { return e.images.Open(ctx, id) }
}

// rootOf opens a container's root directory: the running one with its mounts, in
// which owners are those of its user namespace, else a detached mount of its layers.
func (e *base) rootOf(ctx context.Context, c hull.Container) (*os.File, hull.IDRange, error) {
	if pod := e.runs.pod(c.PodID); pod != nil && c.Status.Phase.Live() {
		f, err := driver.Root(ctx, pod.box, c.ID)
		return f, c.Status.Endpoint.IDs, err
	}
	f, err := e.images.Open(ctx, c.ID)
	return f, hull.IDRange{}, err
}

// place is where a path of a container is: below which directory, by what name,
// and whether it may be written. In a container that does not run, a path
// inside a volume is looked up in the volume. What only a machine can read, it is
// asked for.
type place struct {
	root     *os.File     // nil = machine
	at       string       // where root is mounted in the container
	machine  driver.Files // nil = root
	done     hull.Release
	path     string
	readOnly bool
	ids      hull.IDRange
}

func (e *copies) stat(ctx context.Context, at place) (hull.PathStat, error) {
	if at.machine != nil {
		return at.machine.Stat(ctx, at.path)
	}
	return e.files.Stat(at.root, at.at, at.path)
}

func (e *copies) pack(ctx context.Context, at place, as string, w io.Writer) error {
	r := hull.CopyFromRequest{Path: at.path, As: as, IDs: at.ids}
	if at.machine != nil {
		return at.machine.Pack(ctx, r, w)
	}
	return e.files.Pack(ctx, at.root, r, w)
}

func (e *copies) unpack(ctx context.Context, c hull.Container, at place, r hull.CopyToRequest, tar io.Reader) error {
	user := ""
	if r.CopyUIDGID {
		user = c.Resolved.User
	}
	r.Path, r.IDs = at.path, at.ids
	if at.machine != nil {
		return at.machine.Unpack(ctx, r, user, tar)
	}
	if user != "" {
		owner, err := e.ownerIn(ctx, c, user)
		if err != nil {
			return err
		}
		r.Owner = &owner
	}
	return e.files.Unpack(ctx, at.root, r, tar)
}

func (e *copies) leave(ctx context.Context, at place) {
	if at.root != nil {
		at.root.Close()
		return
	}
	if err := at.done(context.WithoutCancel(ctx)); err != nil {
		e.log.Error("leave the machine of a container's files", "error", err)
	}
}

func (e *copies) place(ctx context.Context, c hull.Container, p string) (place, error) {
	clean := path.Join("/", p)
	live := c.Status.Phase.Live()
	best := hull.MountPoint{}
	for _, m := range c.Mounts {
		t := path.Clean(m.Target)
		if (clean == t || strings.HasPrefix(clean, t+"/")) && len(t) > len(best.Target) {
			best = m
		}
	}
	slash := ""
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		slash = "/."
	}
	if best.Target != "" && !live {
		if best.Type == hull.MountTmpfs || best.Type == hull.MountSecret {
			return place{}, fmt.Errorf("%s is a %s, which exists only while container %s runs: %w", best.Target, best.Type, c.Name, errdefs.ErrNotFound)
		}
		f, err := e.openMount(ctx, c, best)
		if err != nil {
			return place{}, fmt.Errorf("open mount at %s: %w", best.Target, err)
		}
		st, err := f.Stat()
		if err == nil && st.IsDir() {
			t := path.Clean(best.Target)
			return place{root: f, at: t, path: path.Join("/", strings.TrimPrefix(clean, t)) + slash, readOnly: !best.RW}, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return place{}, fmt.Errorf("open mount at %s: %w", best.Target, err)
		}
	}
	ro := c.Spec.Security.ReadOnlyRootfs
	if best.Target != "" {
		ro = !best.RW
	}
	if e.machineOf(c) {
		f, done, err := e.machineFiles(ctx, c.ID)
		if err != nil {
			return place{}, fmt.Errorf("open root of %s: %w", c.Name, err)
		}
		return place{machine: f, done: done, path: clean + slash, readOnly: ro}, nil
	}
	root, ids, err := e.rootOf(ctx, c)
	if err != nil {
		return place{}, fmt.Errorf("open root of %s: %w", c.Name, err)
	}
	return place{root: root, at: "/", path: clean + slash, readOnly: ro, ids: ids}, nil
}

// noSuch adds the container to a path that is not there.
func noSuch(err error, c hull.Container, p string) error {
	if errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("could not find the file %s in container %s: %w", p, c.Name, errdefs.ErrNotFound)
	}
	return err
}

// StatPath describes a file in a container.
func (e *copies) StatPath(ctx context.Context, ref, p string) (hull.PathStat, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return hull.PathStat{}, err
	}
	at, err := e.place(ctx, c, p)
	if err != nil {
		return hull.PathStat{}, err
	}
	defer e.leave(ctx, at)
	st, err := e.stat(ctx, at)
	return st, noSuch(err, c, p)
}

// CopyFrom packs a path of a container as a tar. The reader must be closed.
func (e *copies) CopyFrom(ctx context.Context, ref, p string) (io.ReadCloser, hull.PathStat, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return nil, hull.PathStat{}, err
	}
	at, err := e.place(ctx, c, p)
	if err != nil {
		return nil, hull.PathStat{}, err
	}
	st, err := e.stat(ctx, at)
	if err != nil {
		e.leave(ctx, at)
		return nil, st, noSuch(err, c, p)
	}
	r, w := io.Pipe()
	e.runs.wg.Go(func() {
		defer e.leave(ctx, at)
		w.CloseWithError(e.pack(ctx, at, p, w))
	})
	e.publish("archive-path", c, nil)
	return r, st, nil
}

// CopyTo unpacks a tar below a directory of a container.
func (e *copies) CopyTo(ctx context.Context, ref string, r hull.CopyToRequest, tar io.Reader) error {
	c, err := e.store.Container(ref)
	if err != nil {
		return err
	}
	at, err := e.place(ctx, c, r.Path)
	if err != nil {
		return err
	}
	defer e.leave(ctx, at)
	st, err := e.stat(ctx, at)
	if err != nil {
		return noSuch(err, c, r.Path)
	}
	if !st.Mode.IsDir() && st.LinkTarget == "" {
		return fmt.Errorf("extraction point %s is not a directory: %w", r.Path, errdefs.ErrInvalidArgument)
	}
	if at.readOnly {
		return fmt.Errorf("container rootfs is marked read-only: %w", errdefs.ErrPermissionDenied)
	}
	if err := e.unpack(ctx, c, at, r, tar); err != nil {
		return fmt.Errorf("copy to %s: %w", c.Name, err)
	}
	e.publish("extract-to-dir", c, nil)
	return nil
}

// ownerIn looks a user up in a container.
func (e *base) ownerIn(ctx context.Context, c hull.Container, user string) (hull.FileOwner, error) {
	root, _, err := e.rootOf(ctx, c)
	if err != nil {
		return hull.FileOwner{}, fmt.Errorf("open root of %s: %w", c.Name, err)
	}
	defer root.Close()
	return e.files.User(root, user)
}

// Changes lists what differs from the image.
func (e *copies) Changes(ctx context.Context, ref string) ([]hull.Change, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return nil, err
	}
	done, err := e.fetchLayer(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	return e.images.Changes(ctx, c.ID)
}

// Export writes the root file system, without volumes, as a tar.
func (e *copies) Export(ctx context.Context, ref string, w io.Writer) error {
	c, err := e.store.Container(ref)
	if err != nil {
		return err
	}
	done, err := e.fetchLayer(ctx, c)
	if err != nil {
		return err
	}
	defer done()
	if err := e.images.Export(ctx, c.ID, w); err != nil {
		return fmt.Errorf("export %s: %w", c.Name, err)
	}
	e.publish("export", c, nil)
	return nil
}

// Commit makes an image of a container's writable layer. The configuration is
// the one the container ran with; r.Changes is applied on top by the image service.
func (e *copies) Commit(ctx context.Context, ref string, r hull.CommitRequest) (_ string, err error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return "", err
	}
	if r.Pause && c.Status.Phase == hull.Running {
		if err := e.Pause(ctx, c.ID); err != nil {
			return "", fmt.Errorf("pause for commit: %w", err)
		}
		defer func() {
			if uerr := e.Unpause(context.WithoutCancel(ctx), c.ID); err == nil {
				err = uerr
			}
		}()
	}
	done, err := e.fetchLayer(ctx, c)
	if err != nil {
		return "", err
	}
	defer done()
	id, err := e.images.Commit(ctx, c.ID, r, commitConfig(c))
	if err != nil {
		return "", fmt.Errorf("commit %s: %w", c.Name, err)
	}
	e.publish("commit", c, map[string]string{"comment": r.Comment, "imageID": id, "imageRef": r.Ref})
	return id, nil
}

func commitConfig(c hull.Container) hull.ImageConfig {
	r := c.Resolved
	conf := hull.ImageConfig{
		User: r.User, Env: r.Env, Entrypoint: r.Entrypoint, Cmd: r.Cmd, WorkingDir: r.WorkDir, Labels: r.Labels,
		StopSignal: r.StopSignal, Healthcheck: r.Health, OnBuild: r.OnBuild, Shell: r.Shell,
		ExposedPorts: map[string]struct{}{}, Volumes: map[string]struct{}{},
	}
	if conf.WorkingDir == "/" {
		conf.WorkingDir = ""
	}
	if conf.StopSignal == "SIGTERM" {
		conf.StopSignal = ""
	}
	for _, p := range r.Exposed {
		conf.ExposedPorts[p] = struct{}{}
	}
	for _, v := range r.Volumes {
		conf.Volumes[v] = struct{}{}
	}
	return conf
}
