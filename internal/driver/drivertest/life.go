package drivertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

func lifecycle(r *run) {
	b := r.box()
	if len(b.Handle()) == 0 {
		r.Error("no handle after Create")
	}
	p := r.add(b, podID, sh("echo hello"), hull.IO{})
	if p.Pid() <= 0 {
		r.Errorf("pid %d of a created process", p.Pid())
	}
	// Created is not started: nothing of the image has run.
	time.Sleep(50 * time.Millisecond)
	if l := r.w.Logged(podID); l != "" {
		r.Errorf("ran before Start: %q", l)
	}
	r.start(p)
	r.exits(p, 0)
	// Wait returns after the output is in the log.
	if l := r.w.Logged(podID); !strings.Contains(l, "hello") {
		r.Errorf("logged %q", l)
	}
	if p.Pid() != 0 {
		r.Errorf("pid %d of an ended process", p.Pid())
	}
	if q, err := b.Process(podID); err != nil || q.Pid() != 0 {
		r.Errorf("process of an ended container: %v, %v", q, err)
	}
	if _, err := b.Process("nope"); !errdefs.IsNotFound(err) {
		r.Errorf("unknown process: %v", err)
	}
	if err := p.Start(r.ctx()); !errdefs.IsConflict(err) {
		r.Errorf("second start: %v", err)
	}
}

// again: a container that is started as soon as its last run was destroyed has
// nothing to fear from what is still being taken down of that one.
func again(r *run) {
	rounds := 20
	if r.d.Info().OneEach {
		rounds = 2 // machines take seconds
	}
	for range rounds {
		dir := r.w.RunDir(podID)
		b, err := r.d.Create(r.ctx(), driver.SandboxSpec{ID: podID, RunDir: dir, NetNS: r.w.NetNS()})
		r.ok(err)
		p := r.add(b, podID, sh("sleep 0.02; exit 3"), hull.IO{})
		r.start(p)
		r.exits(p, 3)
		r.ok(b.Destroy(r.ctx()))
		r.ok(os.RemoveAll(dir)) // the engine's, after Destroy
	}
}

func exitCodes(r *run) {
	b := r.box()
	for _, code := range []int{0, 1, 42, 255} {
		p := r.add(b, fmt.Sprintf("c%d", code), sh(fmt.Sprintf("exit %d", code)), hull.IO{})
		r.start(p)
		r.exits(p, code)
		b = r.next(b)
	}
	p := r.add(b, "false", Spec("/bin/false"), hull.IO{})
	r.start(p)
	r.exits(p, 1)
}

func execError(r *run) {
	b := r.box()
	for program, code := range map[string]int{"/no/such/program": 127, "no-such-program": 127, "/notexec": 126} {
		id := fmt.Sprintf("c%d", len(program))
		b = r.next(b)
		p, err := b.Add(r.ctx(), r.spec(id, Spec(program)), hull.IO{})
		// A driver may notice as early as in Add; then there is no process.
		if err != nil {
			if err := isExecError(err, code); err != nil {
				r.Errorf("add %s: %v", program, err)
			}
			continue
		}
		if err := isExecError(p.Start(r.ctx()), code); err != nil {
			r.Errorf("start %s: %v", program, err)
		}
		r.exits(p, code)
	}
}

