package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/internal/route"
)

// ownBuildFlags are hull's own flags of build: with one of them the engine builds,
// even where the buildx plugin is installed, which does not know them.
func ownBuildFlags() []string { return []string{"reproducible", "verify", "locked", "lock-file"} }

const (
	lockFile  = "hull.lock"
	epochName = "SOURCE_DATE_EPOCH"
)

// builds adds reproducible builds and lock files to docker's build.
type builds struct{ cli *command.DockerCli }

// buildFlags are the values of hull's own flags.
type buildFlags struct {
	reproducible, locked bool
	verify, lockFile     string
}

func extendBuild(root *cobra.Command, c *command.DockerCli) {
	b := builds{c}
	for _, path := range [][]string{{"build"}, {"image", "build"}, {"builder", "build"}} {
		if cmd, rest, err := root.Find(path); err == nil && len(rest) == 0 {
			b.extend(cmd)
		}
	}
	lock := &cobra.Command{Use: "lock COMMAND", Short: "Pin what images are built from", Args: cli.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	lock.AddCommand(b.updateCommand(root))
	root.AddCommand(lock)
}

// extend adds the flags to one command.
func (b builds) extend(cmd *cobra.Command) {
	o := &buildFlags{}
	f := cmd.Flags()
	f.BoolVar(&o.reproducible, "reproducible", false, "Give the same digest for the same sources: dates are those of the git commit, or of "+epochName)
	f.StringVar(&o.verify, "verify", "", "Build reproducibly, without the cache, and compare with an image")
	f.BoolVar(&o.locked, "locked", false, "Fail when a base image or another source is not what "+lockFile+" says")
	f.StringVar(&o.lockFile, "lock-file", "", "Lock file (Default is \"PATH/"+lockFile+"\")")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return b.run(cmd, args, *o, run) }
}

type runE = func(cmd *cobra.Command, args []string) error

func (b builds) run(cmd *cobra.Command, args []string, o buildFlags, run runE) error {
	if o.lockFile != "" && !o.locked {
		return errors.New("--lock-file goes with --locked")
	}
	if o.locked {
		lock, err := readLock(o.path(args[0]))
		if err != nil {
			return err
		}
		if err := b.with(api.BuildOptions{Lock: lock}, nil); err != nil {
			return err
		}
	}
	if o.verify != "" {
		return b.verify(cmd, args, o, run)
	}
	if o.reproducible {
		epoch, err := sourceDate(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := setEpoch(cmd, epoch); err != nil {
			return err
		}
	}
	return run(cmd, args)
}

// path is where the lock file is.
func (o buildFlags) path(buildContext string) string {
	if o.lockFile != "" {
		return o.lockFile
	}
	return filepath.Join(buildContext, lockFile)
}

// setEpoch adds the build argument, unless the user gave it.
func setEpoch(cmd *cobra.Command, epoch int64) error {
	arg := cmd.Flags().Lookup("build-arg")
	if strings.Contains(arg.Value.String(), epochName+"=") {
		return nil
	}
	return cmd.Flags().Set("build-arg", epochName+"="+strconv.FormatInt(epoch, 10))
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
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q is no number of seconds since 1970", epochName, text)
	}
	return n, nil
}

// verify builds again and compares.
func (b builds) verify(cmd *cobra.Command, args []string, o buildFlags, run runE) error {
	if f := cmd.Flags().Lookup("tag"); f.Changed {
		return errors.New("--verify makes no image: leave -t out")
	}
	ctx := cmd.Context()
	was, err := b.cli.Client().ImageInspect(ctx, o.verify)
	if err != nil {
		return err
	}
	created, err := parseCreated(was.Created)
	if err != nil {
		return fmt.Errorf("%s has no date to build with: %w", o.verify, err)
	}
	if err := setEpoch(cmd, created); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hull-verify")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a file of ours
	file := filepath.Join(dir, "id")
	if err := errors.Join(cmd.Flags().Set("iidfile", file), cmd.Flags().Set("no-cache", "true")); err != nil {
		return err
	}
	if err := run(cmd, args); err != nil {
		return err
	}
	id, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	made := strings.TrimSpace(string(id))
	var d api.ImageDifference
	if err := route.Post(ctx, b.cli.Client().Dialer(), api.ImagesComparePath, api.ImagePair{A: o.verify, B: made}, &d); err != nil {
		return err
	}
	if made != was.ID {
		// It was made to be compared; another build may want it nevertheless.
		_, _ = b.cli.Client().ImageRemove(ctx, made, client.ImageRemoveOptions{})
	}
	if d.Difference != "" {
		return cli.StatusError{StatusCode: 1, Status: fmt.Sprintf("%s is not what the sources give now: %s", o.verify, d.Difference)}
	}
	fmt.Fprintf(b.cli.Out(), "%s is reproduced: %s\n", o.verify, was.ID)
	return nil
}

