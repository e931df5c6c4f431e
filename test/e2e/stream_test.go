package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"hull/test/harness"
)

// terminal is a command on a terminal of its own, as a person has it.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	seen bytes.Buffer
	more chan []byte
	pty  io.ReadWriteCloser
	size func(rows, cols uint16)
}

func open(t *testing.T, cmd *exec.Cmd, rows, cols uint16) *terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: cols})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, cmd: cmd, pty: f, more: make(chan []byte, 64)}
	term.size = func(rows, cols uint16) {
		if err := pty.Setsize(f, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		defer close(term.more)
		for {
			buf := make([]byte, 4096)
			n, err := f.Read(buf)
			if n > 0 {
				term.more <- buf[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { f.Close() })
	return term
}

func (x *terminal) write(s string) {
	x.t.Helper()
	if _, err := io.WriteString(x.pty, s); err != nil {
		x.t.Fatalf("write %q: %v; the terminal shows %q", s, err, x.seen.String())
	}
}

// expect waits until the terminal shows s, and forgets what came before.
func (x *terminal) expect(s string) {
	x.t.Helper()
	timeout := time.After(time.Minute)
	for {
		if i := strings.Index(x.seen.String(), s); i >= 0 {
			x.seen.Next(i + len(s))
			return
		}
		select {
		case b, ok := <-x.more:
			if !ok {
				x.t.Fatalf("the terminal closed before %q; it shows %q", s, x.seen.String())
			}
			x.seen.Write(b)
		case <-timeout:
			x.t.Fatalf("no %q in a minute; the terminal shows %q", s, x.seen.String())
		}
	}
}

// end waits for the command and returns its exit code.
func (x *terminal) end() int {
	x.t.Helper()
	done := make(chan error, 1)
	go func() { done <- x.cmd.Wait() }()
	for {
		select {
		case _, ok := <-x.more:
			if !ok {
				x.more = nil
			}
		case <-done:
			return x.cmd.ProcessState.ExitCode()
		case <-time.After(time.Minute):
			x.t.Fatalf("%v did not end; the terminal shows %q", x.cmd.Args, x.seen.String())
		}
	}
}

func TestInteractiveShellOnATerminal(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for _, c := range e.Clients() {
		t.Run(c.Name, func(t *testing.T) {
			x := open(t, c.Cmd("run", "-it", "--rm", "--name", "sh-"+c.Name, "busybox", "sh"), 30, 100)
			x.expect("# ")
			x.write("stty size\r")
			x.expect("30 100")
			e.Eventually("the new size arrives", func() error {
				// The client may not listen for the signal yet, and there is none without a change.
				x.size(40, 110)
				x.size(41, 111)
				if got := c.Run("exec", "sh-"+c.Name, "sh", "-c", "stty size < /dev/console || stty size < /dev/pts/0"); !strings.Contains(got, "41 111") {
					return fmt.Errorf("size %q", got)
				}
				return nil
			})
			x.write("echo a$((1+1))b; cat\r")
			x.expect("a2b")
			x.write("ping\r")
			x.expect("ping\r\nping") // the terminal's echo and cat's answer: it is in the foreground
			x.write("\x03")          // ^C ends cat, not the shell
			x.expect("# ")
			x.write("echo still $((40+2))\r")
			x.expect("still 42")
			x.write("exit 3\r")
			if code := x.end(); code != 3 {
				t.Errorf("exit code %d, want 3", code)
			}
		})
	}
}

func TestExecOnATerminal(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	e.Docker().Run("run", "-d", "--name", "box", "busybox", "sleep", "600")
	for _, c := range e.Clients() {
		x := open(t, c.Cmd("exec", "-it", "box", "sh"), 24, 80)
		x.expect("# ")
		x.write("tty; stty size\r")
		x.expect("/dev/pts/")
		x.expect("24 80")
		x.write("exit 4\r")
		if code := x.end(); code != 4 {
			t.Errorf("%s: exit code %d, want 4", c.Name, code)
		}
	}
}

func TestDetachKeysLeaveTheContainerRunning(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for _, c := range e.Clients() {
		name := "box-" + c.Name
		x := open(t, c.Cmd("run", "-it", "--name", name, "busybox", "sh"), 24, 80)
		x.expect("# ")
		x.write("\x10\x11") // ^P ^Q
		x.end()
		if got := c.Run("inspect", "-f", "{{.State.Running}}", name); got != "true" {
			t.Fatalf("%s: running is %s after detaching", c.Name, got)
		}
		x = open(t, c.Cmd("attach", "--detach-keys", "ctrl-x", name), 24, 80)
		x.write("echo again $((1+2))\r")
		x.expect("again 3")
		x.write("\x18")
		x.end()
		c.Run("rm", "-f", name)
	}
}

func TestAttachSeesBothStreams(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for _, c := range e.Clients() {
		name := "box-" + c.Name
		c.Run("create", "-i", "--name", name, "busybox", "sh", "-c", "while read l; do echo out $l; echo err $l >&2; done; exit 6")
		c.Run("start", name)
		r := c.TryStdin("one\ntwo\n", "attach", name)
		if r.Code != 6 || r.Stdout != "out one\nout two\n" || r.Stderr != "err one\nerr two\n" {
			t.Errorf("%s attach: %+v", c.Name, r)
		}
		if r := c.Try("logs", name); r.Stdout != "out one\nout two\n" || r.Stderr != "err one\nerr two\n" {
			t.Errorf("%s logs: %+v", c.Name, r)
		}
	}
}

func TestLogsFollowALivingContainer(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for _, c := range e.Clients() {
		name := "ticker-" + c.Name
		c.Run("run", "-d", "--name", name, "busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done")
		cmd := c.Cmd("logs", "-f", name)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 1; i <= 10; i++ {
			if !lines.Scan() || lines.Text() != fmt.Sprint("tick ", i) {
				t.Fatalf("%s: line %d is %q (%v)", c.Name, i, lines.Text(), lines.Err())
			}
		}
		c.Run("rm", "-f", name)
		for lines.Scan() { // the follower ends with the container
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s logs -f: %v", c.Name, err)
		}
	}
}

func TestLogsAreRotatedAndCapped(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	docker := e.Docker()
	docker.Run("run", "--name", "loud", "--log-opt", "max-size=100k", "--log-opt", "max-file=3", "busybox", "sh", "-c", "seq 1 100000")
	out := docker.Run("logs", "loud")
	lines := strings.Split(out, "\n")
	if last := lines[len(lines)-1]; last != "100000" {
		t.Errorf("the last line is %q", last)
	}
	if len(lines) < 1000 || len(lines) > 20000 {
		t.Errorf("%d lines are kept of 100000 in 3 files of 100 KiB", len(lines))
	}
	if got := docker.Run("logs", "--tail", "2", "loud"); got != "99999\n100000" {
		t.Errorf("tail: %q", got)
	}
}

func TestALotOfOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	cmd := e.Docker().Cmd("run", "--rm", "busybox", "sh", "-c", "dd if=/dev/zero bs=1M count=256 2>/dev/null | tr '\\0' 'x'")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, out)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || n != 256<<20 {
		t.Errorf("%d bytes arrived, want %d (%v)", n, 256<<20, err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	cmd := e.Docker().Cmd("events", "--filter", "type=container", "--format", "{{.Action}} {{.Actor.Attributes.name}}")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewScanner(out)
	// The subscription is there when the first event of a probe arrives.
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				e.Docker().Try("create", "--name", "probe", "busybox")
				e.Docker().Try("rm", "probe")
			}
		}
	}()
	if !lines.Scan() {
		t.Fatal("no event")
	}
	close(stop)
	e.Hull().Run("run", "--name", "ev", "busybox", "true")
	e.Hull().Run("rm", "ev")
	var got []string
	for lines.Scan() {
		if strings.HasSuffix(lines.Text(), " ev") {
			got = append(got, strings.TrimSuffix(lines.Text(), " ev"))
			if got[len(got)-1] == "destroy" {
				break
			}
		}
	}
	if want := "create attach start die destroy"; strings.Join(got, " ") != want {
		t.Errorf("events %q, want %q", strings.Join(got, " "), want)
	}
}
