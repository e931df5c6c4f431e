package engine

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

func create(t *testing.T, e *Engine, s hull.Spec) hull.Container {
	t.Helper()
	c, _, err := e.Create(t.Context(), "", s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func start(t *testing.T, e *Engine, s hull.Spec) hull.Container {
	t.Helper()
	c := create(t, e, s)
	if err := e.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) proc(id string) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.boxes[id]; b != nil {
		return b.procs[id]
	}
	return nil
}

// waitExit ends the process and waits until the engine has handled it.
func waitExit(t *testing.T, e *Engine, w *world, c hull.Container, code int) hull.Exit {
	t.Helper()
	wait, err := e.Wait(t.Context(), c.ID, hull.WaitNextExit)
	if err != nil {
		t.Fatal(err)
	}
	w.proc(c.ID).end(code)
	x, err := wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestStartFailsCleanAtEveryStep fails each acquisition in turn and asserts that
// nothing is left open, the cause survives and the record can be started again.
func TestStartFailsCleanAtEveryStep(t *testing.T) {
	for n := 1; n < 100; n++ {
		w := newWorld()
		e := w.engine(t)
		c := create(t, e, hull.Spec{})
		before := w.leaks()
		w.calls, w.failAt = 0, n
		err := e.Start(t.Context(), c.ID)
		if err == nil {
			if n < 7 {
				t.Fatalf("only %d steps of Start can fail", n-1)
			}
			now, _ := e.Container(t.Context(), c.ID)
			if now.Status.Phase != hull.Running || now.Status.Pid != 4711 {
				t.Fatalf("started, but the record says %+v", now.Status)
			}
			t.Logf("%d steps can fail; all fail clean", n-1)
			return
		}
		if !errors.Is(err, errInjected) {
			t.Fatalf("step %d: cause lost: %v", n, err)
		}
		if got := w.leaks(); !slices.Equal(got, before) {
			t.Errorf("step %d (%v): leaked %v", n, err, got)
		}
		now, _ := e.Container(t.Context(), c.ID)
		if now.Status.Phase != hull.Created || now.Status.ExitCode != 128 || now.Status.Error == "" {
			t.Errorf("step %d: record says %+v", n, now.Status)
		}
		if len(w.pods) != 0 || len(e.runs.pods) != 0 || len(e.runs.byID) != 0 {
			t.Errorf("step %d: pods %v, runs %v left", n, w.pods, e.runs.pods)
		}
		w.failAt = 0
		if err := e.Start(t.Context(), c.ID); err != nil {
			t.Errorf("step %d: second start: %v", n, err)
		}
	}
}

// TestAStartOutlivesItsClient: who has seen the workload's output may leave
// before the engine has heard that it runs; the workload stays, as does a
// command in it.
func TestAStartOutlivesItsClient(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := create(t, e, hull.Spec{})
	ctx, leave := context.WithCancel(t.Context())
	w.running = leave
	if err := e.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	if now, err := e.Container(t.Context(), c.ID); err != nil || now.Status.Phase != hull.Running {
		t.Fatalf("the client left, and the record says %+v (%v)", now.Status, err)
	}
	ctx, leave = context.WithCancel(t.Context())
	w.running = leave
	id, err := e.ExecCreate(t.Context(), c.ID, hull.ExecSpec{Args: []string{"app"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.ExecStart(ctx, id, nil, 0, 0); err != nil {
		t.Fatal(err)
	}
	if x, err := e.Exec(t.Context(), id); err != nil || !x.Running {
		t.Errorf("the client left, and the command is %+v (%v)", x, err)
	}
}

func TestCreateFailsCleanAtEveryStep(t *testing.T) {
	for n := 1; n < 100; n++ {
		w := newWorld()
		w.failAt = n
		e := w.engine(t)
		_, _, err := e.Create(t.Context(), "web", hull.Spec{})
		if err == nil {
			if n < 4 {
				t.Fatalf("only %d steps of Create can fail", n-1)
			}
			return
		}
		if !errors.Is(err, errInjected) || len(w.leaks()) != 0 || len(w.containers) != 0 {
			t.Errorf("step %d: %v; leaked %v, records %d", n, err, w.leaks(), len(w.containers))
		}
	}
}

// An image for other processors is said, as Docker says it, unless it was asked for.
func TestCreateForeignImage(t *testing.T) {
	w := newWorld()
	w.img.OS, w.img.Architecture, w.img.Variant = "linux", "arm", "v5"
	e := w.engine(t)
	_, warnings, err := e.Create(t.Context(), "", hull.Spec{})
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], "The requested image's platform (linux/arm/v5) does not match the detected host platform (linux/") {
		t.Errorf("%q, %v", warnings, err)
	}
	if _, warnings, err = e.Create(t.Context(), "", hull.Spec{Platform: "linux/arm/v5"}); err != nil || len(warnings) != 0 {
		t.Errorf("asked for: %q, %v", warnings, err)
	}
}

func TestExitReleasesEverything(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{})
	if x := waitExit(t, e, w, c, 3); x.Code != 3 {
		t.Errorf("exit %+v", x)
	}
	now, _ := e.Container(t.Context(), c.ID)
	if now.Status.Phase != hull.Stopped || now.Status.ExitCode != 3 || now.Status.Pid != 0 {
		t.Errorf("record %+v", now.Status)
	}
	if got := w.leaks(); !slices.Contains(got, "layer:1") || len(got) != 2 { // its keeping: layer and volumes
		t.Errorf("held after exit: %v", got)
	}
	if err := e.Remove(t.Context(), c.ID, hull.RemoveRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := w.leaks(); len(got) != 0 || len(w.pods) != 0 {
		t.Errorf("held after remove: %v, pods %v", got, w.pods)
	}
}

// TestMoreThanTheHostHas refuses processors that there are not, when a container is
// made and when it is changed.
func TestMoreThanTheHostHas(t *testing.T) {
	e := newWorld().engine(t)
	c := create(t, e, hull.Spec{Resources: hull.Resources{NanoCPUs: int64(runtime.NumCPU()) * 1e9, CpusetCpus: "0"}})
	for _, x := range []struct {
		words string
		r     hull.Resources
	}{
		{"range of CPUs is from 0.01 to", hull.Resources{NanoCPUs: int64(runtime.NumCPU())*1e9 + 1}},
		{"Requested CPUs are not available - requested 0,65000, available: 0", hull.Resources{CpusetCpus: "0,65000"}},
		{"Requested CPUs are not available", hull.Resources{CpusetCpus: "0-65000"}},
		{"Invalid value 1-0 for cpuset cpus", hull.Resources{CpusetCpus: "1-0"}},
		{"Invalid value x for cpuset mems", hull.Resources{CpusetMems: "x"}},
	} {
		_, _, err := e.Create(t.Context(), "", hull.Spec{Resources: x.r})
		_, changed := e.Update(t.Context(), c.ID, hull.UpdateRequest{Resources: &x.r})
		for _, err := range []error{err, changed} {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), x.words) {
				t.Errorf("%+v: %v", x.r, err)
			}
		}
	}
}

// TestLogsOfAYoungRun asks for a log right after the start: it is read when the
// run is old enough, or over.
func TestLogsOfAYoungRun(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{Image: "x"})
	if _, err := e.Logs(t.Context(), c.ID, hull.LogsRequest{Tail: -1}); !errdefs.IsNotImplemented(err) {
		t.Fatalf("the fake's answer is %v", err)
	}
	if c, err := e.Container(t.Context(), c.ID); err != nil || time.Since(c.Status.StartedAt) < youth {
		t.Errorf("read before the run of %s was old enough: %v", c.Status.StartedAt, err)
	}
	waitExit(t, e, w, c, 0)
}

