package build

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/grpchijack"
	solvererrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/image/packed"
)

// Build builds an image as r says. The context is the tar in body, or the
// client's session. What happens is told through event, in order. The result is
// the image's id, "" when it was exported elsewhere.
func (s *Service) Build(ctx context.Context, r hull.BuildRequest, body io.Reader, event func(hull.BuildEvent)) (id string, err error) {
	if _, err := platforms.ParseAll(splitList(r.Platform)); err != nil {
		return "", fmt.Errorf("platform %s: %w: %w", r.Platform, err, errdefs.ErrInvalidArgument)
	}
	k, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	ctx, done, err := k.cancellable(ctx, r.ID)
	if err != nil {
		return "", err
	}
	defer done()
	c, err := client.New(ctx, "", client.WithContextDialer(k.dial))
	if err != nil {
		return "", fmt.Errorf("reach the builder: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	switch {
	case r.Remote == "":
	case r.Session != "":
		return k.traced(ctx, c, r, local{}, event)
	default:
		return k.told(ctx, c, r, local{}, event)
	}
	dir, sum, err := s.context(ctx, body)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if text, ok := r.Args[sourceDateEpoch]; ok {
		if err := normalise(dir, text); err != nil {
			return "", err
		}
	}
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return "", fmt.Errorf("build context: %w", err)
	}
	from := local{map[string]fsutil.FS{"context": files, "dockerfile": files}, sum}
	if r.Session != "" {
		return k.traced(ctx, c, r, from, event)
	}
	return k.told(ctx, c, r, from, event)
}

// local is a context that was sent. BuildKit tells files of one key apart by size
// and time, which two tars may have in common: so each tar has a key of its own.
type local struct {
	mounts map[string]fsutil.FS
	key    string
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// context unpacks a context that came as a tar, compressed or not, and gives its
// digest. Nothing in it leads outside of the directory.
func (s *Service) context(ctx context.Context, body io.Reader) (string, string, error) {
	top := filepath.Join(s.cfg.Root, "contexts")
	if err := os.MkdirAll(top, 0o700); err != nil {
		return "", "", fmt.Errorf("make build context: %w", err)
	}
	dir, err := os.MkdirTemp(top, "")
	if err != nil {
		return "", "", fmt.Errorf("make build context: %w", err)
	}
	sum := digest.Canonical.Digester()
	body = io.TeeReader(body, sum.Hash())
	root, err := os.Open(dir)
	if err == nil {
		var plain io.ReadCloser
		if plain, _, err = packed.Decompress(body); err == nil {
			_, err = archive.Unpack(ctx, bufio.NewReaderSize(plain, 128<<10), root, archive.Options{})
			err = errors.Join(err, plain.Close())
		}
		root.Close()
	}
	if err == nil {
		_, err = io.Copy(io.Discard, body) // what follows the end of the tar
	}
	if err != nil {
		return "", "", errors.Join(fmt.Errorf("unpack build context: %w", err), os.RemoveAll(dir))
	}
	return dir, sum.Digest().String(), nil
}

// attrs are the Dockerfile frontend's.
func attrs(r hull.BuildRequest) map[string]string {
	a := map[string]string{"image-resolve-mode": "local"}
	set := func(k, v string) {
		if v != "" {
			a[k] = v
		}
	}
	set("filename", r.Dockerfile)
	set("target", r.Target)
	set("platform", r.Platform)
	set("context", r.Remote)
	set("cgroup-parent", r.Cgroup)
	set(isolationAttr, string(r.Isolation))
	set("cache-from", strings.Join(r.CacheFrom, ","))
	set("add-hosts", strings.Join(hosts(r.ExtraHosts), ","))
	if r.Network != "" && r.Network != "default" && r.Network != "bridge" {
		a["force-network-mode"] = r.Network
	}
	if r.Pull {
		a["image-resolve-mode"] = "pull"
	}
	if r.NoCache {
		a["no-cache"] = ""
	}
	if r.ShmSize > 0 {
		a["shm-size"] = strconv.FormatInt(r.ShmSize, 10)
	}
	var limits []string
	for _, u := range r.Ulimits {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	set("ulimit", strings.Join(limits, ","))
	for k, v := range r.Args {
		a["build-arg:"+k] = v
	}
	for k, v := range r.Labels {
		a["label:"+k] = v
	}
	return a
}

// exported are the exporter's.
func exported(r hull.BuildRequest) map[string]string {
	a := map[string]string{"name": strings.Join(r.Names, ",")}
	if r.Squash {
		a[squashAttr] = "true"
	}
	return a
}

// hosts turns "name:ip" into the frontend's "name=ip".
func hosts(list []string) []string {
	var out []string
	for _, h := range list {
		name, ip, _ := strings.Cut(h, ":")
		out = append(out, name+"="+ip)
	}
	return out
}

func entitled(r hull.BuildRequest) []string {
	if r.Network == "host" {
		return []string{"network.host"} // who may use the socket may run with the host's network
	}
	return nil
}

// serve gives the builder the context in a session of its own, beside the client's,
// until the build is over. The result are the frontend's attributes that say so.
func (l local) serve(ctx context.Context, c *client.Client, g *errgroup.Group) (map[string]string, error) {
	if len(l.mounts) == 0 {
		return nil, nil //nolint:nilnil // nothing to say
	}
	s, err := session.NewSession(ctx, l.key)
	if err != nil {
		return nil, fmt.Errorf("offer build context: %w", err)
	}
	s.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource(l.mounts)))
	g.Go(func() error { return s.Run(ctx, grpchijack.Dialer(c.ControlClient())) })
	out := map[string]string{}
	for name := range l.mounts {
		out["local-sessionid:"+name] = s.ID()
	}
	return out, nil
}

