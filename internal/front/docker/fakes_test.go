package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// dupFile duplicates a descriptor, as SCM_RIGHTS would.
func dupFile(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	cerr := raw.Control(func(old uintptr) { fd, err = syscall.Dup(int(old)) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "dup"), nil
}

// fakeImages knows busybox:1 and busybox:2, of which the second builds on the first.
type fakeImages struct {
	mu     sync.Mutex // guards what follows
	list   []hull.Image
	pull   func(hull.PullRequest) error
	push   func(hull.PushRequest) error
	loaded []byte
	login  hull.Auth
	tagged [2]string
	asked  hull.ImportRequest
}

func digestOf(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func newFakeImages() *fakeImages {
	return &fakeImages{list: []hull.Image{
		{
			ID: digestOf("2"), Manifest: digestOf("b"), Target: digestOf("b"), RepoTags: []string{"busybox:2", "other/box:x"},
			RepoDigests: []string{"busybox@" + digestOf("b")}, Created: epoch.Add(time.Hour), OS: "linux", Architecture: "amd64",
			Layers: []string{digestOf("d"), digestOf("e")}, Size: 2 << 20, Config: hull.ImageConfig{Cmd: []string{"echo", "two"}, Labels: map[string]string{"v": "2"}},
		},
		{
			ID: digestOf("1"), Manifest: digestOf("a"), Target: digestOf("a"), RepoTags: []string{"busybox:1", "busybox:latest"},
			RepoDigests: []string{"busybox@" + digestOf("a")}, Created: epoch, OS: "linux", Architecture: "amd64",
			Layers: []string{digestOf("d")}, Size: 1 << 20, Config: hull.ImageConfig{Cmd: []string{"echo", "one"}, Env: []string{"A=b"}},
		},
		{ID: digestOf("3"), Manifest: digestOf("c"), Created: epoch.Add(-time.Hour), OS: "linux", Architecture: "amd64"},
	}}
}

func (f *fakeImages) Resolve(_ context.Context, ref, _ string) (hull.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.list {
		if slices.Contains(i.RepoTags, ref) || slices.Contains(i.RepoTags, ref+":latest") || i.ID == ref || strings.HasPrefix(strings.TrimPrefix(i.ID, "sha256:"), ref) {
			return i, nil
		}
	}
	return hull.Image{}, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
}

func (f *fakeImages) List(context.Context, bool) ([]hull.Image, error) { return f.list, nil }

func (f *fakeImages) Pull(_ context.Context, r hull.PullRequest) (hull.Image, error) {
	if f.pull != nil {
		return hull.Image{}, f.pull(r)
	}
	r.Progress(hull.Progress{ID: "latest", Status: "Pulling from library/busybox"})
	r.Progress(hull.Progress{ID: "aaaaaaaaaaaa", Status: "Downloading", Current: 512, Total: 1024})
	r.Progress(hull.Progress{ID: "aaaaaaaaaaaa", Status: "Pull complete"})
	r.Progress(hull.Progress{Status: "Digest: " + digestOf("a")})
	return f.list[1], nil
}

func (f *fakeImages) Push(_ context.Context, r hull.PushRequest) error {
	if f.push != nil {
		return f.push(r)
	}
	r.Progress(hull.Progress{Status: "The push refers to repository [" + r.Ref + "]"})
	r.Progress(hull.Progress{Aux: map[string]any{"Tag": "1", "Digest": digestOf("a"), "Size": 7}})
	return nil
}

func (f *fakeImages) Tag(ctx context.Context, source, target string) error {
	if _, err := f.Resolve(ctx, source, ""); err != nil {
		return err
	}
	f.tagged = [2]string{source, target}
	return nil
}

func (f *fakeImages) History(ctx context.Context, ref, _ string) ([]hull.HistoryItem, error) {
	i, err := f.Resolve(ctx, ref, "")
	return []hull.HistoryItem{{ID: i.ID, Created: epoch, CreatedBy: "CMD", Size: 5, Tags: i.RepoTags}}, err
}

func (f *fakeImages) Remove(ctx context.Context, ref string, force, _ bool, inUse func(string) []hull.Container) ([]hull.ImageRemoved, error) {
	i, err := f.Resolve(ctx, ref, "")
	if err != nil {
		return nil, err
	}
	if u := inUse(i.ID); len(u) > 0 && !force {
		return nil, fmt.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s: %w", ref, u[0].ID[:12], i.ID[7:19], errdefs.ErrConflict)
	}
	return []hull.ImageRemoved{{Untagged: ref}, {Deleted: i.ID}}, nil
}

func (f *fakeImages) Prune(_ context.Context, keep func(hull.Image) bool) ([]hull.ImageRemoved, int64, error) {
	var out []hull.ImageRemoved
	for _, i := range f.list {
		if !keep(i) {
			out = append(out, hull.ImageRemoved{Deleted: i.ID})
		}
	}
	return out, int64(len(out)), nil
}

func (f *fakeImages) Save(_ context.Context, r hull.SaveRequest, w io.Writer) error {
	_, err := fmt.Fprintf(w, "tar of %v %v", r.Refs, r.Platforms)
	return err
}

func (f *fakeImages) Copy(_ context.Context, r hull.CopyRequest) error {
	r.Progress(hull.Progress{Status: "Copying " + r.Source + " for " + r.SourceAuth.Username})
	return nil
}

func (f *fakeImages) Layers(_ context.Context, refs, _ []string) ([]hull.Blob, error) {
	return []hull.Blob{{Digest: digestOf("1"), Size: int64(len(refs))}}, nil
}

func (f *fakeImages) Compare(_ context.Context, a, b string) (string, error) {
	if a == b {
		return "", nil
	}
	return "layer 1: " + a + " and " + b, nil
}

func (f *fakeImages) Search(_ context.Context, r hull.SearchRequest) ([]hull.SearchResult, error) {
	return []hull.SearchResult{{Name: r.Term, Stars: r.Limit, Official: true}, {Name: "other", Description: r.Auth.Username, Stars: 2}}, nil
}

func (f *fakeImages) Signable(_ context.Context, r hull.SignRequest) (hull.Signable, error) {
	return hull.Signable{Repository: r.Ref, Local: !r.Push, Documents: []hull.SignedDocument{{Digest: digestOf("1"), Size: 7}}}, nil
}

func (f *fakeImages) Signatures(_ context.Context, r hull.SignRequest) (hull.Signable, error) {
	return hull.Signable{Repository: r.Ref, Signatures: []hull.Signature{{Format: "cosign", Payload: []byte(r.Auth.Username)}}, Refused: "no"}, nil
}

func (f *fakeImages) Sign(_ context.Context, r hull.SignRequest) error {
	if r.Signature.Value != "x" || r.Document.Size != 7 {
		return fmt.Errorf("signature %q of %d bytes", r.Signature.Value, r.Document.Size)
	}
	return nil
}

func (f *fakeImages) Lacking(_ context.Context, digests []string) ([]string, error) {
	return digests[1:], nil
}

func (f *fakeImages) Load(_ context.Context, r io.Reader, _ []string, progress func(hull.Progress)) ([]string, error) {
	var err error
	if f.loaded, err = io.ReadAll(r); err != nil {
		return nil, err
	}
	if string(f.loaded) == "bad" {
		return nil, fmt.Errorf("open archive: unexpected EOF: %w", errdefs.ErrInvalidArgument)
	}
	progress(hull.Progress{ID: "aaaaaaaaaaaa", Status: "Loading layer", Current: 1, Total: 2})
	return []string{"busybox:1"}, nil
}

func (f *fakeImages) Import(_ context.Context, r hull.ImportRequest, tar io.Reader) (string, error) {
	f.asked = r
	_, err := io.ReadAll(tar)
	return digestOf("9"), err
}

func (f *fakeImages) Distribution(_ context.Context, ref string, _ hull.Auth) (hull.Distribution, error) {
	if ref == "private/x" {
		return hull.Distribution{}, fmt.Errorf("access to %s: %w", ref, errdefs.ErrUnauthenticated)
	}
	return hull.Distribution{MediaType: "application/vnd.oci.image.index.v1+json", Digest: digestOf("a"), Size: 3, Platforms: []string{"linux/amd64", "linux/arm64/v8"}}, nil
}

func (f *fakeImages) Login(_ context.Context, a hull.Auth) (string, string, error) {
	f.login = a
	if a.Password != "right" {
		return "", "", fmt.Errorf("incorrect username or password: %w", errdefs.ErrUnauthenticated)
	}
	return "Login Succeeded", "", nil
}

func (f *fakeImages) Usage(context.Context) (hull.ImageUsage, error) {
	return hull.ImageUsage{
		LayersSize: 2 << 20, Size: map[string]int64{digestOf("1"): 1 << 20, digestOf("2"): 2 << 20}, Shared: map[string]int64{digestOf("1"): 1 << 20},
	}, nil
}

type fakeVolumes struct{ list []hull.Volume }

func (f *fakeVolumes) Create(_ context.Context, v hull.Volume) (hull.Volume, error) {
	if v.Driver != "local" {
		return v, fmt.Errorf("error looking up volume plugin %s: %w", v.Driver, errdefs.ErrNotFound)
	}
	if v.Name == "" {
		v.Name = strings.Repeat("f", 64)
	}
	v.Mountpoint, v.Created = "/var/lib/hull/volumes/"+v.Name+"/_data", epoch
	f.list = append(f.list, v)
	return v, nil
}

func (f *fakeVolumes) Get(_ context.Context, name string) (hull.Volume, error) {
	for _, v := range f.list {
		if v.Name == name {
			return v, nil
		}
	}
	return hull.Volume{}, errdefs.ErrNotFound.WithMessage("get " + name + ": no such volume")
}

func (f *fakeVolumes) List(context.Context) ([]hull.Volume, error) { return f.list, nil }

func (f *fakeVolumes) Remove(ctx context.Context, name string, _ bool) error {
	if name == "busy" {
		return fmt.Errorf("remove %s: volume is in use - [abc]: %w", name, errdefs.ErrConflict)
	}
	_, err := f.Get(ctx, name)
	f.list = slices.DeleteFunc(f.list, func(v hull.Volume) bool { return v.Name == name })
	return err
}

func (f *fakeVolumes) Prune(_ context.Context, keep func(hull.Volume) bool) (hull.PruneReport, error) {
	var r hull.PruneReport
	for _, v := range f.list {
		if !keep(v) {
			r.Deleted = append(r.Deleted, v.Name)
		}
	}
	return r, nil
}

func (f *fakeVolumes) Rename(ctx context.Context, name, to string) (hull.Volume, error) {
	v, err := f.Get(ctx, name)
	v.Name = to
	return v, err
}
func (f *fakeVolumes) Clone(ctx context.Context, name, to string) (hull.Volume, error) {
	return f.Rename(ctx, name, to)
}
func (f *fakeVolumes) Snapshot(ctx context.Context, name, to string) (hull.Volume, error) {
	return f.Rename(ctx, name, to)
}

func (f *fakeVolumes) Usage(context.Context, string) (int64, int, error) { return 42, 0, nil }

type fakeNetworks struct {
	list      []hull.Network
	connected []string
	endpoint  hull.EndpointSpec
}

func newFakeNetworks() *fakeNetworks {
	return &fakeNetworks{list: []hull.Network{
		{ID: "net0", Name: "bridge", Driver: "bridge", EnableIPv4: true, IPAM: hull.IPAM{Config: []hull.IPAMConfig{{Subnet: "172.17.0.0/16", Gateway: "172.17.0.1"}}},
			Containers: map[string]hull.NetworkMember{"c": {Name: "web", IPv4: "172.17.0.2/16", MacAddress: "02:42:ac:11:00:02"}}},
		{ID: "net1", Name: "host", Driver: "host"}, {ID: "net2", Name: "none", Driver: "null"},
	}}
}

func (f *fakeNetworks) Create(_ context.Context, n hull.Network) (hull.Network, []string, error) {
	if slices.ContainsFunc(f.list, func(o hull.Network) bool { return o.Name == n.Name }) {
		return n, nil, fmt.Errorf("network %s: %w", n.Name, errdefs.ErrAlreadyExists)
	}
	n.ID = "net" + fmt.Sprint(len(f.list))
	f.list = append(f.list, n)
	return n, nil, nil
}

func (f *fakeNetworks) Get(_ context.Context, ref string) (hull.Network, error) {
	for _, n := range f.list {
		if n.Name == ref || n.ID == ref {
			return n, nil
		}
	}
	return hull.Network{}, errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
}

func (f *fakeNetworks) List(context.Context) ([]hull.Network, error) { return f.list, nil }

func (f *fakeNetworks) Remove(ctx context.Context, ref string) error {
	_, err := f.Get(ctx, ref)
	return err
}

func (f *fakeNetworks) Prune(_ context.Context, keep func(hull.Network) bool) ([]string, error) {
	var out []string
	for _, n := range f.list {
		if !keep(n) {
			out = append(out, n.Name)
		}
	}
	return out, nil
}

func (f *fakeNetworks) Connect(ctx context.Context, ref, id string, e hull.EndpointSpec) error {
	f.connected, f.endpoint = append(f.connected, ref+" "+id), e
	_, err := f.Get(ctx, ref)
	return err
}

func (f *fakeNetworks) Disconnect(ctx context.Context, ref, id string, _ bool) error {
	f.connected = append(f.connected, "-"+ref+" "+id)
	_, err := f.Get(ctx, ref)
	return err
}

type fakeEvents struct{ list []hull.Event }

func (f *fakeEvents) Subscribe(ctx context.Context, _, until time.Time) (<-chan hull.Event, error) {
	ch := make(chan hull.Event)
	go func() {
		defer close(ch)
		for _, e := range f.list {
			select {
			case ch <- e:
			case <-ctx.Done():
				return
			}
		}
		if until.IsZero() {
			<-ctx.Done()
		}
	}()
	return ch, nil
}

func (f *fakeEvents) Publish(e hull.Event) { f.list = append(f.list, e) }
