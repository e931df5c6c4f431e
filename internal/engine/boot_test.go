package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"hull/internal/hull"
)

// service is a container of a compose project, which ended with the engine.
func service(t *testing.T, w *world, e *Engine, name, depends string) hull.Container {
	t.Helper()
	s := hull.Spec{
		Labels:  map[string]string{projectLabel: "p", serviceLabel: name, dependsLabel: depends, oneOffLabel: "False"},
		Restart: hull.RestartPolicy{Name: "always"},
	}
	c, _, err := e.Create(t.Context(), "p-"+name, s)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.containers[c.ID]
	x.Status.Phase = hull.Stopped
	w.containers[c.ID] = x
	return c
}

// TestBootInOrder: what comes back with the engine does so in compose's order; circles
// and services that are not there hold up nobody.
func TestBootInOrder(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	var ids []string
	for _, s := range [][2]string{
		{"app", "api:service_started:true,nobody:service_healthy:false"},
		{"api", "cache:service_started:false,db:service_started:false"},
		{"cache", ""},
		{"db", "disk"},
		{"disk", ""},
		{"a", "b:service_started:false"}, // a circle
		{"b", "c:service_healthy:false"},
		{"c", "a:service_started:false,c"},
	} {
		ids = append(ids, service(t, w, e, s[0], s[1]).ID)
	}
	e2 := w.engine(t)
	if err := e2.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	started := map[string]time.Time{}
	for deadline := time.Now().Add(time.Minute); len(started) < len(ids); time.Sleep(time.Millisecond) {
		for _, id := range ids {
			c, err := e2.Container(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if c.Status.Phase == hull.Running {
				started[c.Name] = c.Status.StartedAt
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", c.Name, c.Status)
			}
		}
	}
	for _, order := range [][2]string{{"p-api", "p-app"}, {"p-cache", "p-api"}, {"p-db", "p-api"}, {"p-disk", "p-db"}} {
		if started[order[1]].Before(started[order[0]]) {
			t.Errorf("%s started before %s", order[1], order[0])
		}
	}
}

// TestBootIsCalledOff: a container that waits for another one can be stopped.
func TestBootIsCalledOff(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	db := service(t, w, e, "db", "")
	app := service(t, w, e, "app", "db:service_healthy:false")
	w.mu.Lock()
	x := w.containers[db.ID]
	x.Resolved.Health = &hull.HealthSpec{Test: []string{"CMD", "never"}, Interval: time.Hour, StartInterval: time.Hour, StartPeriod: time.Hour, Timeout: time.Hour, Retries: 1}
	w.containers[db.ID] = x
	w.mu.Unlock()
	e2 := w.engine(t)
	if err := e2.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e2.Stop(t.Context(), app.ID, hull.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	c, err := e2.Container(t.Context(), app.ID)
	if err != nil || c.Status.Phase == hull.Running || c.Status.Restarting {
		t.Errorf("%+v, %v", c.Status, err)
	}
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	for label, want := range map[string][]dependency{
		"":   nil,
		"db": {{"db", ""}},
		"db:service_healthy:false,cache:service_started:true": {{"db", whenHealthy}, {"cache", "service_started"}},
		",:,::,a:b:c:d,": {{"a", "b"}},
	} {
		if got := dependencies(label); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", label, got, want)
		}
	}
}

func TestMet(t *testing.T) {
	t.Parallel()
	check := &hull.HealthSpec{}
	for _, c := range []struct {
		status    hull.Status
		health    *hull.HealthSpec
		condition string
		want      string
	}{
		{hull.Status{Phase: hull.Running}, nil, "service_started", "there"},
		{hull.Status{Phase: hull.Running}, nil, whenHealthy, "there"}, // it has no check
		{hull.Status{Phase: hull.Running}, check, whenHealthy, "waits"},
		{hull.Status{Phase: hull.Running, Health: &hull.Health{Status: "starting"}}, check, whenHealthy, "waits"},
		{hull.Status{Phase: hull.Running, Health: &hull.Health{Status: "healthy"}}, check, whenHealthy, "there"},
		{hull.Status{Phase: hull.Running, Health: &hull.Health{Status: "unhealthy"}}, check, whenHealthy, "never"},
		{hull.Status{Phase: hull.Running}, nil, whenCompleted, "waits"},
		{hull.Status{Phase: hull.Starting}, nil, whenCompleted, "waits"},
		{hull.Status{Phase: hull.Stopped, Restarting: true}, nil, "service_started", "waits"},
		{hull.Status{Phase: hull.Stopped}, nil, whenCompleted, "there"},
		{hull.Status{Phase: hull.Stopped, ExitCode: 1}, nil, whenCompleted, "never"},
		{hull.Status{Phase: hull.Created}, nil, whenCompleted, "never"},
		{hull.Status{Phase: hull.Stopped}, nil, "service_started", "never"},
	} {
		x := hull.Container{Status: c.status}
		x.Resolved.Health = c.health
		there, err := met(x, c.condition)
		got := "waits"
		switch {
		case there:
			got = "there"
		case err != nil:
			got = "never"
		}
		if got != c.want {
			t.Errorf("%s of %+v: %s, want %s", c.condition, c.status, got, c.want)
		}
	}
}

// TestPlanOfACircleOfMany: every circle is opened, however they are entangled.
func TestPlanOfACircleOfMany(t *testing.T) {
	t.Parallel()
	var list []*coming
	var all []hull.Container
	const n = 30
	for i := range n {
		c := hull.Container{ID: fmt.Sprint(i), Name: fmt.Sprint(i)}
		c.Resolved.Labels = map[string]string{projectLabel: "p", serviceLabel: fmt.Sprint(i), dependsLabel: fmt.Sprintf("%d,%d,%d", (i+1)%n, (i*7+3)%n, i)}
		all = append(all, c)
		list = append(list, &coming{c: c})
	}
	if len(plan(list, all)) == 0 {
		t.Error("no circle was found")
	}
	done := map[*coming]bool{}
	for range list { // each round somebody must be able to go
		went := false
		for _, x := range list {
			if !done[x] && !slices.ContainsFunc(x.needs, func(n need) bool { return !done[n.coming] }) {
				done[x], went = true, true
			}
		}
		if !went && len(done) < n {
			t.Fatalf("%d of %d wait for each other", n-len(done), n)
		}
	}
}