func signals(r *run) {
	b := r.box()
	p := r.add(b, "trap", sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"), hull.IO{})
	c := r.attach(p, hull.Attach{Stdout: true})
	r.start(p)
	r.until(c, "ready")
	r.ok(p.Signal(r.ctx(), syscall.SIGTERM))
	r.exits(p, 7)

	b = r.next(b)
	p = r.add(b, "kill", sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	r.ok(p.Signal(r.ctx(), 0))
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
}

func dead(r *run) {
	b := r.box()
	p := r.add(b, podID, Spec("/bin/true"), hull.IO{})
	r.start(p)
	r.exits(p, 0)
	ctx := r.ctx()
	_, conn := r.pair()
	_, execErr := b.Exec(ctx, podID, driver.ExecSpec{ID: "e", Process: Spec("/bin/true").Process}, hull.IO{})
	_, unknown := b.Exec(ctx, "nope", driver.ExecSpec{ID: "e", Process: Spec("/bin/true").Process}, hull.IO{})
	if err := errors.Join(
		notFound("signal", p.Signal(ctx, syscall.SIGTERM)),
		notFound("attach", driver.Attach(ctx, p, hull.Attach{Conn: conn, Stdout: true})),
		notFound("exec in an ended container", execErr),
		notFound("exec in an unknown container", unknown),
	); err != nil {
		r.Error(err)
	}
}

func doubleDestroy(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	r.ok(b.Destroy(r.ctx()))
	r.exits(p, 137)
	r.ok(b.Destroy(r.ctx()))
	if _, err := b.Add(r.ctx(), r.spec("late", Spec("/bin/true")), hull.IO{}); err == nil {
		r.Error("a destroyed sandbox took a container")
	}
}

func neverStarted(r *run) {
	b := r.box()
	p := r.add(b, podID, Spec("/bin/true"), hull.IO{})
	r.ok(b.Destroy(r.ctx()))
	r.exits(p, 137)
}

func waitTwice(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("sleep 0.1; exit 5"), hull.IO{})
	codes := make(chan int, 3)
	for range cap(codes) {
		go func() {
			x, err := p.Wait(r.ctx())
			if err != nil {
				x.Code = -1
			}
			codes <- x.Code
		}()
	}
	r.start(p)
	for range cap(codes) {
		if c := <-codes; c != 5 {
			r.Errorf("waited for code %d", c)
		}
	}
	r.exits(p, 5)
}

func twoContainers(r *run) {
	if r.d.Info().OneEach {
		b := r.box()
		r.add(b, "one", Spec("/bin/true"), hull.IO{})
		if _, err := b.Add(r.ctx(), r.spec("two", Spec("/bin/true")), hull.IO{}); !errdefs.IsNotImplemented(err) {
			r.Errorf("a second container where there is room for one: %v", err)
		}
		return
	}
	b := r.box()
	one := r.add(b, "one", sh("echo one; while :; do sleep 0.05; done"), hull.IO{})
	two := r.add(b, "two", sh("echo two; exit 3"), hull.IO{})
	if _, err := b.Add(r.ctx(), r.spec("two", Spec("/bin/true")), hull.IO{}); !errdefs.IsAlreadyExists(err) && !errdefs.IsConflict(err) {
		r.Errorf("the same id twice: %v", err)
	}
	r.start(one)
	r.start(two)
	r.exits(two, 3)
	r.ok(one.Signal(r.ctx(), 0)) // one has not noticed
	e := r.exec(b, "one", "e", sh("exit 4"), hull.IO{})
	r.start(e)
	r.exits(e, 4)
	r.ok(one.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(one, 137)
	if l := r.w.Logged("one") + r.w.Logged("two"); !strings.Contains(l, "one") || !strings.Contains(l, "two") {
		r.Errorf("logged %q", l)
	}
}

func outOfMemory(r *run) {
	b := r.box()
	s := Spec("/bin/tail", "/dev/zero")
	limit := max(16<<20, r.d.Info().MinMemory)
	s.Linux.Resources = memoryLimit(limit)
	p := r.add(b, podID, s, hull.IO{})
	r.start(p)
	if x := r.wait(p); x.Code != 137 || !x.OOMKilled {
		r.Errorf("exit %+v of a memory hog", x)
	}
}

// users: names are looked up in the root file system, and a process's groups are
// the container's, never the host's.
func users(r *run) {
	b := r.box()
	c := r.spec(podID, sh("id; while :; do sleep 0.05; done"))
	c.User, c.Groups = "alice", []string{"3000"}
	p, err := b.Add(r.ctx(), c, hull.IO{Log: r.w.Log(podID)})
	r.ok(err)
	out := r.attach(p, hull.Attach{Stdout: true})
	r.start(p)
	if got := r.until(out, "\n"); !strings.HasPrefix(got, "uid=1000(alice) gid=100") || !strings.Contains(got, "2000") || !strings.Contains(got, "3000") {
		r.Errorf("the process says %q", got)
	}
	e, err := b.Exec(r.ctx(), podID, driver.ExecSpec{ID: "e", Process: sh("id").Process, User: "7:8"}, hull.IO{})
	r.ok(err)
	out = r.attach(e, hull.Attach{Stdout: true})
	r.start(e)
	if got := strings.TrimSpace(r.readAll(out)); got != "uid=7 gid=8 groups=8" {
		r.Errorf("the exec says %q", got)
	}
	r.exits(e, 0)
	for _, name := range []string{"nobody-there", "-1", "4294967296", "alice\nroot"} {
		c := r.spec("bad", Spec("/bin/true"))
		c.User = name
		b = r.next(b)
		if _, err := b.Add(r.ctx(), c, hull.IO{}); !errdefs.IsInvalidArgument(err) {
			r.Errorf("user %q: %v", name, err)
		}
	}
}

func pause(r *run) {
	if !r.can("pause") {
		r.Skip("not able")
	}
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	r.ok(driver.Pause(r.ctx(), b, podID))
	r.ok(driver.Resume(r.ctx(), b, podID))
	// A paused container can be destroyed, too: by the clean-up.
	r.ok(driver.Pause(r.ctx(), b, podID))
}

func stats(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	if r.can("stats") {
		s, err := driver.Stats(r.ctx(), b, podID)
		r.ok(err)
		if s.Memory.Usage == 0 || s.Pids.Current == 0 || s.OnlineCPUs == 0 || s.SystemCPU == 0 || s.Read.IsZero() {
			r.Errorf("empty sample: %+v", s)
		}
	}
	if r.can("pids") {
		pids, err := driver.Pids(r.ctx(), b, podID)
		r.ok(err)
		if !slices.Contains(pids, p.Pid()) {
			r.Errorf("pids %v without %d", pids, p.Pid())
		}
	}
	if r.can("update") {
		r.ok(driver.Update(r.ctx(), b, podID, hull.Resources{Memory: 64 << 20}))
		s, err := driver.Stats(r.ctx(), b, podID)
		r.ok(err)
		if s.Memory.Limit != 64<<20 {
			r.Errorf("memory limit %d after update", s.Memory.Limit)
		}
	}
	if r.can("root") {
		f, err := driver.Root(r.ctx(), b, podID)
		r.ok(err)
		defer f.Close()
		if st, err := f.Stat(); err != nil || !st.IsDir() {
			r.Errorf("root is %v, %v", st, err)
		}
	}
	if _, err := driver.Stats(r.ctx(), b, "nope"); r.can("stats") && !errdefs.IsNotFound(err) {
		r.Errorf("stats of an unknown container: %v", err)
	}
}

func recovered(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("trap 'exit 9' TERM; echo before; while :; do sleep 0.05; done"), hull.IO{})
	c := r.attach(p, hull.Attach{Stdout: true, Stderr: true})
	r.start(p)
	r.until(c, "before")
	pid := p.Pid()

	again, err := r.w.Driver().Recover(r.ctx(), podID, b.Handle())
	r.ok(err)
	if string(again.Handle()) != string(b.Handle()) {
		r.Error("the handle has changed")
	}
	q, err := again.Process(podID)
	r.ok(err)
	if q.Pid() != pid {
		r.Errorf("pid %d, was %d", q.Pid(), pid)
	}
	e := r.exec(again, podID, "e", sh("echo from exec"), hull.IO{})
	out := r.attach(e, hull.Attach{Stdout: true})
	r.start(e)
	if got := r.readAll(out); got != "from exec\n" {
		r.Errorf("exec after recovery wrote %q", got)
	}
	r.exits(e, 0)
	r.ok(q.Signal(r.ctx(), syscall.SIGTERM))
	r.exits(q, 9)
	r.readAll(c) // the client was there all the time, and is let go
	r.ok(again.Destroy(r.ctx()))
}

func recoverAfterExit(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("echo done; exit 6"), hull.IO{})
	r.start(p)
	r.exits(p, 6)
	again, err := r.w.Driver().Recover(r.ctx(), podID, b.Handle())
	r.ok(err)
	q, err := again.Process(podID)
	r.ok(err)
	r.exits(q, 6)
}

