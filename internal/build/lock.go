package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// sourceDateEpoch is the build argument, known to all builders, that makes an
// image's dates: seconds since 1970.
const sourceDateEpoch = "SOURCE_DATE_EPOCH"

// checked builds; before an image is made, it looks at what it would be made
// from, if that is asked for.
func (k *kit) checked(ctx context.Context, c *client.Client, r hull.BuildRequest, from local, event func(hull.BuildEvent)) (string, error) {
	if !r.Locked && !r.OnlyFind {
		return k.told(ctx, c, r, from, event)
	}
	ref := newID()
	_, err := solve(ctx, c, client.SolveOpt{
		Ref: ref, Session: credentials(r), Frontend: "dockerfile.v0", FrontendAttrs: attrs(r), LocalMounts: from.mounts, SharedKey: from.key, AllowedEntitlements: entitled(r),
	}, event)
	if err != nil {
		return "", err
	}
	found, err := sources(ctx, c, ref)
	if err != nil {
		return "", fmt.Errorf("find what the image is made from: %w", err)
	}
	if r.OnlyFind {
		event(hull.BuildEvent{Sources: found})
		return "", nil
	}
	if err := drift(r.Lock, found); err != nil {
		return "", err
	}
	// All steps are in the cache now, whatever the request says.
	r.NoCache, r.Pull = false, false
	return k.told(ctx, c, r, from, func(e hull.BuildEvent) {
		if !strings.HasPrefix(e.Text, "Step ") && !strings.HasPrefix(e.Text, " --->") {
			event(e) // the steps were told
		}
	})
}

// drift compares what a build was locked to with what it is made from now.
func drift(lock, found []hull.BuildSource) error {
	was := map[string]string{}
	for _, s := range lock {
		was[s.URI] = s.Digest
	}
	var lines []string
	for _, s := range found {
		old, ok := was[s.URI]
		delete(was, s.URI)
		switch {
		case !ok:
			lines = append(lines, s.URI+" is not in the lock file")
		case old != s.Digest:
			lines = append(lines, fmt.Sprintf("%s was %s and is %s", s.URI, old, s.Digest))
		}
	}
	for _, uri := range slices.Sorted(maps.Keys(was)) {
		lines = append(lines, uri+" is in the lock file and no longer used")
	}
	if len(lines) == 0 {
		return nil
	}
	return errdefs.ErrFailedPrecondition.WithMessage("the build has drifted from its lock file:\n  " + strings.Join(lines, "\n  ") + "\nrun 'hull lock update' if that is wanted")
}

// sources reads from BuildKit's record of a build what it was made from.
func sources(ctx context.Context, c *client.Client, ref string) ([]hull.BuildSource, error) {
	events, err := c.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{Ref: ref, EarlyExit: true})
	if err != nil {
		return nil, err
	}
	var statements []*controlapi.Descriptor
	for {
		e, err := events.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if e.Record == nil || e.Record.Ref != ref {
			continue
		}
		statements = nil
		for _, res := range append(slices.Collect(maps.Values(e.Record.Results)), e.Record.Result) {
			statements = append(statements, res.GetAttestations()...)
		}
	}
	if len(statements) == 0 {
		return nil, fmt.Errorf("the builder kept no record of build %s: %w", ref, errdefs.ErrNotFound)
	}
	all := map[hull.BuildSource]bool{}
	store := proxy.NewContentStore(c.ContentClient())
	for _, d := range statements {
		b, err := content.ReadBlob(ctx, store, ocispec.Descriptor{Digest: digest.Digest(d.Digest), Size: d.Size})
		if err != nil {
			return nil, err
		}
		var p struct {
			BuildDefinition struct {
				ResolvedDependencies []struct {
					URI    string            `json:"uri"`
					Digest map[string]string `json:"digest"`
				} `json:"resolvedDependencies"`
			} `json:"buildDefinition"`
		}
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", d.Digest, err)
		}
		for _, m := range p.BuildDefinition.ResolvedDependencies {
			for _, alg := range slices.Sorted(maps.Keys(m.Digest)) {
				all[hull.BuildSource{URI: m.URI, Digest: alg + ":" + m.Digest[alg]}] = true
				break
			}
		}
	}
	list := slices.SortedFunc(maps.Keys(all), func(a, b hull.BuildSource) int {
		return strings.Compare(a.URI+" "+a.Digest, b.URI+" "+b.Digest)
	})
	if list == nil {
		list = []hull.BuildSource{} // FROM scratch
	}
	return list, nil
}

// normalise gives the files of a context what a fresh checkout and its umask
// would otherwise decide: dates, and the permissions that git knows.
func normalise(dir, epoch string) error {
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("build argument %s=%q: it is a number of seconds since 1970", sourceDateEpoch, epoch))
	}
	ts := unix.NsecToTimespec(time.Unix(seconds, 0).UnixNano())
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink == 0 {
			info, err := d.Info()
			if err != nil {
				return err
			}
			mode := fs.FileMode(0o644)
			if d.IsDir() || info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			if err := os.Chmod(path, mode); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	return nil
}
