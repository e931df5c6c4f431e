package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	commands "github.com/docker/compose/v5/cmd/compose"
	composeapi "github.com/docker/compose/v5/pkg/api"
	"github.com/docker/compose/v5/pkg/compose"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/internal/route"
)

// withRollout gives "up" the flag --rollout: services that changed are replaced
// without a moment in which nobody serves. For each, new containers are started held
// back (no published ports, no service name), and when they are healthy they take
// names and ports over from the old ones, which serve what is under way until they
// are stopped. Then "up" does the rest.
func (p *program) withRollout(up *cobra.Command) {
	var on bool
	r := &rollout{p: p}
	f := up.Flags()
	f.BoolVar(&on, "rollout", false, "Replace changed services without a gap: start the new containers, wait until they are healthy, move names and published ports, drain, stop the old ones")
	f.DurationVar(&r.drain, "drain", 6*time.Second, "With --rollout: how long the old containers go on serving connections under way, and names that clients remember")
	f.DurationVar(&r.limit, "rollout-timeout", 5*time.Minute, "With --rollout: how long a new container may take to become healthy")
	run := up.RunE
	up.RunE = func(cmd *cobra.Command, args []string) error {
		if !on {
			return run(cmd, args)
		}
		r.force, _ = cmd.Flags().GetBool("force-recreate")
		opts := projectOptions(cmd)
		if err := opts.WithServices(p.cli, r.run)(cmd, args); err != nil {
			return err
		}
		for flag, value := range map[string]string{"force-recreate": "false", "detach": "true"} {
			if err := cmd.Flags().Set(flag, value); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
}

// projectOptions are compose's own flags of the command line, which it keeps to
// itself.
func projectOptions(cmd *cobra.Command) *commands.ProjectOptions {
	f := cmd.Parent().Flags() // compose's, not those of "up"
	o := &commands.ProjectOptions{}
	o.ProjectName, _ = f.GetString("project-name")
	o.ProjectDir, _ = f.GetString("project-directory")
	o.WorkDir, _ = f.GetString("workdir")
	o.ConfigPaths, _ = f.GetStringArray("file")
	o.Profiles, _ = f.GetStringArray("profile")
	o.EnvFiles, _ = f.GetStringArray("env-file")
	o.Compatibility, _ = f.GetBool("compatibility")
	o.All, _ = f.GetBool("all-resources")
	return o
}

// rollout is one "up --rollout".
type rollout struct {
	p            *program
	drain, limit time.Duration
	force        bool
}

func (r *rollout) run(ctx context.Context, project *types.Project, services []string) error {
	backend, err := compose.NewComposeService(r.p.cli)
	if err != nil {
		return fmt.Errorf("open compose: %w", err)
	}
	var stale []string
	if len(services) == 0 {
		services = project.ServiceNames()
	}
	for _, name := range services {
		old, err := r.containers(ctx, project.Name, name)
		if err != nil {
			return err
		}
		if changed, err := r.changed(ctx, project, name, old); err != nil {
			return err
		} else if changed {
			stale = append(stale, name)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	err = project.ForEachService(stale, func(name string, s *types.ServiceConfig) error {
		if !slices.Contains(stale, name) {
			return nil // what a changed one depends on
		}
		if err := r.replace(ctx, backend, project, name, *s); err != nil {
			return fmt.Errorf("roll out service %s: %w", name, err)
		}
		return nil
	})
	return err
}

// containers are a service's running ones, oldest number first.
func (r *rollout) containers(ctx context.Context, project, service string) ([]container.Summary, error) {
	f := client.Filters{}
	f.Add("label", composeapi.ProjectLabel+"="+project, composeapi.ServiceLabel+"="+service, composeapi.OneoffLabel+"=False")
	list, err := r.p.cli.Client().ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
	if err != nil {
		return nil, fmt.Errorf("list containers of service %s: %w", service, err)
	}
	slices.SortFunc(list.Items, func(a, b container.Summary) int { return number(a) - number(b) })
	return list.Items, nil
}

func number(c container.Summary) int {
	n, _ := strconv.Atoi(c.Labels[composeapi.ContainerNumberLabel]) // compose's own
	return n
}

func running(list []container.Summary) []container.Summary {
	return slices.DeleteFunc(slices.Clone(list), func(c container.Summary) bool { return c.State != container.StateRunning })
}

// changed says whether a service runs, and not as the project has it now.
func (r *rollout) changed(ctx context.Context, project *types.Project, name string, list []container.Summary) (bool, error) {
	list = running(list)
	if len(list) == 0 || r.force {
		return len(list) > 0, nil
	}
	s := project.Services[name]
	hash, err := compose.ServiceHash(s)
	if err != nil {
		return false, fmt.Errorf("hash of service %s: %w", name, err)
	}
	img, err := r.p.cli.Client().ImageInspect(ctx, composeapi.GetImageNameOrDefault(s, project.Name))
	for _, c := range list {
		if c.Labels[composeapi.ConfigHashLabel] != hash || err == nil && c.ImageID != img.ID {
			return true, nil
		}
	}
	return false, nil
}

func (r *rollout) replace(ctx context.Context, backend composeapi.Compose, project *types.Project, name string, s types.ServiceConfig) (err error) {
	switch {
	case s.ContainerName != "":
		return errors.New("it has a container_name, which two containers cannot have at a time")
	case len(s.PostStart)+len(s.PreStop) > 0:
		return errors.New("it has lifecycle hooks, which a rollout does not run; use up without --rollout")
	}
	all, err := r.containers(ctx, project.Name, name)
	if err != nil {
		return err
	}
	old := running(all)
	only, err := project.WithSelectedServices([]string{name}, types.IgnoreDependencies)
	if err != nil {
		return err
	}
	want := s.GetScale()
	s = only.Services[name]
	scale := len(all) + want
	s.SetScale(scale)
	s.CustomLabels = s.CustomLabels.Add(api.HeldLabel, "true")
	only.Services[name] = s
	err = backend.Create(ctx, only, composeapi.CreateOptions{
		Build: &composeapi.BuildOptions{}, Services: []string{name}, Recreate: composeapi.RecreateNever, RecreateDependencies: composeapi.RecreateNever, IgnoreOrphans: true,
	})
	if err != nil {
		return err
	}
	now, err := r.containers(ctx, project.Name, name)
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(now, func(c container.Summary) bool {
		return slices.ContainsFunc(all, func(o container.Summary) bool { return o.ID == c.ID })
	})
	if len(fresh) == 0 {
		return errors.New("no new container was made")
	}
	// Compose starts all that do not run: those that ended are replaced, too.
	ended := slices.DeleteFunc(slices.Clone(all), func(c container.Summary) bool { return c.State == container.StateRunning })
	err = r.removeAll(ctx, ended)
	if err == nil {
		err = r.startAll(ctx, backend, only, fresh)
	}
	if err != nil {
		return errors.Join(err, r.removeAll(context.WithoutCancel(ctx), fresh), errors.New("the old containers go on"))
	}
	for i, c := range fresh {
		if err := r.takeOver(ctx, c.ID, old[min(i, len(old)-1)].ID); err != nil {
			return errors.Join(err, r.removeAll(context.WithoutCancel(ctx), fresh[i:])) // what took over serves
		}
	}
	fmt.Fprintf(r.p.cli.Err(), " Service %s: %d new, the old ones drain for %v\n", name, len(fresh), r.drain)
	select {
	case <-time.After(r.drain):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, c := range old {
		if _, err := r.p.cli.Client().ContainerStop(ctx, c.ID, client.ContainerStopOptions{}); err != nil {
			return fmt.Errorf("stop the old container: %w", err)
		}
	}
	return r.removeAll(ctx, old)
}

// startAll starts a service's new containers and waits until they are healthy, or run
// where they have no health check. It is compose that starts them: before, it copies
// configs and secrets into them that are no files of the host.
func (r *rollout) startAll(ctx context.Context, backend composeapi.Compose, only *types.Project, list []container.Summary) error {
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	if err := backend.Start(ctx, only.Name, composeapi.StartOptions{Project: only}); err != nil {
		return fmt.Errorf("start the new container: %w", err)
	}
	for _, c := range list {
		if err := r.healthy(ctx, c.ID); err != nil {
			return err
		}
	}
	return nil
}

func (r *rollout) healthy(ctx context.Context, id string) error {
	const look = 100 * time.Millisecond
	for {
		i, err := r.p.cli.Client().ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			return fmt.Errorf("look at the new container: %w", err)
		}
		st := i.Container.State
		switch {
		case !st.Running:
			return fmt.Errorf("the new container ended with exit code %d", st.ExitCode)
		case st.Health == nil || st.Health.Status == container.NoHealthcheck || st.Health.Status == container.Healthy:
			return nil
		case st.Health.Status == container.Unhealthy:
			return errors.New("the new container is unhealthy")
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return fmt.Errorf("the new container is not healthy: %w", ctx.Err())
		}
	}
}

func (r *rollout) removeAll(ctx context.Context, list []container.Summary) error {
	var errs []error
	for _, c := range list {
		if _, err := r.p.cli.Client().ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			errs = append(errs, fmt.Errorf("remove a container: %w", err))
		}
	}
	return errors.Join(errs...)
}

// takeOver asks the engine: Docker has no words for it.
func (r *rollout) takeOver(ctx context.Context, id, from string) error {
	err := route.Post(ctx, r.p.cli.Client().Dialer(), fmt.Sprintf(api.TakeOverPath, id), api.TakeOver{From: from}, nil)
	var no *route.Refusal
	if errors.As(err, &no) {
		return fmt.Errorf("move names and ports: %s: %w (only hull's engine rolls out)", no.Status, no)
	}
	if err != nil {
		return fmt.Errorf("move names and ports: %w", err)
	}
	return nil
}
