package vmm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/internal/require"
)

// fakeQEMU is a program in QEMU's place. Descriptor 3 is the socket of its monitor.
func fakeQEMU(t *testing.T, script string) Config {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // a machine's user goes through here
			t.Fatal(err)
		}
	}
	c := Config{QEMU: filepath.Join(dir, "qemu"), Accel: TCG, CPUs: 1, Memory: 128 << 20, Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), UID: User(dir)}
	for path, content := range map[string]string{c.QEMU: "#!/bin/sh\n" + script, c.Kernel: "", c.Initrd: ""} {
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestFakeQEMURoot: a QEMU that does not do what QEMU does is given up, with what it
// said, and is gone.
func TestFakeQEMURoot(t *testing.T) {
	require.Root(t)
	for what, c := range map[string]struct {
		script string
		limit  time.Duration
		want   []string
	}{
		"ends at once":   {"echo no such machine >&2; exit 3", time.Minute, []string{"exit status 3", "no such machine"}},
		"is killed":      {"kill -9 $$", time.Minute, []string{"qemu"}},
		"says nothing":   {"exec sleep 1000", 200 * time.Millisecond, []string{"wait for qemu's greeting"}},
		"says garbage":   {"echo '{garbage' >&3; exec sleep 1000", time.Minute, []string{"ended"}},
		"says much":      {"yes xxxxxxxx | head -c 2000000 | tr -d '\\n' >&3; exec sleep 1000", time.Minute, []string{"ended"}},
		"refuses":        {`echo '{"QMP": {}}' >&3; read -r line <&3; echo '{"error": {"class": "x", "desc": "not today"}}' >&3; exec sleep 1000`, time.Minute, []string{"not today"}},
		"never answers":  {`echo '{"QMP": {}}' >&3; exec sleep 1000`, 5 * time.Second, []string{"qmp_capabilities"}},
		"tells only":     {`echo '{"QMP": {}}' >&3; while :; do echo '{"event": "STOP"}' >&3; sleep 0.01; done`, 5 * time.Second, []string{"qmp_capabilities"}},
		"is a directory": {"", time.Minute, []string{"start"}},
	} {
		t.Run(what, func(t *testing.T) {
			conf := fakeQEMU(t, c.script)
			if c.script == "" {
				if err := errors.Join(os.Remove(conf.QEMU), os.Mkdir(conf.QEMU, 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			m, err := Start(ctx, conf, Files{})
			if err == nil {
				m.Kill()
				t.Fatal("it is taken for a machine")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			if strings.ContainsAny(err.Error(), "\x00\n") {
				t.Errorf("%q is not fit for a log", err)
			}
			if left := runs(t, conf.QEMU); left != "" {
				t.Errorf("process %s is left", left)
			}
		})
	}
}

// runs finds a process by a word of its command line.
func runs(t *testing.T, word string) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), word) {
			return p
		}
	}
	return ""
}