func recoverGone(r *run) {
	b := r.box()
	several := !r.d.Info().OneEach
	if several {
		done := r.add(b, "done", sh("exit 8"), hull.IO{})
		r.start(done)
		r.exits(done, 8)
	}
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	r.w.KillMonitor(podID)
	_, err := r.w.Driver().Recover(r.ctx(), podID, b.Handle())
	gone, ok := driver.AsGone(err)
	if !ok || !errdefs.IsNotFound(err) {
		r.Fatalf("recover of what is gone: %v", err)
	}
	if x, ok := gone.Exits["done"]; several && (!ok || x.Code != 8) {
		r.Errorf("exits %+v", gone.Exits)
	}
}

func recoverBroken(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	for _, h := range []string{"", "{", "another driver's"} {
		if _, err := r.w.Driver().Recover(r.ctx(), podID, hull.Handle(h)); !errdefs.IsNotFound(err) {
			r.Errorf("recover of handle %q: %v", h, err)
		}
	}
	r.exits(p, 137) // destroyed by name
}

func monitorKilled(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	r.w.KillMonitor(podID)
	x := r.wait(p)
	if x.Code != 137 || x.Error == "" {
		r.Errorf("exit %+v", x)
	}
	if err := p.Signal(r.ctx(), syscall.SIGTERM); err == nil {
		r.Error("signal to a lost process")
	}
	r.ok(b.Destroy(r.ctx()))
}

func cancelled(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(r.ctx())
	cancel(cause)
	if _, err := p.Wait(ctx); !errors.Is(err, cause) {
		r.Errorf("wait with a cancelled context: %v", err)
	}
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
}
