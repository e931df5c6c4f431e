// Package build is "hull build": docker build's flags over BuildKit's own client,
// with its session and its progress display. The engine on the other side may be
// hulld or any other that speaks BuildKit's protocol.
package build

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
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/moby/buildkit/worker/label"
	"github.com/spf13/cobra"

	"hull/api"
)

// builder is one build.
type builder struct {
	cli command.Cli
	flags
	own
}

// Command is "build", under each of its names.
func Command(c command.Cli) *cobra.Command {
	b := &builder{cli: c}
	cmd := &cobra.Command{
		Use: "build [OPTIONS] PATH | URL | -", Short: "Build an image from a Dockerfile", Args: cli.ExactArgs(1), DisableFlagsInUseLine: true,
		Annotations: map[string]string{"category-top": "4", "aliases": "hull image build, hull build, hull builder build"},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error { return b.run(cmd.Context(), args[0]) },
	}
	b.flags.add(cmd)
	b.own.add(cmd)
	return cmd
}

func (b *builder) run(ctx context.Context, at string) error {
	if b.lockFile != "" && !b.locked {
		return errors.New("--lock-file goes with --locked")
	}
	if b.verify != "" {
		return b.reproduces(ctx, at)
	}
	id, err := b.build(ctx, at)
	if err != nil {
		return err
	}
	if b.quiet && id != "" {
		fmt.Fprintln(b.cli.Out(), id)
	}
	return nil
}

// build builds what is at a place, and gives the image's id, "" when there is none.
func (b *builder) build(ctx context.Context, at string) (string, error) {
	if b.idFile != "" {
		// Not a stale one, if this goes wrong.
		if err := os.Remove(b.idFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	var lock *api.BuildLock
	if b.locked {
		var err error
		if lock, err = readLock(b.lockPath(at)); err != nil {
			return "", err
		}
	}
	opt, src, err := b.request(ctx, at)
	if err != nil {
		return "", err
	}
	defer src.close() //nolint:errcheck // in the system's own directory for such files
	c, err := b.connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // all is done
	if err := b.isolates(ctx, c); err != nil {
		return "", err
	}
	if call := b.question(); call != "" {
		return "", b.ask(ctx, c, opt, call)
	}
	if lock != nil {
		if err := b.isLocked(ctx, c, opt, lock); err != nil {
			return "", err
		}
		delete(opt.FrontendAttrs, "no-cache") // all steps are in the cache now
		opt.FrontendAttrs["image-resolve-mode"] = "local"
		if b.progress != string(progressui.RawJSONMode) {
			b.progress = string(progressui.QuietMode) // and were shown
		}
	}
	out, err := b.solve(ctx, c, opt)
	if err != nil {
		return "", err
	}
	if b.squash && out.ExporterResponse["squash"] == "" {
		return "", errors.New("--squash: the engine's builder cannot; the image has all layers")
	}
	return imageID(out), b.write(out)
}

// request is the flags as BuildKit's client wants them.
func (b *builder) request(ctx context.Context, at string) (client.SolveOpt, *sources, error) {
	opt := client.SolveOpt{
		Frontend: "dockerfile.v0", AllowedEntitlements: b.entitlements(),
		Internal: true, // a record of a build with its statements is a third of one that changes nothing
	}
	if b.reproducible {
		if err := b.setEpoch(ctx, at); err != nil {
			return opt, nil, err
		}
	}
	var err error
	if opt.FrontendAttrs, err = b.attrs(b.cli); err != nil {
		return opt, nil, err
	}
	if opt.Exports, err = b.exports(); err != nil {
		return opt, nil, err
	}
	if opt.CacheImports, opt.CacheExports, err = b.caches(); err != nil {
		return opt, nil, err
	}
	if opt.Session, err = b.attachables(b.cli.ConfigFile()); err != nil {
		return opt, nil, err
	}
	src, err := find(&opt, at, b.file, b.contexts, b.cli.In())
	if err != nil {
		return opt, nil, err
	}
	epoch, frozen := opt.FrontendAttrs["build-arg:"+epochName]
	key := opt.SharedKey
	if frozen {
		key = epoch // contents say it all
		if err := freeze(&opt, epoch); err != nil {
			return opt, nil, errors.Join(err, src.close())
		}
	}
	opt.Session = append(opt.Session, &sums{dirs: opt.LocalMounts, key: key, read: frozen})
	return opt, src, nil
}

// connect reaches the engine's builder.
func (b *builder) connect(ctx context.Context) (*client.Client, error) {
	api := b.cli.Client()
	c, err := client.New(ctx, "",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return api.DialHijack(ctx, "/grpc", "h2c", nil) }),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return api.DialHijack(ctx, "/session", proto, meta)
		}))
	if err != nil {
		return nil, fmt.Errorf("reach the builder: %w", err)
	}
	return c, nil
}