func TestAutoRemove(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{AutoRemove: true})
	wait, err := e.Wait(t.Context(), c.ID, hull.WaitRemoved)
	if err != nil {
		t.Fatal(err)
	}
	w.proc(c.ID).end(7)
	x, err := wait(t.Context())
	if err != nil || x.Code != 7 {
		t.Fatalf("%+v, %v", x, err)
	}
	if _, err := e.Container(t.Context(), c.ID); !errdefs.IsNotFound(err) {
		t.Errorf("still there: %v", err)
	}
	// Who asks for the end in a second request may come too late.
	for _, cond := range []hull.WaitCondition{"", hull.WaitRemoved} {
		wait, err := e.Wait(t.Context(), c.ID, cond)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := wait(t.Context()); err != nil || x.Code != 7 {
			t.Errorf("wait %q after the removal: %+v, %v", cond, x, err)
		}
	}
	if _, err := e.Wait(t.Context(), c.ID, hull.WaitNextExit); !errdefs.IsNotFound(err) {
		t.Errorf("wait for an exit that cannot come: %v", err)
	}
	// Its sandbox and layer are taken down after that was told.
	for limit := time.Now().Add(time.Minute); len(w.leaks()) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("still there: %v", w.leaks())
		}
	}
}

// TestRestartKeepsWhatIsToBeRemoved: --rm is for the end of a run that nobody
// starts again. The client may be gone by then.
func TestRestartKeepsWhatIsToBeRemoved(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{Process: hull.ProcessSpec{Cmd: []string{"app"}}, AutoRemove: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Restart(ctx, c.ID, hull.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	now, err := e.Container(t.Context(), c.ID)
	if err != nil || now.Status.Phase != hull.Running {
		t.Fatalf("after restart: %+v, %v", now.Status, err)
	}
	if err := e.Stop(t.Context(), c.ID, hull.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Container(t.Context(), c.ID); !errdefs.IsNotFound(err) {
		t.Errorf("after stop: %v", err)
	}
}

// TestReadOnlyBindsAreRecursive, as with Docker since 25, unless they are not to be.
func TestReadOnlyBindsAreRecursive(t *testing.T) {
	for _, tc := range []struct {
		mount hull.MountPoint
		want  []string
	}{
		{hull.MountPoint{RW: true}, []string{"rbind", "rprivate"}},
		{hull.MountPoint{}, []string{"rbind", "ro", "rro", "rprivate"}},
		{hull.MountPoint{Spec: hull.Mount{ReadOnlyNonRec: true}}, []string{"rbind", "ro", "rprivate"}},
		{hull.MountPoint{Spec: hull.Mount{ReadOnlyForce: true}}, []string{"rbind", "ro", "rro", "rprivate"}},
	} {
		tc.mount.Type, tc.mount.Source, tc.mount.Target = hull.MountBind, "/a", "/b"
		if got := userMount(tc.mount, false).Options; !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.mount, got, tc.want)
		}
	}
}

func TestStop(t *testing.T) {
	for _, tc := range []struct {
		cmd  string
		want int
	}{{"app", 143}, {"deaf", 137}} {
		w := newWorld()
		e := w.engine(t)
		c := start(t, e, hull.Spec{Process: hull.ProcessSpec{Cmd: []string{tc.cmd}}, Restart: hull.RestartPolicy{Name: "always"}})
		zero := 0
		r := hull.StopRequest{}
		if tc.cmd == "deaf" {
			r.Timeout = &zero
		}
		if err := e.Stop(t.Context(), c.ID, r); err != nil {
			t.Fatal(err)
		}
		now, _ := e.Container(t.Context(), c.ID)
		if now.Status.ExitCode != tc.want || now.Status.Phase != hull.Stopped || now.Status.Restarting {
			t.Errorf("%s: %+v", tc.cmd, now.Status)
		}
		if err := e.Stop(t.Context(), c.ID, hull.StopRequest{}); !isNotModified(err) {
			t.Errorf("second stop: %v", err)
		}
	}
}

func TestRestartPolicies(t *testing.T) {
	fail, ok := hull.Exit{Code: 1}, hull.Exit{}
	for _, tc := range []struct {
		policy    hull.RestartPolicy
		exit      hull.Exit
		count     int
		user, ill bool
		want      bool
	}{
		{hull.RestartPolicy{Name: "no"}, fail, 0, false, false, false},
		{hull.RestartPolicy{Name: "always"}, ok, 0, false, false, true},
		{hull.RestartPolicy{Name: "always"}, fail, 0, true, false, false},
		{hull.RestartPolicy{Name: "unless-stopped"}, ok, 99, false, false, true},
		{hull.RestartPolicy{Name: "on-failure"}, ok, 0, false, false, false},
		{hull.RestartPolicy{Name: "on-failure"}, fail, 50, false, false, true},
		{hull.RestartPolicy{Name: "on-failure", MaxRetries: 2}, fail, 1, false, false, true},
		{hull.RestartPolicy{Name: "on-failure", MaxRetries: 2}, fail, 2, false, false, false},
		{hull.RestartPolicy{Name: "on-failure"}, ok, 0, false, true, false},
		{hull.RestartPolicy{Name: "unhealthy"}, ok, 0, false, true, true},
		{hull.RestartPolicy{Name: "unhealthy"}, ok, 0, false, false, false},
	} {
		c := hull.Container{Spec: hull.Spec{Restart: tc.policy}, Status: hull.Status{RestartCount: tc.count, StopRequested: tc.user}}
		if got := restartAfter(c, tc.exit, tc.ill); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

// TestRestartsAfterFailure runs the policy for real: the second run is another
// process, and the count is in the record.
func TestRestartsAfterFailure(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{Restart: hull.RestartPolicy{Name: "on-failure", MaxRetries: 1}})
	first := w.proc(c.ID)
	waitExit(t, e, w, c, 1)
	deadline := time.Now().Add(time.Minute)
	for w.proc(c.ID) == nil || w.proc(c.ID) == first || !w.proc(c.ID).on {
		if time.Now().After(deadline) {
			t.Fatal("was not started again")
		}
		time.Sleep(time.Millisecond)
	}
	waitExit(t, e, w, c, 1)
	now, _ := e.Container(t.Context(), c.ID)
	if now.Status.RestartCount != 1 || now.Status.Restarting || now.Status.Phase != hull.Stopped {
		t.Errorf("after the last retry: %+v", now.Status)
	}
	// Whoever starts it has the policy count from the beginning.
	if err := e.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if now, _ = e.Container(t.Context(), c.ID); now.Status.RestartCount != 0 {
		t.Errorf("started by hand: %+v", now.Status)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{
		Restart: hull.RestartPolicy{Name: "unhealthy"},
		Health:  &hull.HealthSpec{Test: []string{"CMD-SHELL", "1"}, Interval: time.Millisecond, Retries: 2},
	})
	first := w.proc(c.ID)
	deadline := time.Now().Add(time.Minute)
	for w.proc(c.ID) == first || w.proc(c.ID) == nil {
		if time.Now().After(deadline) {
			now, _ := e.Container(t.Context(), c.ID)
			t.Fatalf("an unhealthy container was not started again: %+v, events %v", now.Status, w.events)
		}
		time.Sleep(time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.events, "health_status: unhealthy") {
		t.Errorf("events %v", w.events)
	}
}

func TestNextHealth(t *testing.T) {
	bad, good := hull.HealthResult{ExitCode: 1}, hull.HealthResult{}
	h := hull.Health{Status: "starting"}
	h = nextHealth(h, bad, 2, true)
	if h.Status != "starting" || h.FailingStreak != 0 {
		t.Errorf("a failure in the start period counted: %+v", h)
	}
	h = nextHealth(h, bad, 2, false)
	h = nextHealth(h, bad, 2, false)
	if h.Status != "unhealthy" || h.FailingStreak != 2 {
		t.Errorf("%+v", h)
	}
	for range 9 {
		h = nextHealth(h, good, 2, false)
	}
	if h.Status != "healthy" || h.FailingStreak != 0 || len(h.Log) != healthLogLen {
		t.Errorf("%+v", h)
	}
}

// TestRecover kills the engine (forgets it) at different points and lets
// another one take over.
func TestRecover(t *testing.T) {
	t.Run("running goes on", func(t *testing.T) {
		w := newWorld()
		e := w.engine(t)
		c := start(t, e, hull.Spec{})
		e2 := w.engine(t)
		if err := e2.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if x := waitExit(t, e2, w, c, 5); x.Code != 5 {
			t.Errorf("%+v", x)
		}
	})
	t.Run("ended meanwhile", func(t *testing.T) {
		w := newWorld()
		e := w.engine(t)
		c := start(t, e, hull.Spec{})
		w.boxes[c.ID].gone = map[string]hull.Exit{c.ID: {Code: 9, At: time.Now()}}
		e2 := w.engine(t)
		if err := e2.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, _ := e2.Container(t.Context(), c.ID)
		if now.Status.Phase != hull.Stopped || now.Status.ExitCode != 9 {
			t.Errorf("%+v", now.Status)
		}
		if len(w.pods) != 0 {
			t.Errorf("pods left: %v", w.pods)
		}
	})
	t.Run("ended meanwhile with --rm", func(t *testing.T) {
		w := newWorld()
		e := w.engine(t)
		c := start(t, e, hull.Spec{AutoRemove: true})
		w.boxes[c.ID].gone = map[string]hull.Exit{c.ID: {Code: 0}}
		e2 := w.engine(t)
		if err := e2.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := e2.Container(t.Context(), c.ID); !errdefs.IsNotFound(err) {
			t.Errorf("not removed: %v", err)
		}
	})
	t.Run("ended with --rm, removal told and not finished", func(t *testing.T) {
		w := newWorld()
		c := start(t, w.engine(t), hull.Spec{AutoRemove: true})
		delete(w.containers, c.ID)
		if err := w.engine(t).Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.leaks(); slices.Contains(got, "sandbox:1") || slices.Contains(got, "net:1") || len(w.pods) != 0 {
			t.Errorf("left: %v, pods %v", got, w.pods)
		}
	})
	t.Run("restart policy", func(t *testing.T) {
		w := newWorld()
		e := w.engine(t)
		c := start(t, e, hull.Spec{Restart: hull.RestartPolicy{Name: "always"}})
		b := w.boxes[c.ID]
		b.gone = map[string]hull.Exit{c.ID: {Code: 0}}
		delete(w.boxes, c.ID)
		e2 := w.engine(t)
		if err := e2.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for {
			now, _ := e2.Container(t.Context(), c.ID)
			if now.Status.Phase == hull.Running {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", now.Status)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// TestRecoverAtEveryStep is the kill -9 version of
// TestStartFailsCleanAtEveryStep: the engine vanishes at step n, nothing is
// undone, and the next engine cleans up.
func TestRecoverAtEveryStep(t *testing.T) {
	for n := 1; n < 100; n++ {
		w := newWorld()
		e := w.engine(t)
		c := create(t, e, hull.Spec{})
		w.calls = 0
		died := dieAt(t, w, e, c, n)
		e2 := w.engine(t)
		if err := e2.Recover(t.Context()); err != nil {
			t.Errorf("step %d: %v", n, err)
		}
		now, err := e2.Container(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.Status.Phase == hull.Starting {
			t.Errorf("step %d: still starting", n)
		}
		if !died {
			return
		}
		if now.Status.Phase != hull.Running {
			if err := e2.Start(t.Context(), c.ID); err != nil {
				t.Errorf("step %d: start after recovery: %v", n, err)
			}
		}
	}
}

// dieAt runs Start until step n, which panics: as after kill -9, no error path
// runs and nothing is undone.
func dieAt(t *testing.T, w *world, e *Engine, c hull.Container, n int) (died bool) {
	t.Helper()
	w.failAt = -n
	defer func() {
		died = recover() != nil
		w.failAt = 0
	}()
	if err := e.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return false
}

// TestPodOfTwo runs two containers in one boundary on one network.
func TestSharedIPC(t *testing.T) {
	for _, mode := range []string{"", "private", "none", "shareable", "host"} {
		w := newWorld()
		e := w.engine(t)
		donor := start(t, e, hull.Spec{Namespaces: hull.Namespaces{IPC: mode}})
		c := create(t, e, hull.Spec{Namespaces: hull.Namespaces{IPC: "container:" + donor.ID}})
		err := e.Start(t.Context(), c.ID)
		if mode == "shareable" || mode == "host" {
			if err != nil {
				t.Errorf("donor's mode %q: %v", mode, err)
			}
			continue
		}
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "non-shareable IPC (hint: use IpcMode:shareable for the donor container)") {
			t.Errorf("donor's mode %q: %v", mode, err)
		}
		waitExit(t, e, w, donor, 137)
		if err := e.Start(t.Context(), c.ID); !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "failed to join IPC namespace") || !strings.Contains(err.Error(), "is not running") {
			t.Errorf("donor has ended: %v", err)
		}
	}
}

func TestPodOfTwo(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	p, err := e.CreatePod(t.Context(), hull.Pod{Name: "pod"})
	if err != nil {
		t.Fatal(err)
	}
	var cs []hull.Container
	for range 2 {
		c, _, err := e.CreateIn(t.Context(), p.ID, "", hull.Spec{})
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, c)
	}
	if err := e.Start(t.Context(), cs[0].ID); !errdefs.IsConflict(err) {
		t.Errorf("start in a pod that does not run: %v", err)
	}
	if err := e.StartPod(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range cs {
		if err := e.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	if w.open["sandbox"] != 1 || w.open["net"] != 1 || len(w.boxes[p.ID].procs) != 2 {
		t.Errorf("open %v", w.open)
	}
	if err := e.Stop(t.Context(), cs[0].ID, hull.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if w.open["sandbox"] != 1 {
		t.Error("the end of one container took the pod away")
	}
	if err := e.RemovePod(t.Context(), p.ID); !errdefs.IsConflict(err) {
		t.Errorf("remove a running pod: %v", err)
	}
	if err := e.StopPod(t.Context(), p.ID, hull.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := e.RemovePod(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.leaks(); len(got) != 0 || len(w.pods) != 0 || len(w.containers) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestRemoveWhileTheMonitorDies: a kill that finds nobody is no failure.
func TestRemoveWhileTheMonitorDies(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := start(t, e, hull.Spec{Process: hull.ProcessSpec{Cmd: []string{"orphan"}}})
	if err := e.Remove(t.Context(), c.ID, hull.RemoveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Container(t.Context(), c.ID); !errdefs.IsNotFound(err) || len(w.leaks()) != 0 {
		t.Errorf("left: %v, %v", err, w.leaks())
	}
}
