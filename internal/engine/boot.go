package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hull/internal/hull"
)

// Containers that come back with the engine, as after a reboot of the host, start in
// the order that compose was given: compose is not there, but has left labels. Who
// depends on nobody starts at once. Nobody waits for ever, in a circle, or for what is
// not there: then a container starts all the same, as it did before there was an order.

// Labels that compose writes.
const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
	dependsLabel = "com.docker.compose.depends_on" // "db:service_healthy:false,cache:service_started:true"
	oneOffLabel  = "com.docker.compose.oneoff"     // "True" of compose run
)

// Conditions of a dependency.
const (
	whenHealthy   = "service_healthy"
	whenCompleted = "service_completed_successfully"
)

const (
	// bootPatience bounds the wait for what a container depends on.
	bootPatience = 5 * time.Minute
	// bootLook is how often a dependency is looked at.
	bootLook = 100 * time.Millisecond
)

// dependency is a service that another one needs, in the same project.
type dependency struct{ service, condition string }

// dependencies reads the label; what is no dependency is left out.
func dependencies(label string) []dependency {
	var out []dependency
	for part := range strings.SplitSeq(label, ",") {
		f := strings.Split(part, ":")
		if f[0] == "" {
			continue
		}
		out = append(out, dependency{f[0], strings.Join(f[1:min(2, len(f))], "")})
	}
	return out
}

// coming is a container that starts with the engine.
type coming struct {
	c      hull.Container
	needs  []need
	waiter context.Context //nolint:containedctx // ends when the user calls the start off
	done   chan struct{}   // closed when its start was tried
}

// need is one container that another one waits for.
type need struct {
	id        string
	condition string
	coming    *coming // nil = it runs, or nobody starts it
}

// boot starts containers, each when those that it depends on are there.
func (e *recovery) boot(ctx context.Context, list []hull.Container) {
	ctx = context.WithoutCancel(ctx)
	all := make([]*coming, len(list))
	for i, c := range list {
		all[i] = &coming{c: c, done: make(chan struct{})}
	}
	for _, circle := range plan(all, e.store.Containers()) {
		e.log.Warn("containers depend on each other in a circle; one does not wait", "container", circle)
	}
	for _, x := range all {
		if len(x.needs) > 0 {
			// Until then it is what docker shows as restarting: stop and rm call it off.
			if err := e.store.UpdateStatus(x.c.ID, func(s *hull.Status) error { s.Restarting = true; return nil }); err != nil {
				e.log.Error("record that a container waits", "container", x.c.ID, "error", err)
			}
			_, x.waiter = e.runs.nextDelay(ctx, x.c.ID, 0)
		}
		e.runs.wg.Go(func() {
			defer close(x.done)
			if err := e.bootOne(ctx, x); err != nil && !isNotModified(err) {
				e.log.Error("restart after the engine's own", "container", x.c.ID, "error", err)
			}
		})
	}
}

func (e *recovery) bootOne(ctx context.Context, x *coming) error {
	if len(x.needs) == 0 {
		return e.Start(ctx, x.c.ID)
	}
	wait, cancel := context.WithTimeoutCause(x.waiter, bootPatience, fmt.Errorf("waited %v in vain", bootPatience))
	defer cancel()
	for _, n := range x.needs {
		if err := e.await(wait, n); err != nil && x.waiter.Err() == nil {
			e.log.Warn("container starts without what it depends on", "container", x.c.ID, "needs", n.id, "condition", n.condition, "error", err)
		}
	}
	if x.waiter.Err() != nil || e.runs.stopping() {
		return nil // called off, or the next engine's
	}
	return e.startAgain(ctx, x.c.ID)
}

// await returns when a dependency is as it should be; the error says why it will not.
func (e *recovery) await(ctx context.Context, n need) error {
	if n.coming != nil {
		select {
		case <-n.coming.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	look := time.NewTicker(bootLook)
	defer look.Stop()
	for {
		c, err := e.store.Container(n.id)
		if err != nil {
			return err
		}
		if there, err := met(c, n.condition); there || err != nil {
			return err
		}
		if e.runs.stopping() {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// met says whether a container is as a condition wants it; the error, that it will not
// be.
func met(c hull.Container, condition string) (bool, error) {
	live := c.Status.Phase.Live()
	switch {
	case condition == whenCompleted && live, !live && (c.Status.Restarting || c.Status.Phase == hull.Starting):
		return false, nil
	case condition == whenCompleted && c.Status.Phase == hull.Stopped && c.Status.ExitCode == 0:
		return true, nil
	case condition == whenCompleted:
		return false, fmt.Errorf("it has not completed: exit code %d", c.Status.ExitCode)
	case !live:
		return false, fmt.Errorf("it does not run")
	case condition != whenHealthy || c.Resolved.Health == nil:
		return true, nil
	case c.Status.Health == nil:
		return false, nil
	case c.Status.Health.Status == "unhealthy":
		return false, fmt.Errorf("it is unhealthy")
	}
	return c.Status.Health.Status == "healthy", nil
}

// plan finds out who waits for whom, and names those who would wait for themselves: of
// each circle, one dependency is left out.
func plan(list []*coming, containers []hull.Container) (circles []string) {
	byID := map[string]*coming{}
	for _, x := range list {
		byID[x.c.ID] = x
	}
	members := map[[2]string][]string{}
	for _, c := range containers {
		l := c.Resolved.Labels
		if l[serviceLabel] != "" && l[oneOffLabel] != "True" {
			at := [2]string{l[projectLabel], l[serviceLabel]}
			members[at] = append(members[at], c.ID)
		}
	}
	for _, x := range list {
		l := x.c.Resolved.Labels
		for _, d := range dependencies(l[dependsLabel]) {
			for _, id := range members[[2]string{l[projectLabel], d.service}] {
				if id != x.c.ID {
					x.needs = append(x.needs, need{id, d.condition, byID[id]})
				}
			}
		}
	}
	// Depth first: a dependency that leads back to who is being looked at closes a circle.
	const (
		looking = 1
		looked  = 2
	)
	state := map[*coming]int{}
	var visit func(x *coming)
	visit = func(x *coming) {
		state[x] = looking
		x.needs = slices.DeleteFunc(x.needs, func(n need) bool {
			switch {
			case n.coming == nil:
			case state[n.coming] == looking:
				circles = append(circles, x.c.Name)
				return true
			case state[n.coming] != looked:
				visit(n.coming)
			}
			return false
		})
		state[x] = looked
	}
	for _, x := range list {
		if state[x] == 0 {
			visit(x)
		}
	}
	return circles
}
