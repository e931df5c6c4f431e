package launch

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hull/cmd/internal/endpoint"
)

const envConduct = "HULL_TEST_CONDUCT"

// The test program is also the engine that Start starts.
func TestMain(m *testing.M) {
	if conduct := os.Getenv(envConduct); conduct != "" {
		os.Exit(actAsEngine(conduct, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// actAsEngine serves the socket as hulld does, or fails as the conduct says.
func actAsEngine(conduct string, args []string) int {
	f := flag.NewFlagSet("hulld", flag.ContinueOnError)
	run, root, ready := f.String("run", "", ""), f.String("root", "", ""), f.Int("ready-fd", -1, "")
	if f.Parse(args) != nil {
		return 2
	}
	note(filepath.Join(*run, "starts"), fmt.Sprintf("%d %s\n", os.Getpid(), *root))
	pipe := os.NewFile(uintptr(*ready), "ready")
	switch conduct {
	case "die":
		for i := range 30 {
			fmt.Fprintln(os.Stderr, "line", i)
		}
		fmt.Fprintln(os.Stderr, "level=ERROR msg=\"no space left\"")
		return 4
	case "hang":
		time.Sleep(time.Minute)
		return 0
	}
	l, err := net.Listen("unix", filepath.Join(*run, "hull.sock"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if conduct == "serve" {
		_, _ = pipe.Write([]byte{1})
	}
	_ = pipe.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		_ = c.Close()
	}
}

func note(path, line string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = io.WriteString(f, line)
		_ = f.Close()
	}
}

// own is an endpoint whose engine behaves as conduct says and ends with the test.
func own(t *testing.T, conduct string) endpoint.Endpoint {
	t.Helper()
	dir, err := os.MkdirTemp("", "hull") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n" + envConduct + "=" + conduct + " exec " + self + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "hulld"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	run := filepath.Join(dir, "run")
	t.Cleanup(func() {
		for _, pid := range starts(run) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = os.RemoveAll(dir)
	})
	return endpoint.Resolve(endpoint.Choice{Getenv: func(k string) string {
		return map[string]string{endpoint.EnvRun: run, endpoint.EnvRoot: filepath.Join(dir, "root")}[k]
	}})
}

// starts is the engines that were started.
func starts(run string) (pids []int) {
	b, _ := os.ReadFile(filepath.Join(run, "starts"))
	for line := range strings.Lines(string(b)) {
		if pid, err := strconv.Atoi(strings.Fields(line)[0]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestStart(t *testing.T) {
	e := own(t, "serve")
	if err := Start(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if !serving(t.Context(), e.Socket) {
		t.Error("nobody serves")
	}
	b, err := os.ReadFile(filepath.Join(e.Run, "starts"))
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(b)), " "+e.Root) {
		t.Errorf("starts %q, %v: no --root %s", b, err, e.Root)
	}
	pids := starts(e.Run)
	if len(pids) != 1 {
		t.Fatalf("engines: %v", pids)
	}
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pids[0]), 0, 0)
	if errno != 0 || int(sid) != pids[0] {
		t.Errorf("the engine is in session %d of %v, not its own", sid, errno)
	}
	if err := Start(t.Context(), e); err != nil || len(starts(e.Run)) != 1 {
		t.Errorf("started again beside a serving engine: %v, %v", starts(e.Run), err)
	}
}

func TestStartOnceForManyCallers(t *testing.T) {
	e := own(t, "serve")
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = Start(t.Context(), e) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if pids := starts(e.Run); len(pids) != 1 {
		t.Errorf("engines started: %v", pids)
	}
}

// An engine that serves and only closes the pipe is a good one.
func TestStartOfSilentEngine(t *testing.T) {
	if err := Start(t.Context(), own(t, "silent")); err != nil {
		t.Error(err)
	}
}

func TestStartOfDyingEngine(t *testing.T) {
	e := own(t, "die")
	note(filepath.Join(mkdir(t, e.Run), "hulld.log"), "of an earlier run\n")
	err := Start(t.Context(), e)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{e.Host, "exit status 4", "no space left", "line 29", "hulld.log", "--run " + e.Run} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error without %q:\n%v", want, err)
		}
	}
	for _, not := range []string{"earlier run", "line 10"} {
		if strings.Contains(err.Error(), not) {
			t.Errorf("error with %q:\n%v", not, err)
		}
	}
}

func TestStartGivesUp(t *testing.T) {
	e := own(t, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := Start(ctx, e)
	if err == nil || !strings.Contains(err.Error(), "hulld.log") {
		t.Error(err)
	}
}

func TestStartWithoutEngine(t *testing.T) {
	e := own(t, "serve")
	t.Setenv("PATH", t.TempDir()+":.:relative")
	if err := Start(t.Context(), e); err == nil || !strings.Contains(err.Error(), "hulld is not installed") {
		t.Error(err)
	}
}

// A link in the run directory is not followed: it may be somebody else's.
func TestStartFollowsNoLink(t *testing.T) {
	e := own(t, "serve")
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.Symlink(victim, filepath.Join(mkdir(t, e.Run), "hulld.log")); err != nil {
		t.Fatal(err)
	}
	if err := Start(t.Context(), e); err == nil {
		t.Error("no error")
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("wrote through the link")
	}
}

func TestDead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := net.Dial("unix", filepath.Join(dir, "none"))
	if !Dead(err) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skip(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // of Listen
	_ = l.Close()
	if _, err = net.Dial("unix", filepath.Join(dir, "s")); !Dead(err) {
		t.Errorf("socket of a dead engine: %v", err)
	}
	if Dead(syscall.EACCES) {
		t.Error("EACCES is not dead")
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
