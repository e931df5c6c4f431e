package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hull/internal/require"
	"hull/test/images"
)

// toolsVersion is the newest version of the runtime-tools that the proxy serves.
const toolsVersion = "v0.9.1-0.20251114084447-edf4cb3d2116"

// noGate are programs that judge the suite or the machine rather than the runtime.
var noGate = map[string]string{ //nolint:gochecknoglobals // constant
	"pidfile":            "kills a program that ends by itself (true): whichever is first, with any runtime",
	"linux_uid_mappings": "demands the order of mounts in mountinfo, which is that of their making since Linux 6.8; sysfs is made first in a user namespace",
}

// TestConformance runs the validation programs of the OCI runtime-tools against
// hull-runc and, side by side, the runc and crun that are there. It fails where
// hull-runc fails what one of them passes.
func TestConformance(t *testing.T) {
	if os.Getenv("HULL_CONFORMANCE") == "" {
		t.Skip("make conformance runs it")
	}
	require.Root(t)
	dir := tools(t)
	programs, err := filepath.Glob(filepath.Join(dir, "t", "*"))
	if err != nil || len(programs) < 50 {
		t.Fatalf("%d programs, %v", len(programs), err)
	}
	cache, err := images.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	names, peers := []string{"hull-runc"}, map[string]string{"hull-runc": filepath.Join(binDir(t), "hull-runc")}
	for name, paths := range map[string][]string{"runc": {filepath.Join(cache, "peers/bin/runc-seccomp"), filepath.Join(cache, "peers/bin/runc"), "/usr/sbin/runc"}, "crun": {"/usr/bin/crun"}} {
		for _, p := range paths {
			if _, err := os.Stat(p); err == nil {
				names, peers[name] = append(names, name), p
				break
			}
		}
	}
	slices.Sort(names[1:])
	t.Logf("%-34s %v", "", names)
	passed := map[string]int{}
	for _, p := range programs {
		got := map[string]string{}
		line := ""
		for _, n := range names {
			got[n] = validate(t, dir, p, peers[n])
			if got[n] == "ok" {
				passed[n]++
			}
			line += fmt.Sprintf(" %-9s", got[n])
		}
		program := filepath.Base(p)
		t.Logf("%-34s%s", program, line)
		if got["hull-runc"] != "FAIL" || (got["runc"] != "ok" && got["crun"] != "ok") {
			continue
		}
		if why := noGate[program]; why != "" {
			t.Logf("%34s no gate: %s", "", why)
			continue
		}
		t.Errorf("%s fails, and a peer passes", program)
	}
	t.Logf("passed: %v of %d", passed, len(programs))
}

// validate runs one program: "ok", "quiet" (it says nothing), or "FAIL".
func validate(t *testing.T, dir, program, runtime string) string {
	t.Helper()
	tmp := t.TempDir()
	wrapper := filepath.Join(tmp, "runtime")
	text := fmt.Sprintf("#!/bin/sh\nexec %s --root %s/state \"$@\"\n", runtime, tmp)
	if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil { //nolint:gosec,forbidigo // a program
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// crun refuses a v1 host whose v2 hierarchy has controllers: it is shown none.
	cmd := exec.CommandContext(ctx, "unshare", "-m", "sh", "-c",
		`f=/sys/fs/cgroup/unified/cgroup.controllers; case "$1" in */crun) [ ! -e $f ] || { : > "$2/none"; mount --bind "$2/none" $f; };; esac; exec "$3"`,
		"sh", runtime, tmp, program)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+wrapper, "TMPDIR="+tmp)
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Logf("%s: %v", program, err)
	}
	s := "\n" + string(out)
	switch {
	case err != nil || strings.Contains(s, "\nnot ok"):
		return "FAIL"
	case strings.Contains(s, "\nok"):
		return "ok"
	}
	return "quiet"
}

// tools builds the programs, once for each version, into the cache.
func tools(t *testing.T) string {
	t.Helper()
	cache, err := images.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "conformance", toolsVersion)
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir
	}
	command := func(name string, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return out
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // a cache
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/opencontainers/runtime-tools@"+toolsVersion)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-r", m.Dir, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the source: %v: %s", err, out)
	}
	command("chmod", "-R", "u+w", ".")
	command("rm", "-rf", "vendor")
	command("mkdir", "t")
	command("go", "build", "-o", "runtimetest", "./cmd/runtimetest")
	command("go", "build", "-o", "t/", "./validation/...")
	command("touch", "complete")
	return dir
}
