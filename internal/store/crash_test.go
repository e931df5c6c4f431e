package store

import (
	"bufio"
	"fmt"
	"hull/internal/hull"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const crashDir = "HULL_TEST_CRASH_DIR"

// TestKilledWhileWriting kills a process that creates, updates, renames and
// removes records, and looks for everything it was told had happened.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(crashDir); dir != "" {
		hammer(t, dir)
		return
	}
	for round := range 4 {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledWhileWriting$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		told := map[string]string{}
		in := bufio.NewScanner(out)
		for n := 0; n < 60+37*round && in.Scan(); n++ {
			key, value, ok := strings.Cut(in.Text(), "=")
			if ok {
				told[key] = value
			}
		}
		must(t, cmd.Process.Kill())
		for in.Scan() { // told before the kill
			if key, value, ok := strings.Cut(in.Text(), "="); ok {
				told[key] = value
			}
		}
		_ = cmd.Wait() // killed

		s, err := Open(Config{Root: dir + "/root", RunDir: dir + "/run", BootID: "b"})
		must(t, err)
		if b := s.Broken(); len(b) != 0 {
			t.Error("broken records:", b)
		}
		if len(told) < 10 {
			t.Fatal("the child wrote next to nothing:", told)
		}
		for id, want := range told {
			c, err := s.Container(id)
			if want == "gone" {
				if err == nil {
					t.Error(id, "is back")
				}
				continue
			}
			// What was done last may or may not have been told.
			if err != nil || c.Status.Pid < atoi(want) || c.Status.Pid > atoi(want)+1 {
				if _, err := s.Pod(id); err == nil || c.Status.Pid != 0 { // else: being removed
					t.Errorf("%s: pid %d, told %s: %v", id, c.Status.Pid, want, err)
				}
			}
		}
		must(t, s.Close())
	}
}

func atoi(s string) (n int) {
	_, _ = fmt.Sscan(s, &n)
	return n
}

// hammer is the child. It says "ID=PID" when a status is written and "ID=gone"
// when a record is removed.
func hammer(t *testing.T, dir string) {
	s, err := Open(Config{Root: dir + "/root", RunDir: dir + "/run", BootID: "b"})
	must(t, err)
	for i := 0; ; i++ {
		c := testContainer(i)
		must(t, s.PutPod(hull.Pod{ID: c.ID}, i%2 == 0))
		must(t, s.PutContainer(c, i%2 == 0))
		for pid := 1; pid < 6; pid++ {
			must(t, s.UpdateStatus(c.ID, func(st *hull.Status) error { st.Pid = pid; return nil }))
			fmt.Printf("%s=%d\n", c.ID, pid)
		}
		must(t, s.Rename(c.ID, "new"+c.Name))
		if i%3 == 0 {
			must(t, s.DeletePod(c.ID))
			must(t, s.DeleteContainer(c.ID))
			fmt.Printf("%s=gone\n", c.ID)
		}
	}
}