// traced builds with a client's session: its context is there, or was sent. The
// client draws the progress itself.
func (k *kit) traced(ctx context.Context, c *client.Client, r hull.BuildRequest, from local, event func(hull.BuildEvent)) (string, error) {
	ref := r.ID
	if ref == "" {
		ref = newID()
	}
	if r.Remote == "client-session" {
		r.Remote = ""
	}
	var out *controlapi.SolveResponse
	g, gctx := errgroup.WithContext(ctx)
	served, stop := context.WithCancel(gctx)
	defer stop()
	sources, err := from.serve(served, c, g)
	if err != nil {
		return "", err
	}
	opts := attrs(r)
	maps.Copy(opts, sources)
	g.Go(func() (err error) {
		defer stop()
		out, err = c.ControlClient().Solve(gctx, &controlapi.SolveRequest{
			Ref: ref, Session: r.Session, Frontend: "dockerfile.v0", FrontendAttrs: opts, Entitlements: entitled(r),
			Exporters: []*controlapi.Exporter{{Type: "moby", Attrs: exported(r)}},
			Cache:     &controlapi.CacheOptions{},
		})
		return err
	})
	g.Go(func() error {
		st, err := c.ControlClient().Status(gctx, &controlapi.StatusRequest{Ref: ref})
		if err != nil {
			return err
		}
		for {
			m, err := st.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			b, err := m.MarshalVT()
			if err != nil {
				return err
			}
			event(hull.BuildEvent{Trace: b})
		}
	})
	if err := g.Wait(); err != nil {
		return "", buildError(err)
	}
	return finish(out.ExporterResponse, r, event)
}

// told builds and tells in words, as the classic builder does.
func (k *kit) told(ctx context.Context, c *client.Client, r hull.BuildRequest, from local, event func(hull.BuildEvent)) (string, error) {
	out, err := solve(ctx, c, client.SolveOpt{
		Session:  credentials(r),
		Internal: true, // no record for buildx: with its statements it is a third of a build that changes nothing
		Frontend: "dockerfile.v0", FrontendAttrs: attrs(r), LocalMounts: from.mounts, SharedKey: from.key, AllowedEntitlements: entitled(r),
		Exports: []client.ExportEntry{{Type: "moby", Attrs: exported(r)}},
	}, event)
	if err != nil {
		return "", err
	}
	return finish(out.ExporterResponse, r, event)
}

