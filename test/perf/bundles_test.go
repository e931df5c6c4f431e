package perf

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/require"
	"hull/test/harness"
)

// bundles are the runtimes alone, on one bundle, and what lies below them all.
func bundles(b *bench) {
	e, hull, _ := b.engine([]string{"busybox"})
	dir := b.bundle(e, hull)
	b.out.text = "`run` of a bundle of busybox with five namespaces and Docker's seccomp profile left out, as `hull-runc spec` writes it; no network."
	state := e.Dir("state")
	n := 0
	one := func(name, program string) contender {
		return timed(name, func() error {
			n++
			_, err := (&cli{name: name, cmd: func(args ...string) *exec.Cmd {
				cmd := exec.Command(program, args...)
				cmd.Dir = dir
				return cmd
			}}).try("--root", filepath.Join(state, filepath.Base(program)), "run", fmt.Sprintf("bench%d-%d", os.Getpid(), n))
			return err
		})
	}
	own := filepath.Join(e.BinDir(), "hull-runc")
	all := []contender{one("hull-runc", own)}
	for _, peer := range []struct{ name, program string }{
		{"runc", filepath.Join(harness.PeerBin(b.t), "runc")}, {"the distribution's runc", "runc"}, {"crun", "crun"},
	} {
		program, err := exec.LookPath(peer.program)
		if err != nil {
			b.missing("run of a bundle", peer.name, err.Error())
			continue
		}
		all = append(all, one(version(peer.name, program), program))
	}
	err := ownMounts(dir, func() {
		b.race(contest{what: "run of a bundle", n: scale(80), limit: 30 * time.Second, note: "in turns"}, all...)
	})
	if err != nil {
		b.missing("run of a bundle", "", err.Error())
	}
	b.floor(dir)
	b.bareSandbox(e, dir)
}

// bundle unpacks busybox and describes a container for any runtime.
func (b *bench) bundle(e *harness.Engine, hull *cli) string {
	b.t.Helper()
	dir := e.Dir("bundle")
	root := e.Dir("bundle/rootfs")
	archive := filepath.Join(dir, "root.tar")
	b.output(hull, "create", "--name", "floor", "busybox")
	b.output(hull, "export", "-o", archive, "floor")
	b.output(hull, "rm", "floor")
	if out, err := exec.Command("tar", "-x", "-f", archive, "-C", root).CombinedOutput(); err != nil {
		b.t.Fatalf("unpack: %v\n%s", err, out)
	}
	if out, err := exec.Command(filepath.Join(e.BinDir(), "hull-runc"), "spec", "-b", dir).CombinedOutput(); err != nil {
		b.t.Fatalf("spec: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		b.t.Fatal(err)
	}
	spec.Version = "1.0.2" // which all of them know
	spec.Process.Terminal, spec.Process.Args = false, []string{"true"}
	if raw, err = json.Marshal(spec); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

// ownMounts calls fn on a thread with a mount namespace of its own, in which crun
// takes the machine: on a host with v1 and v2 hierarchies it refuses a v2 one with
// controllers, so it is shown none, a file in dir. Programs that fn starts inherit the namespace.
func ownMounts(dir string, fn func()) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- err
			return
		}
		const controllers = "/sys/fs/cgroup/unified/cgroup.controllers"
		none := filepath.Join(dir, "none")
		err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		if _, e := os.Stat(controllers); err == nil && e == nil {
			if err = os.WriteFile(none, nil, 0o600); err == nil {
				err = unix.Mount(none, controllers, "", unix.MS_BIND, "")
			}
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	return <-done
}

// version is a program's name with its version's first line's last word.
func version(name, program string) string {
	out, err := exec.Command(program, "--version").Output()
	first, _, _ := strings.Cut(string(out), "\n")
	if f := strings.Fields(first); err == nil && len(f) > 0 {
		return name + " " + f[len(f)-1]
	}
	return name
}

// floor is what cannot be undercut: the kernel's part of a start, by a program that
// makes five namespaces, mounts an overlay and proc, pivots and executes true.
func (b *bench) floor(bundle string) {
	const what = "no engine, no runtime: namespaces, overlay, proc, pivot_root, true"
	cc, err := exec.LookPath("cc")
	if err != nil {
		b.missing(what, "a C program", err.Error())
		return
	}
	program := filepath.Join(bundle, "floor")
	if out, err := exec.Command(cc, "-O2", "-o", program, filepath.Join("testdata", "floor.c")).CombinedOutput(); err != nil {
		b.missing(what, "a C program", fmt.Sprintf("%v: %s", err, lastLine(string(out))))
		return
	}
	out, err := exec.Command(program, filepath.Join(bundle, "rootfs"), strconv.Itoa(scale(200))).CombinedOutput()
	if err != nil {
		b.missing(what, "a C program", fmt.Sprintf("%v: %s", err, lastLine(string(out))))
		return
	}
	var values []float64
	for _, f := range strings.Fields(string(out)) {
		ms, err := strconv.ParseFloat(f, 64)
		if err != nil {
			b.t.Fatalf("floor says %q", out)
		}
		values = append(values, ms)
	}
	b.add(row{what: what, who: "a C program", unit: "ms", values: values, note: "the floor"})
}

// bareSandbox is gVisor without us beside --isolation sandbox.
func (b *bench) bareSandbox(e *harness.Engine, dir string) {
	const what = "run of busybox under gVisor, without network"
	runsc := require.Runsc(b.t)
	n := 0
	root := e.Dir("runsc")
	hull := &cli{name: "hull --isolation sandbox", cmd: e.Hull().Direct().Cmd}
	bare := &cli{name: "bare runsc", cmd: func(args ...string) *exec.Cmd {
		n++
		return exec.Command(runsc, append([]string{"--root", root, "--network=none", "--ignore-cgroups", "run", "--bundle", dir}, fmt.Sprint("bench", n))...)
	}}
	// The first sandbox has the engine find out whether KVM serves, which takes seconds.
	b.output(hull, "run", "--rm", "--isolation", "sandbox", "--network", "none", "busybox", "true")
	e.Eventually("the answer about KVM", func() error {
		_, err := os.Stat(filepath.Join(e.Root, "runsc-platform.json"))
		return err
	})
	// runsc leaves a mount of a network namespace in its state directory.
	err := ownMounts(dir, func() {
		b.race(contest{what: what, n: max(scale(60), 20), limit: 2 * time.Minute, note: "in turns; goal: × hull >= 0.67"},
			command(hull, "run", "--rm", "--isolation", "sandbox", "--network", "none", "busybox", "true"), command(bare))
	})
	if err != nil {
		b.missing(what, "", err.Error())
	}
}

// isolations is one run under each boundary.
func isolations(b *bench) {
	_, hull, _ := b.engine([]string{"busybox"}, harness.Args("--vm-kernel", kernel(b)))
	for _, network := range []string{"none", "bridge"} {
		var all []contender
		for _, isolation := range []string{"container", "sandbox", "vm"} {
			args := []string{"run", "--rm", "--network", network, "--isolation", isolation, "busybox", "true"}
			c := command(hull, args...)
			c.who = isolation
			all = append(all, c)
		}
		b.race(contest{what: "run, network " + network, n: scale(10), limit: 40 * time.Second, note: "in turns; ×: to a container"}, all...)
	}
}
