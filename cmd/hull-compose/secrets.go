package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/cli/cli/command"
	composeapi "github.com/docker/compose/v5/pkg/api"
	"github.com/docker/compose/v5/pkg/compose"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hull/api"
)

// Compose refuses secrets with "external: true": only a swarm has these. Hull's engine
// has them, too, as mounts. Compose's code cannot be told so, but what it reads can be
// changed: one more file, on top of the project's own, takes these secrets away from
// the services and notes them in a label, so that a change of them is a change of the
// service. When compose then makes a container, the label becomes mounts.

// secretsLabel is the note. No container has it.
const secretsLabel = "hull.secrets"

// withExternalSecrets has a command that makes containers know external secrets.
func (p *program) withExternalSecrets(cmd *cobra.Command) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		overlay, err := p.externalSecrets(cmd)
		if err != nil {
			return err
		}
		if overlay != nil {
			defer overlay.Close() //nolint:errcheck // it has no name any more
		}
		return run(cmd, args)
	}
}

// externalSecrets puts the file on top where the project needs it; nil = it does not.
func (p *program) externalSecrets(cmd *cobra.Command) (*os.File, error) {
	flags := cmd.Parent().Flags() // compose's
	if files, _ := flags.GetStringArray("file"); slices.Contains(files, "-") {
		return nil, nil //nolint:nilnil // it can be read only once
	}
	backend, err := compose.NewComposeService(p.cli)
	if err != nil {
		return nil, fmt.Errorf("open compose: %w", err)
	}
	project, _, err := projectOptions(cmd).ToProject(cmd.Context(), p.cli, backend, nil)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // the command will say so
	}
	content, err := overlayOf(project)
	if err != nil || content == nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "hull-compose-")
	if err != nil {
		return nil, fmt.Errorf("make compose file for secrets: %w", err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if _, err = f.Write(content); err == nil {
		err = os.Remove(f.Name())
	}
	if err == nil && !flags.Changed("file") {
		for _, own := range project.ComposeFiles {
			err = firstError(err, flags.Set("file", own))
		}
	}
	err = firstError(err, flags.Set("file", path))
	err = firstError(err, command.WithAPIClient(&creator{p.cli.Client(), path})(p.cli))
	if err != nil {
		_ = f.Close() // the error says enough
		return nil, fmt.Errorf("compose file for secrets: %w", err)
	}
	return f, nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// overlayService is what the file says of a service.
type overlayService struct {
	secrets []types.ServiceSecretConfig // that stay
	mounts  []mount.Mount
}

// overlayOf is the file for a project; nil = it has no external secrets in use. It is
// JSON, which YAML has as a part, but for its tags.
func overlayOf(project *types.Project) ([]byte, error) {
	var b strings.Builder
	for _, name := range project.ServiceNames() {
		var o overlayService
		for _, s := range project.Services[name].Secrets {
			if def := project.Secrets[s.Source]; def.External {
				o.mounts = append(o.mounts, secretMount(def.Name, s))
			} else {
				o.secrets = append(o.secrets, s)
			}
		}
		if len(o.mounts) == 0 {
			continue
		}
		note, err := json.Marshal(o.mounts)
		if err != nil {
			return nil, err
		}
		stay := "!reset []"
		if len(o.secrets) > 0 {
			list, err := json.Marshal(o.secrets)
			if err != nil {
				return nil, err
			}
			stay = "!override " + string(list)
		}
		// In a label a dollar sign begins a variable.
		fmt.Fprintf(&b, "  %q:\n    secrets: %s\n    labels: {%q: %q}\n", name, stay, secretsLabel, strings.ReplaceAll(string(note), "$", "$$"))
	}
	if b.Len() == 0 {
		return nil, nil
	}
	return []byte("services:\n" + b.String()), nil
}

// secretMount is a service's secret as the engine takes it.
func secretMount(name string, s types.ServiceSecretConfig) mount.Mount {
	source := name
	for _, o := range []struct{ key, value string }{{"uid", s.UID}, {"gid", s.GID}} {
		if o.value != "" {
			source += "," + o.key + "=" + o.value
		}
	}
	if s.Mode != nil {
		source += ",mode=" + strconv.FormatInt(int64(*s.Mode), 8)
	}
	target := s.Target
	if target == "" {
		target = s.Source
	}
	return mount.Mount{Type: api.SecretMount, Source: source, Target: target}
}

// creator is a client that turns the label into mounts.
type creator struct {
	client.APIClient

	overlay string // the file that containers should not remember
}

// ContainerCreate implements client.APIClient.
func (c *creator) ContainerCreate(ctx context.Context, o client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
	if o.Config != nil {
		labels := o.Config.Labels
		if files, ok := labels[composeapi.ConfigFilesLabel]; ok {
			labels[composeapi.ConfigFilesLabel] = strings.TrimSuffix(files, ","+c.overlay)
		}
		if note, ok := labels[secretsLabel]; ok && o.HostConfig != nil {
			var mounts []mount.Mount
			if err := json.Unmarshal([]byte(note), &mounts); err != nil {
				return client.ContainerCreateResult{}, fmt.Errorf("label %s: %w", secretsLabel, err)
			}
			o.HostConfig.Mounts = append(o.HostConfig.Mounts, mounts...)
			delete(labels, secretsLabel)
		}
	}
	return c.APIClient.ContainerCreate(ctx, o)
}
