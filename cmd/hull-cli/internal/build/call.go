package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
)

// question is what is asked about the Dockerfile instead of building it, "" = it is
// built.
func (b *builder) question() string {
	if b.check {
		return "check"
	}
	if b.call == "build" {
		return ""
	}
	return b.call
}

// ask asks the frontend about the Dockerfile, and shows its answer.
func (b *builder) ask(ctx context.Context, c *client.Client, opt client.SolveOpt, call string) error {
	name, format, _ := strings.Cut(call, ",format=")
	request := map[string]string{"check": lint.RequestLint, "outline": outline.SubrequestsOutlineDefinition.Name, "targets": targets.SubrequestsTargetsDefinition.Name}[name]
	if request == "" {
		return fmt.Errorf("--call %s is not known: it is build, check, outline or targets", name)
	}
	opt.Exports, opt.CacheExports = nil, nil
	var answer map[string][]byte
	err := b.shown(ctx, func(status chan *client.SolveStatus) error {
		_, err := c.Build(ctx, opt, "hull", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			r, err := g.Solve(ctx, gateway.SolveRequest{Frontend: opt.Frontend, FrontendOpt: requested(opt.FrontendAttrs, request)})
			if err != nil {
				return nil, err
			}
			answer = r.Metadata
			return r, nil
		}, status)
		return err
	})
	if err != nil {
		return err
	}
	raw := answer["result.json"]
	if raw == nil {
		return errors.New("the engine's builder does not answer such questions")
	}
	w := b.cli.Out()
	if format == "json" {
		_, err := fmt.Fprintln(w, string(raw))
		return err
	}
	switch name {
	case "outline":
		return outline.PrintOutline(raw, w)
	case "targets":
		return targets.PrintTargets(raw, w)
	}
	var found lint.LintResults
	if err := json.Unmarshal(raw, &found); err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	switch n := len(found.Warnings); {
	case found.Error != nil:
		var text strings.Builder
		found.PrintErrorTo(&text, nil)
		return errors.New(text.String())
	case n == 0:
		fmt.Fprintln(w, "Check complete, no warnings found.")
		return nil
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	default:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	}
	if err := found.PrintTo(w, nil); err != nil {
		return err
	}
	return cli.StatusError{StatusCode: 1}
}
