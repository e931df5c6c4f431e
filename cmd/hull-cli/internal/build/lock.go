package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"github.com/spf13/cobra"

	"hull/api"
)

// lockFile is the lock file's usual name.
const lockFile = "hull.lock"

// LockCommand is "lock".
func LockCommand(c command.Cli) *cobra.Command {
	lock := &cobra.Command{Use: "lock COMMAND", Short: "Pin what images are built from", Args: cli.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	b := &builder{cli: c}
	update := &cobra.Command{
		Use: "update [OPTIONS] PATH", Short: "Write " + lockFile + ": what the build in PATH is made from now", Args: cli.ExactArgs(1), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error { return b.updateLock(cmd.Context(), args[0]) },
	}
	b.flags.add(update)
	b.own.add(update)
	lock.AddCommand(update)
	return lock
}

// updateLock writes what the build is made from now.
func (b *builder) updateLock(ctx context.Context, at string) error {
	opt, src, err := b.request(ctx, at)
	if err != nil {
		return err
	}
	defer src.close() //nolint:errcheck // in the system's own directory for such files
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // all is done
	found, err := b.madeFrom(ctx, c, opt)
	if err != nil {
		return err
	}
	path := b.lockPath(at)
	text, err := json.MarshalIndent(api.BuildLock{Version: api.BuildLockVersion, Sources: found}, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		fmt.Fprintf(b.cli.Out(), "%s is up to date (%d sources)\n", path, len(found))
		return nil
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, 0o644); err != nil { //nolint:gosec // it is for everybody, as the Dockerfile is
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	fmt.Fprintf(b.cli.Out(), "%s: %d sources\n", path, len(found))
	return nil
}

// isLocked builds everything but the image, and fails when it is made from something
// else than the lock file says.
func (b *builder) isLocked(ctx context.Context, c *client.Client, opt client.SolveOpt, lock *api.BuildLock) error {
	found, err := b.madeFrom(ctx, c, opt)
	if err != nil {
		return err
	}
	return drift(lock.Sources, found)
}

func readLock(path string) (*api.BuildLock, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w (hull lock update makes it)", err)
	}
	var l api.BuildLock
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if l.Version != api.BuildLockVersion {
		return nil, fmt.Errorf("%s has version %d, and this hull reads %d", path, l.Version, api.BuildLockVersion)
	}
	return &l, nil
}

// drift compares what a build was locked to with what it is made from now.
func drift(lock, found []api.BuildSource) error {
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
	return errors.New("the build has drifted from its lock file:\n  " + strings.Join(lines, "\n  ") + "\nrun 'hull lock update' if that is wanted")
}

// madeFrom builds, without making an image of it, and reads from BuildKit's record
// of the build what it was made from.
func (b *builder) madeFrom(ctx context.Context, c *client.Client, opt client.SolveOpt) ([]api.BuildSource, error) {
	opt.Exports, opt.CacheExports, opt.Internal, opt.Ref = nil, nil, false, identity.NewID()
	if _, err := b.solve(ctx, c, opt); err != nil {
		return nil, err
	}
	found, err := recorded(ctx, c, opt.Ref)
	if err != nil {
		return nil, fmt.Errorf("find what the image is made from: %w", err)
	}
	return found, nil
}

// recorded reads the statements in the record of a build.
func recorded(ctx context.Context, c *client.Client, ref string) ([]api.BuildSource, error) {
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
		return nil, fmt.Errorf("the builder kept no record of build %s", ref)
	}
	all := map[api.BuildSource]bool{}
	for _, d := range statements {
		text, err := blob(ctx, c, d)
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
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", d.Digest, err)
		}
		for _, m := range p.BuildDefinition.ResolvedDependencies {
			for _, alg := range slices.Sorted(maps.Keys(m.Digest)) {
				all[api.BuildSource{URI: m.URI, Digest: alg + ":" + m.Digest[alg]}] = true
				break
			}
		}
	}
	list := slices.SortedFunc(maps.Keys(all), func(a, b api.BuildSource) int {
		return strings.Compare(a.URI+" "+a.Digest, b.URI+" "+b.Digest)
	})
	if list == nil {
		list = []api.BuildSource{} // FROM scratch
	}
	return list, nil
}

// maxStatement bounds a statement about a build, bytes.
const maxStatement = 64 << 20

// blob reads one from the builder's content store.
func blob(ctx context.Context, c *client.Client, d *controlapi.Descriptor) ([]byte, error) {
	if d.Size > maxStatement {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", d.Digest, d.Size, maxStatement)
	}
	parts, err := c.ContentClient().Read(ctx, &contentapi.ReadContentRequest{Digest: d.Digest})
	if err != nil {
		return nil, err
	}
	var text []byte
	for {
		p, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return nil, err
		}
		if text = append(text, p.Data...); len(text) > maxStatement {
			return nil, fmt.Errorf("%s has more than %d bytes", d.Digest, maxStatement)
		}
	}
}