// solve builds and tells the steps.
func solve(ctx context.Context, c *client.Client, opt client.SolveOpt, event func(hull.BuildEvent)) (*client.SolveResponse, error) {
	status := make(chan *client.SolveStatus)
	var watch sync.WaitGroup
	watch.Go(func() {
		t := teller{event: event, seen: map[string]bool{}, bases: bases(opt.LocalMounts["dockerfile"], opt.FrontendAttrs["filename"])}
		for st := range status {
			t.tell(st)
		}
	})
	out, err := c.Solve(ctx, nil, opt, status)
	watch.Wait()
	if err != nil {
		if text := where(err); text != "" {
			event(hull.BuildEvent{Text: text})
		}
		return nil, buildError(err)
	}
	return out, nil
}

func finish(resp map[string]string, r hull.BuildRequest, event func(hull.BuildEvent)) (string, error) {
	id := resp[exptypes.ExporterImageConfigDigestKey]
	if id == "" {
		return "", nil
	}
	event(hull.BuildEvent{ImageID: id})
	if r.Session == "" {
		_, hex, _ := strings.Cut(id, ":")
		event(hull.BuildEvent{Text: "Successfully built " + hex[:min(12, len(hex))] + "\n"})
		for _, n := range r.Names {
			event(hull.BuildEvent{Text: "Successfully tagged " + tagged(n) + "\n"})
		}
	}
	return id, nil
}

// tagged is a name as users know it, with its tag.
func tagged(name string) string {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(reference.TagNameOnly(n))
}

// failedStep is how BuildKit words a step that failed.
var failedStep = regexp.MustCompile(`process "(.*)" did not complete successfully: exit code: (\d+)`) //nolint:gochecknoglobals // constant

// buildError words a failed build as the classic builder does, where it has words.
func buildError(err error) error {
	if m := failedStep.FindStringSubmatch(err.Error()); m != nil {
		code, _ := strconv.Atoi(m[2]) //nolint:errcheck // digits
		return &hull.BuildStepError{Command: m[1], Code: code}
	}
	return fmt.Errorf("build: %w", err)
}

// where shows the lines of the Dockerfile that an error is about, and for a step
// that failed what to do next.
func where(err error) string {
	var b strings.Builder
	for _, s := range solvererrdefs.Sources(err) {
		if err := s.Print(&b); err != nil {
			return ""
		}
	}
	if b.Len() > 0 && failedStep.MatchString(err.Error()) {
		b.WriteString("To look into it: put \"FROM STAGE AS before\" in front of the step (or cut the file there), build with --target before, and run a shell in that image.\n")
	}
	return b.String()
}

// maxDockerfile is how much of a Dockerfile is looked at for its FROM lines.
const maxDockerfile = 1 << 20

// step names a vertex of a Dockerfile: "[stage 2/4] RUN true".
var stepName = regexp.MustCompile(`^\[(?:.* )?(\d+)/(\d+)\] (.*)$`) //nolint:gochecknoglobals // constant

// teller turns BuildKit's status into the classic builder's lines.
type teller struct {
	event func(hull.BuildEvent)
	seen  map[string]bool // vertices that were told
	bases map[string]string
}

// bases are the FROM lines of a Dockerfile by the name that BuildKit gives their
// images; none, when there is no such file: the build will say so.
func bases(dir fsutil.FS, name string) map[string]string {
	if dir == nil {
		return nil
	}
	f, err := dir.Open(cmp.Or(name, "Dockerfile"))
	if err != nil {
		return nil
	}
	defer f.Close()
	file, err := parser.Parse(io.LimitReader(f, maxDockerfile))
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, n := range file.AST.Children {
		if !strings.EqualFold(n.Value, "from") || n.Next == nil {
			continue
		}
		if named, err := reference.ParseNormalizedNamed(n.Next.Value); err == nil {
			out[reference.TagNameOnly(named).String()] = n.Original
		}
	}
	return out
}

