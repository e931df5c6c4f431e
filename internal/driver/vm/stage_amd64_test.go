package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/internal/require"
)

// TestStageRoot: the programs of a rehearsal end well, having said their word and left
// nothing, also where there is neither /proc nor /dev.
func TestStageRoot(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	for name, data := range stage() {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for program, want := range map[string]string{"/bin/rehearsal": "rehearsal\nrehearsal\n", "/bin/end": ""} {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Path, cmd.Err = program, nil
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: dir}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, says %q", program, err, out)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("it leaves %s (%v)", strings.Join(left, " "), err)
	}
}
