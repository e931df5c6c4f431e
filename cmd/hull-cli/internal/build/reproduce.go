package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"hull/api"
	"hull/cmd/internal/route"
)

// epochName is the build argument, known to all builders, that makes an image's
// dates: seconds since 1970.
const epochName = "SOURCE_DATE_EPOCH"

// own are hull's own flags.
type own struct {
	reproducible, locked bool
	verify, lockFile     string
}

func (o *own) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.BoolVar(&o.reproducible, "reproducible", false, "Give the same digest for the same sources: dates are those of the git commit, or of "+epochName)
	s.StringVar(&o.verify, "verify", "", "Build reproducibly, without the cache, and compare with an image")
	s.BoolVar(&o.locked, "locked", false, "Fail when a base image or another source is not what "+lockFile+" says")
	s.StringVar(&o.lockFile, "lock-file", "", "Lock file (Default is \"PATH/"+lockFile+"\")")
}

// setEpoch adds the build argument with the date of what is built, unless the user
// gave it.
func (b *builder) setEpoch(ctx context.Context, at string) error {
	for _, a := range b.args {
		if strings.HasPrefix(a, epochName+"=") {
			return nil
		}
	}
	epoch, err := sourceDate(ctx, at)
	if err == nil {
		b.args = append(b.args, epochName+"="+strconv.FormatInt(epoch, 10))
	}
	return err
}

// sourceDate is the date of what is built: as the environment says, or of the last
// commit of the git checkout.
func sourceDate(ctx context.Context, dir string) (int64, error) {
	text := os.Getenv(epochName)
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "-C", dir, "log", "-1", "--format=%ct").Output()
		if err != nil {
			return 0, fmt.Errorf("--reproducible needs a date, and %s is no git checkout: set %s to seconds since 1970", dir, epochName)
		}
		text = strings.TrimSpace(string(out))
	}
	return seconds(text)
}

func seconds(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q is no number of seconds since 1970", epochName, text)
	}
	return n, nil
}

// freeze gives the files of all contexts what a fresh checkout and its umask would
// otherwise decide: dates, and the permissions that git knows. An engine tells files
// apart by such attributes, so it is to have no earlier copy to compare with.
func freeze(opt *client.SolveOpt, epoch string) error {
	n, err := seconds(epoch)
	if err != nil {
		return err
	}
	for name, dir := range opt.LocalMounts {
		frozen, err := fsutil.NewFilterFS(dir, &fsutil.FilterOpt{Map: func(_ string, st *types.Stat) fsutil.MapResult {
			st.ModTime = time.Unix(n, 0).UnixNano()
			if mode := fs.FileMode(st.Mode); mode&fs.ModeSymlink == 0 {
				perm := fs.FileMode(0o644)
				if mode.IsDir() || mode&0o111 != 0 {
					perm = 0o755
				}
				st.Mode = uint32(mode.Type() | perm)
			}
			return fsutil.MapResultKeep
		}})
		if err != nil {
			return err
		}
		opt.LocalMounts[name] = frozen
	}
	opt.SharedKey = identity.NewID()
	for k := range opt.FrontendAttrs {
		if strings.HasPrefix(k, "sharedkey:localdir:") {
			opt.FrontendAttrs[k] = opt.SharedKey
		}
	}
	for _, e := range opt.Exports {
		if e.Attrs["rewrite-timestamp"] == "" && e.Type != client.ExporterLocal && e.Type != client.ExporterTar {
			e.Attrs["rewrite-timestamp"] = "true"
			if e.Type == "moby" {
				e.Attrs["unpack"] = "false" // Docker's own builder refuses both; it unpacks for the first container
			}
		}
	}
	return nil
}

// reproduces builds again and compares.
func (b *builder) reproduces(ctx context.Context, at string) error {
	if len(b.tags) > 0 {
		return errors.New("--verify makes no image: leave -t out")
	}
	engine := b.cli.Client()
	was, err := engine.ImageInspect(ctx, b.verify)
	if err != nil {
		return err
	}
	created, err := time.Parse(time.RFC3339Nano, was.Created)
	if err != nil {
		return fmt.Errorf("%s has no date to build with: %w", b.verify, err)
	}
	b.args = append(b.args, epochName+"="+strconv.FormatInt(created.Unix(), 10))
	b.noCache = true
	made, err := b.build(ctx, at)
	if err != nil {
		return err
	}
	d, err := b.difference(ctx, made)
	if err != nil {
		return err
	}
	if made != was.ID {
		// It was made to be compared; another build may want it nevertheless.
		_, _ = engine.ImageRemove(ctx, made, mobyclient.ImageRemoveOptions{})
	}
	if d != "" {
		return cli.StatusError{StatusCode: 1, Status: fmt.Sprintf("%s is not what the sources give now: %s", b.verify, d)}
	}
	fmt.Fprintf(b.cli.Out(), "%s is reproduced: %s\n", b.verify, was.ID)
	return nil
}

// difference is the first one between the image that is verified and another.
func (b *builder) difference(ctx context.Context, other string) (string, error) {
	var d api.ImageDifference
	err := route.Post(ctx, b.cli.Client().Dialer(), api.ImagesComparePath, api.ImagePair{A: b.verify, B: other}, &d)
	return d.Difference, err
}

// lockPath is where the lock file is.
func (o *own) lockPath(at string) string {
	if o.lockFile != "" {
		return o.lockFile
	}
	return filepath.Join(at, lockFile)
}
