package compare

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"hull/cmd/internal/probe"
)

const (
	probePath = "/.hull-probe"
	// label marks what a comparison made; "docker ps -a --filter label=..." finds what
	// one that was killed has left.
	label = "hull.compare"
	// idle is how long a fresh instance is left alone before its memory is counted.
	idle = 2 * time.Second
	// The end of the user's patience does not end the removal of what was made.
	cleaning = time.Minute
)

func probePort() network.Port { return network.MustParsePort(fmt.Sprintf("%d/tcp", probe.Port)) }

// session is one comparison: what it made, to be removed.
type session struct {
	c     client.APIClient
	o     Options
	image image.InspectResponse
	probe string // id of the image with the probe in it

	mu         sync.Mutex
	containers map[string]struct{}
}

// instance is a running container whose program has spoken.
type instance struct {
	id     string
	kernel string
	took   time.Duration // create to its first words
}

// prepare makes an image of the user's with the probe as its program.
func (s *session) prepare(ctx context.Context) error {
	s.containers = map[string]struct{}{}
	program, err := os.ReadFile(s.o.Probe)
	if err != nil {
		return fmt.Errorf("read the probe: %w", err)
	}
	if err := s.find(ctx); err != nil {
		return err
	}
	id, err := s.create(ctx, &container.Config{Image: s.image.ID, Entrypoint: []string{probePath}, Cmd: []string{"serve"}}, &container.HostConfig{})
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(probePath, "/"), Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(program)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if _, err := s.c.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/", Content: &b}); err != nil {
		return fmt.Errorf("put the probe into a copy of %s: %w", s.o.Image, err)
	}
	made, err := s.c.ContainerCommit(ctx, id, client.ContainerCommitOptions{
		Reference: "hull-compare:" + strings.ToLower(rand.Text()[:10]), Comment: "hull compare",
		Changes: []string{`ENTRYPOINT ["` + probePath + `"]`, `CMD ["serve"]`, "HEALTHCHECK NONE"},
	})
	if err != nil {
		return fmt.Errorf("make a copy of %s with the probe in it: %w", s.o.Image, err)
	}
	s.probe = made.ID
	return s.remove(ctx, id)
}

// find inspects the image, pulling a missing one.
func (s *session) find(ctx context.Context) error {
	got, err := s.c.ImageInspect(ctx, s.o.Image)
	if errdefs.IsNotFound(err) {
		s.o.Progress("pull %s", s.o.Image)
		pulled, perr := s.c.ImagePull(ctx, s.o.Image, client.ImagePullOptions{})
		if perr != nil {
			return perr
		}
		if perr := pulled.Wait(ctx); perr != nil {
			return perr
		}
		got, err = s.c.ImageInspect(ctx, s.o.Image)
	}
	s.image = got.InspectResponse
	return err
}

func (s *session) create(ctx context.Context, cfg *container.Config, h *container.HostConfig) (string, error) {
	cfg.Labels = map[string]string{label: s.o.Image}
	made, err := s.c.ContainerCreate(ctx, client.ContainerCreateOptions{Config: cfg, HostConfig: h})
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.containers[made.ID] = struct{}{}
	s.mu.Unlock()
	return made.ID, nil
}

func (s *session) remove(ctx context.Context, id string) error {
	_, err := s.c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	return nil
}

func (s *session) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleaning)
	defer cancel()
	var errs []error
	for id := range s.containers {
		errs = append(errs, s.remove(ctx, id))
	}
	if s.probe != "" {
		_, err := s.c.ImageRemove(ctx, s.probe, client.ImageRemoveOptions{Force: true, PruneChildren: true})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// as is what an instance has beside what the image says.
type as struct {
	tmpfs  map[string]string // as HostConfig.Tmpfs
	volume string            // where a volume of its own is, "" = none
}

// boot runs an instance with the probe and waits for its first words.
func (s *session) boot(ctx context.Context, isolation string, how as) (*instance, error) {
	cfg := &container.Config{Image: s.probe, User: "0", Env: s.o.Env}
	if how.volume != "" {
		cfg.Volumes = map[string]struct{}{how.volume: {}}
	}
	port := probePort()
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	start := time.Now()
	cfg.ExposedPorts = network.PortSet{port: {}}
	id, err := s.create(ctx, cfg, &container.HostConfig{
		Isolation:    container.Isolation(isolation),
		Tmpfs:        how.tmpfs,
		PortBindings: network.PortMap{port: {{HostIP: netip.MustParseAddr("127.0.0.1")}}},
	})
	if err != nil {
		return nil, err
	}
	out, err := s.c.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, err
	}
	defer out.Close()
	defer context.AfterFunc(ctx, out.Close)()
	if _, err := s.c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return nil, err
	}
	words, err := firstLine(out.Reader)
	took := time.Since(start)
	if err != nil {
		return nil, fmt.Errorf("wait for the first words of %.12s: %w", id, errors.Join(err, ctx.Err()))
	}
	kernel, ok := strings.CutPrefix(words, probe.Up)
	if !ok {
		return nil, fmt.Errorf("%.12s says %q instead of its kernel", id, words)
	}
	return &instance{id: id, kernel: kernel, took: took}, nil
}

// firstLine reads a multiplexed stream up to the end of its first line.
func firstLine(r io.Reader) (string, error) {
	l := &line{}
	_, err := stdcopy.StdCopy(l, l, r)
	if l.done {
		return l.b.String(), nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return l.b.String(), err
}

// line keeps what is written up to a newline, at most 4 KiB, and then refuses more.
type line struct {
	b    strings.Builder
	done bool
}

func (l *line) Write(p []byte) (int, error) {
	before, _, found := bytes.Cut(p, []byte("\n"))
	l.b.Write(before)
	if found || l.b.Len() > 4096 {
		l.done = true
		return 0, io.EOF
	}
	return len(p), nil
}

// inside runs the probe's own measurements.
func (s *session) inside(ctx context.Context, id string, to *probe.Figures) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	out, code, err := s.exec(ctx, id, []string{probePath, "measure"}, "0")
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("the probe ended with %d: %s", code, strings.TrimSpace(out))
	}
	return json.Unmarshal([]byte(out), to)
}

// exec runs a command in a container and returns what it wrote, at most a MiB, and
// its exit code.
func (s *session) exec(ctx context.Context, id string, cmd []string, user string) (string, int, error) {
	made, err := s.c.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: cmd, User: user, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return "", 0, err
	}
	conn, err := s.c.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, conn.Close)()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, io.LimitReader(conn.Reader, 1<<20)); err != nil {
		return b.String(), 0, errors.Join(err, ctx.Err())
	}
	got, err := s.c.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
	return b.String(), got.ExitCode, err
}

// disk is what the container's writable layer takes.
func (s *session) disk(ctx context.Context, id string) (int64, error) {
	got, err := s.c.ContainerInspect(ctx, id, client.ContainerInspectOptions{Size: true})
	if err != nil {
		return 0, err
	}
	if got.Container.SizeRw == nil {
		return 0, errors.New("the engine does not say")
	}
	return *got.Container.SizeRw, nil
}