// isolates reports an engine whose builder knows of no isolations: it would not even
// say so.
func (b *builder) isolates(ctx context.Context, c *client.Client) error {
	if b.isolation == "" {
		return nil
	}
	list, err := c.ListWorkers(ctx)
	if err != nil {
		return fmt.Errorf("ask the engine's builder what it can: %w", err)
	}
	for _, w := range list {
		if w.Labels[label.Executor] == "hull" {
			return nil
		}
	}
	return fmt.Errorf("--isolation %s: the builder of this engine has one isolation; use hull's", b.isolation)
}

// solve builds, and shows how it goes.
func (b *builder) solve(ctx context.Context, c *client.Client, opt client.SolveOpt) (*client.SolveResponse, error) {
	var out *client.SolveResponse
	err := b.shown(ctx, func(status chan *client.SolveStatus) (err error) {
		out, err = c.Solve(ctx, nil, opt, status)
		return err
	})
	return out, err
}

// shown runs a build with BuildKit's progress display. A quiet one is shown when it
// has failed.
func (b *builder) shown(ctx context.Context, run func(chan *client.SolveStatus) error) error {
	var kept bytes.Buffer
	var to io.Writer = os.Stderr // a console or not: the display looks at the file
	mode := progressui.DisplayMode(b.progress)
	if b.quiet || mode == progressui.QuietMode {
		to, mode = &kept, progressui.PlainMode
	}
	d, err := progressui.NewDisplay(to, mode)
	if err != nil {
		return fmt.Errorf("--progress: %w", err)
	}
	status, done := make(chan *client.SolveStatus), make(chan []client.VertexWarning, 1)
	go func() {
		// Shown to the end, also what is said when ctx has ended.
		w, _ := d.UpdateFrom(context.WithoutCancel(ctx), status)
		done <- w
	}()
	err = run(status)
	warnings := <-done
	if err != nil {
		_, _ = kept.WriteTo(b.cli.Err())
		return b.failed(ctx, err)
	}
	if !b.quiet {
		for _, w := range warnings {
			fmt.Fprintf(b.cli.Err(), "WARNING: %s%s\n", w.Short, line(w))
		}
	}
	return nil
}

// line says where in the Dockerfile a warning is about.
func line(w client.VertexWarning) string {
	if len(w.Range) == 0 || w.Range[0].Start == nil {
		return ""
	}
	return fmt.Sprintf(" (line %d)", w.Range[0].Start.Line)
}

// failedStep is how BuildKit words a step that failed.
var failedStep = regexp.MustCompile(`did not complete successfully: exit code: (\d+)`) //nolint:gochecknoglobals // constant

// failed shows the lines of the Dockerfile that an error is about, and for a step
// what to do next. The exit status is the step's.
func (b *builder) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	shown := false
	for _, s := range errdefs.Sources(err) {
		if s.Print(b.cli.Err()) == nil {
			shown = true
		}
	}
	code := 1
	if m := failedStep.FindStringSubmatch(err.Error()); m != nil {
		if shown {
			fmt.Fprintln(b.cli.Err(), "To look into it: put \"FROM STAGE AS before\" in front of the step (or cut the file there), build with --target before, and run a shell in that image.")
		}
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && n < 256 {
			code = n
		}
	}
	return cli.StatusError{StatusCode: code, Status: "ERROR: " + err.Error()}
}

// imageID is the id of the image that was built.
func imageID(r *client.SolveResponse) string {
	if id := r.ExporterResponse[exptypes.ExporterImageConfigDigestKey]; id != "" {
		return id
	}
	return r.ExporterResponse[exptypes.ExporterImageDigestKey]
}

// write writes the files that were asked for.
func (b *builder) write(r *client.SolveResponse) error {
	if b.idFile != "" {
		id := imageID(r)
		if id == "" {
			return errors.New("--iidfile: the result is no image")
		}
		if err := os.WriteFile(b.idFile, []byte(id), 0o644); err != nil { //nolint:gosec // it is no secret
			return err
		}
	}
	if b.metadataFile == "" {
		return nil
	}
	all := map[string]any{}
	for k, v := range r.ExporterResponse {
		all[k] = v
		raw, err := base64.StdEncoding.DecodeString(v)
		if err == nil && strings.HasPrefix(string(raw), "{") && json.Valid(raw) {
			all[k] = json.RawMessage(raw)
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.metadataFile, append(text, '\n'), 0o644) //nolint:gosec // it is no secret
}
