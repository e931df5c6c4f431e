package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const envMain = "HULL_TEST_MAIN"

// The test program is also the command under test.
func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// install puts the command into a directory of its own, as make install does.
func install(t *testing.T) (hull, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "bin")
	hull = filepath.Join(dir, "hull")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, hull); err != nil {
		b, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(hull, b, 0o700); err != nil { //nolint:gosec // an executable
			t.Fatal(err)
		}
	}
	return hull, dir
}

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // an executable
		t.Fatal(err)
	}
}

func start(t *testing.T, hull string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), hull, args...)
	cmd.Env = append([]string{envMain + "=1", "HOME=" + t.TempDir(), "HULL_RUN=" + t.TempDir(), "PATH=/bin:/usr/bin"}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// hull-cli takes over with the same arguments, environment and exit status.
func TestHandOver(t *testing.T) {
	t.Parallel()
	hull, dir := install(t)
	for _, place := range []string{filepath.Join(dir, full), filepath.Join(dir, "..", "libexec", "hull", full)} {
		script(t, place, `echo "$X|$*"; exit 42`)
		for _, args := range [][]string{{"images", "-q"}, {"run", "--help"}, {"run", "--gpus", "all", "x", "--rm"}, {"-D", "ps"}, {"-H", "tcp://x", "ps"}, {}} {
			code, out, errs := start(t, hull, []string{"X=y"}, args...)
			if want := "y|" + strings.Join(args, " ") + "\n"; code != 42 || out != want {
				t.Errorf("%v: %d %q %s, want 42 %q", args, code, out, errs, want)
			}
		}
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
	}
	code, _, errs := start(t, hull, nil, "images")
	if code != 125 || !strings.Contains(errs, "hull-cli is not installed") || !strings.Contains(errs, "make install") {
		t.Errorf("without hull-cli: %d %s", code, errs)
	}
}

// A quick verb whose engine does not start says why and what to do.
func TestDeadEngine(t *testing.T) {
	t.Parallel()
	hull, dir := install(t)
	script(t, filepath.Join(dir, "hulld"), "echo 'no room' >&2; exit 9")
	for verb, want := range map[string]int{"ps": 1, "run": 125, "exec": 1, "stop": 1} {
		args := append([]string{verb}, map[string][]string{"run": {"x"}, "exec": {"x", "y"}, "stop": {"x"}}[verb]...)
		code, _, errs := start(t, hull, nil, args...)
		if code != want || !strings.Contains(errs, "no room") || !strings.Contains(errs, "exit status 9") {
			t.Errorf("%v: %d, want %d: %s", args, code, want, errs)
		}
	}
}

func TestContextsAndConfigAreHandedOver(t *testing.T) {
	t.Parallel()
	for _, config := range []string{`{"HttpHeaders":{"a":"b"}}`, `{"psFormat":"x"}`, `{`, `{"plugins":{"hull":{"context":"far"}}}`} {
		home := t.TempDir()
		if err := os.MkdirAll(filepath.Join(home, ".docker"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		c := &command{getenv: func(k string) string { return map[string]string{"HOME": home}[k] }}
		if _, err := c.run([]string{"ps"}); !errors.Is(err, errHandOver) {
			t.Errorf("%s: %v", config, err)
		}
	}
	for _, env := range []string{"DOCKER_CONTEXT", "DOCKER_CUSTOM_HEADERS"} {
		c := &command{getenv: func(k string) string { return map[string]string{"HOME": "/nonexistent", env: "x=y"}[k] }}
		if _, err := c.run([]string{"ps"}); !errors.Is(err, errHandOver) {
			t.Errorf("%s: %v", env, err)
		}
	}
}

// TestVersion: the short answer needs neither an engine nor hull-cli, and has
// hull-cli's words.
func TestVersion(t *testing.T) {
	t.Parallel()
	hull, _ := install(t)
	for _, flag := range []string{"--version", "-v"} {
		code, out, errs := start(t, hull, nil, flag)
		if code != 0 || out != "hull version dev, build unknown\n" || errs != "" {
			t.Errorf("%s: %d %q %q", flag, code, out, errs)
		}
	}
}