// line is an instruction as the classic builder shows it: as it was written. In
// the names of BuildKit's steps an image is spelled out, with its digest.
func (t *teller) line(text string) string {
	image, ok := strings.CutPrefix(text, "FROM ")
	if !ok {
		return text
	}
	tagged, _, _ := strings.Cut(image, "@")
	return cmp.Or(t.bases[image], t.bases[tagged], text)
}

func (t *teller) tell(st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		m := stepName.FindStringSubmatch(v.Name)
		if m == nil || v.Started == nil && !v.Cached || t.seen[v.Digest.String()] {
			continue
		}
		t.seen[v.Digest.String()] = true
		text := fmt.Sprintf("Step %s/%s : %s\n", m[1], m[2], t.line(m[3]))
		if v.Cached {
			text += " ---> Using cache\n"
		}
		t.event(hull.BuildEvent{Text: text})
	}
	for _, l := range st.Logs {
		t.event(hull.BuildEvent{Text: string(l.Data)})
	}
}

// cancellable makes a build one that Cancel finds.
func (k *kit) cancellable(ctx context.Context, id string) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	if id == "" {
		return ctx, func() { cancel(nil) }, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.builds[id] != nil {
		cancel(nil)
		return nil, nil, fmt.Errorf("build %s: %w", id, errdefs.ErrAlreadyExists)
	}
	k.builds[id] = cancel
	return ctx, func() {
		k.mu.Lock()
		delete(k.builds, id)
		k.mu.Unlock()
		cancel(nil)
	}, nil
}

// Cancel ends a build. An unknown one is no error: it may just have ended.
func (s *Service) Cancel(_ context.Context, id string) error {
	s.mu.Lock()
	k := s.kit
	s.mu.Unlock()
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if cancel := k.builds[id]; cancel != nil {
		cancel(context.Canceled)
	}
	return nil
}

// Usage lists the build cache; nothing when there was no build yet.
func (s *Service) Usage(ctx context.Context) ([]hull.BuildCache, error) {
	if !s.used() {
		return nil, nil
	}
	k, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	list, err := k.worker.DiskUsage(ctx, client.DiskUsageInfo{})
	if err != nil {
		return nil, fmt.Errorf("size of the build cache: %w", err)
	}
	out := make([]hull.BuildCache, 0, len(list))
	for _, u := range list {
		out = append(out, hull.BuildCache{
			ID: u.ID, Parents: u.Parents, Type: string(u.RecordType), Description: u.Description, InUse: u.InUse, Shared: u.Shared,
			Size: u.Size, CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt, UsageCount: u.UsageCount,
		})
	}
	return out, nil
}

// Prune removes build cache, least recently used first, and returns what went.
func (s *Service) Prune(ctx context.Context, p hull.BuildPrune) (ids []string, bytes int64, err error) {
	if !s.used() {
		return nil, 0, nil
	}
	k, err := s.open(ctx)
	if err != nil {
		return nil, 0, err
	}
	gone := make(chan client.UsageInfo)
	var count sync.WaitGroup
	count.Go(func() {
		for u := range gone {
			ids, bytes = append(ids, u.ID), bytes+u.Size
		}
	})
	err = k.worker.Prune(ctx, gone, client.PruneInfo{
		All: p.All, Filter: slices.Clone(p.Filters), KeepDuration: p.KeepFor,
		ReservedSpace: p.Reserved, MaxUsedSpace: p.MaxUsed, MinFreeSpace: p.MinFree,
	})
	close(gone)
	count.Wait()
	if err != nil {
		return ids, bytes, fmt.Errorf("prune build cache: %w", err)
	}
	return ids, bytes, nil
}
