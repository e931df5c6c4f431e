package drivertest

import (
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

func memoryLimit(n int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}
}

func stdioOrder(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("echo 1; echo 2; echo 3; echo e1 >&2; echo 4"), hull.IO{})
	c := r.attach(p, hull.Attach{Stdout: true, Stderr: true, Mux: true}) // before the start: it sees everything
	r.start(p)
	r.exits(p, 0)
	out, errs := r.demux(r.readAll(c))
	if out != "1\n2\n3\n4\n" || errs != "e1\n" {
		r.Errorf("client got %q and %q", out, errs)
	}
}

func logged(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("echo out; echo err >&2"), hull.IO{})
	r.start(p)
	r.exits(p, 0)
	if l := r.w.Logged(podID); !strings.Contains(l, "out") || !strings.Contains(l, "err") {
		r.Errorf("logged %q", l)
	}
}

func attach(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("echo out; echo err >&2; while :; do sleep 0.05; done"), hull.IO{})
	all := r.attach(p, hull.Attach{Stdout: true, Stderr: true})
	onlyErr := r.attach(p, hull.Attach{Stderr: true})
	gone := r.attach(p, hull.Attach{Stdout: true})
	r.ok(gone.Close())
	r.start(p)
	if got := r.until(onlyErr, "err"); strings.Contains(got, "out") {
		r.Errorf("stderr has %q", got)
	}
	r.until(all, "out")
	late := r.attach(p, hull.Attach{Stdout: true, Stderr: true})
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
	if got := r.readAll(late); got != "" { // closed at the end
		r.Errorf("a late client got %q", got)
	}
	r.readAll(all)
}

func stdin(r *run) {
	b := r.box()
	p := r.add(b, podID, Spec("/bin/cat"), hull.IO{Stdin: true})
	// Without StdinOnce the end of a client's input is only the end of the client.
	c := r.attach(p, hull.Attach{Stdin: true, Stdout: true, Prelude: []byte("early ")})
	r.start(p)
	r.write(c, "one\n")
	r.until(c, "early one\n")
	r.endInput(c)
	r.readAll(c)
	c = r.attach(p, hull.Attach{Stdin: true, Stdout: true})
	r.write(c, "two\n")
	r.until(c, "two\n")
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
}

func stdinOnce(r *run) {
	b := r.box()
	p := r.add(b, podID, Spec("/bin/cat"), hull.IO{Stdin: true, StdinOnce: true})
	c := r.attach(p, hull.Attach{Stdin: true, Stdout: true, Stderr: true, Mux: true})
	r.start(p)
	r.write(c, "all of it")
	r.endInput(c) // half-close: output still comes
	r.exits(p, 0)
	if out, _ := r.demux(r.readAll(c)); out != "all of it" {
		r.Errorf("client got %q", out)
	}
}

func terminal(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("stty size; while :; do sleep 0.05; done"), hull.IO{TTY: true, Stdin: true, Rows: 33, Cols: 101})
	c := r.attach(p, hull.Attach{Stdin: true, Stdout: true, Stderr: true})
	r.start(p)
	if got := r.until(c, "33 101"); !strings.HasPrefix(got, "33 101") {
		r.Errorf("terminal says %q", got)
	}
	r.ok(driver.Resize(r.ctx(), p, 40, 80))
	e := r.exec(b, podID, "e", sh("stty size"), hull.IO{TTY: true, Rows: 12, Cols: 34})
	out := r.attach(e, hull.Attach{Stdout: true})
	r.start(e)
	if got := strings.TrimSpace(r.readAll(out)); got != "12 34" {
		r.Errorf("terminal of an exec says %q", got)
	}
	r.exits(e, 0)
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
	r.readAll(c)
}

func detach(r *run) {
	b := r.box()
	p := r.add(b, podID, Spec("/bin/cat"), hull.IO{TTY: true, Stdin: true})
	c := r.attach(p, hull.Attach{Stdin: true, Stdout: true})
	r.start(p)
	r.write(c, "a\n")
	r.until(c, "a")
	r.write(c, "\x10\x11") // ctrl-p ctrl-q
	r.readAll(c)           // closed
	own := r.attach(p, hull.Attach{Stdin: true, Stdout: true, DetachKeys: []byte("xy")})
	r.write(own, "x1\n")
	r.until(own, "x1")
	r.write(own, "xy")
	r.readAll(own)
	r.ok(p.Signal(r.ctx(), 0)) // the process goes on
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
}

func execs(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	ours, theirs := r.pair()
	e := r.exec(b, podID, "e1", sh("echo out; echo err >&2; exit 11"), hull.IO{
		Attach: &hull.Attach{Conn: theirs, Stdout: true, Stderr: true, Mux: true},
	})
	r.ok(theirs.Close())
	r.start(e)
	if p.Pid() <= 0 {
		r.Errorf("pid %d", p.Pid())
	}
	r.exits(e, 11)
	out, errs := r.demux(r.readAll(ours))
	if out != "out\n" || errs != "err\n" {
		r.Errorf("exec wrote %q and %q", out, errs)
	}
	if q, err := b.Process("e1"); err != nil || q.Pid() != 0 {
		r.Errorf("ended exec: %v, %v", q, err)
	}
	missing, err := b.Exec(r.ctx(), podID, driver.ExecSpec{ID: "e2", Process: Spec("/no/such").Process}, hull.IO{})
	if err == nil {
		err = missing.Start(r.ctx())
	}
	if err := isExecError(err, 127); err != nil {
		r.Error(err)
	}
	execsNow(r, b)
	if l := r.w.Logged(podID); l != "" {
		r.Errorf("an exec's output is in the log: %q", l)
	}
	sleeper := r.exec(b, podID, "e3", sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(sleeper)
	r.ok(sleeper.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(sleeper, 137)
	r.ok(p.Signal(r.ctx(), 0))
}

// execsNow: whether a driver makes one step of it or two is not to be seen.
func execsNow(r *run, b driver.Sandbox) {
	for id, c := range map[string]struct {
		process *specs.Process
		code    int
	}{"now0": {sh("exit 0").Process, 0}, "now9": {sh("exit 9").Process, 9}} {
		e, err := b.Exec(r.ctx(), podID, driver.ExecSpec{ID: id, Process: c.process, Now: true}, hull.IO{})
		r.ok(err)
		r.start(e)
		r.exits(e, c.code)
	}
	missing, err := b.Exec(r.ctx(), podID, driver.ExecSpec{ID: "now127", Process: Spec("/no/such").Process, Now: true}, hull.IO{})
	if err == nil {
		err = missing.Start(r.ctx())
	}
	if err := isExecError(err, 127); err != nil {
		r.Error(err)
	}
}

func execStdin(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	ours, theirs := r.pair()
	e := r.exec(b, podID, "e", Spec("/bin/cat"), hull.IO{
		Stdin: true, Attach: &hull.Attach{Conn: theirs, Stdin: true, Stdout: true, Prelude: []byte("pre-")},
	})
	r.ok(theirs.Close())
	r.start(e)
	r.write(ours, "lude")
	r.endInput(ours)
	r.exits(e, 0)
	if got := r.readAll(ours); got != "pre-lude" {
		r.Errorf("got %q", got)
	}
}

// execOutlived: an exec ends with its container.
func execOutlived(r *run) {
	b := r.box()
	p := r.add(b, podID, sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(p)
	e := r.exec(b, podID, "e", sh("while :; do sleep 0.05; done"), hull.IO{})
	r.start(e)
	r.ok(p.Signal(r.ctx(), syscall.SIGKILL))
	r.exits(p, 137)
	r.exits(e, 137)
}