// updateCommand is "lock update", which takes build's flags.
func (b builds) updateCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "update [BUILD OPTIONS] PATH", Short: "Write " + lockFile + ": what the build in PATH is made from now", DisableFlagParsing: true,
		RunE: func(self *cobra.Command, args []string) error {
			cmd, _, err := root.Find([]string{"build"})
			if err != nil {
				return err
			}
			cmd.SetContext(self.Context())
			if err := cmd.ParseFlags(args); err != nil {
				return err
			}
			if help, err := cmd.Flags().GetBool("help"); err == nil && help {
				return self.Help()
			}
			rest := cmd.Flags().Args()
			if err := cli.ExactArgs(1)(self, rest); err != nil {
				return err
			}
			o := buildFlags{}
			if o.lockFile, err = cmd.Flags().GetString("lock-file"); err != nil {
				return err
			}
			if err := cmd.Flags().Set("lock-file", ""); err != nil {
				return err
			}
			var lock *api.BuildLock
			if err := b.with(api.BuildOptions{OnlyFind: true}, func(l *api.BuildLock) { lock = l }); err != nil {
				return err
			}
			if err := cmd.RunE(cmd, rest); err != nil {
				return err
			}
			if lock == nil {
				return errors.New("the engine does not say what the image is made from: lock files need hull")
			}
			return b.write(o.path(rest[0]), lock)
		},
	}
}

// write replaces a lock file and says what is new in it.
func (b builds) write(path string, lock *api.BuildLock) error {
	text, err := json.MarshalIndent(lock, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		fmt.Fprintf(b.cli.Out(), "%s is up to date (%d sources)\n", path, len(lock.Sources))
		return nil
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, 0o644); err != nil { //nolint:gosec // it is for everybody, as the Dockerfile is
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	fmt.Fprintf(b.cli.Out(), "%s: %d sources\n", path, len(lock.Sources))
	return nil
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
	return &l, nil
}

// with makes the next build of this process carry options; found gets the lock
// that the engine answers with.
func (b builds) with(o api.BuildOptions, found func(*api.BuildLock)) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	old := b.cli.Client()
	return command.WithAPIClient(&buildClient{APIClient: old, header: base64.StdEncoding.EncodeToString(raw), found: found})(b.cli)
}

// buildClient sends hull's own header with builds.
type buildClient struct {
	client.APIClient
	header string
	found  func(*api.BuildLock)
}

// ImageBuild implements client.APIClient.
func (c *buildClient) ImageBuild(ctx context.Context, body io.Reader, o client.ImageBuildOptions) (client.ImageBuildResult, error) {
	dial := c.Dialer()
	own, err := client.New(
		client.WithHost("tcp://hull:1"), client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }),
		client.WithHTTPHeaders(map[string]string{api.BuildHeader: c.header}), client.WithAPIVersion(c.ClientVersion()),
	)
	if err != nil {
		return client.ImageBuildResult{}, err
	}
	out, err := own.ImageBuild(ctx, body, o)
	if err == nil && c.found != nil {
		out.Body = c.filter(out.Body)
	}
	return out, err
}

// filter takes the lock out of the engine's messages.
func (c *buildClient) filter(in io.ReadCloser) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		defer in.Close() //nolint:errcheck // only read
		dec, enc := json.NewDecoder(in), json.NewEncoder(w)
		for {
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				w.CloseWithError(err)
				return
			}
			var m jsonstream.Message
			var lock api.BuildLock
			if json.Unmarshal(raw, &m) == nil && m.ID == api.BuildLockID && m.Aux != nil && json.Unmarshal(*m.Aux, &lock) == nil {
				c.found(&lock)
				continue
			}
			if err := enc.Encode(raw); err != nil {
				return // nobody reads any more
			}
		}
	}()
	return r
}

// parseCreated reads the date of an image.
func parseCreated(text string) (int64, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	return t.Unix(), err
}
