package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/require"
	"hull/test/images"
)

// patience is how long anything may take on a loaded machine.
const patience = 2 * time.Minute

func ptr[T any](v T) *T { return &v }

// runtimeUnderTest is hull-runc, or what HULL_OCI_RUNTIME says.
func runtimeUnderTest(t testing.TB) string {
	t.Helper()
	if r := os.Getenv("HULL_OCI_RUNTIME"); r != "" {
		return r
	}
	return filepath.Join(binDir(t), "hull-runc")
}

func binDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("HULL_BIN")
	if dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(wd, "..", "..", "bin")
	}
	_, err := os.Stat(filepath.Join(dir, "hull-runc"))
	require.Must(t, "bin", err == nil, "make build has not been run")
	return dir
}

// bundle is a bundle with a busybox in it, and a runtime with a state directory of
// its own.
type bundle struct {
	t    testing.TB
	exe  string
	dir  string // config.json, rootfs
	root string // --root
	id   string
	spec *specs.Spec
}

// layer is the directory that bundles are copied from.
var layer struct { //nolint:gochecknoglobals // made once
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if layer.dir != "" {
		if err := os.RemoveAll(layer.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func rootfsSource(t testing.TB) string {
	t.Helper()
	archive := images.Path(t, "busybox")
	layer.Do(func() {
		if layer.dir, layer.err = os.MkdirTemp("", "hull-oci-"); layer.err == nil {
			layer.err = errors.Join(os.Chmod(layer.dir, 0o755), extract(archive, layer.dir)) //nolint:gosec // a container's root
		}
	})
	if layer.err != nil {
		t.Fatal(layer.err)
	}
	return layer.dir
}

// extract unpacks the layers of a docker-archive.
func extract(archive, dir string) error {
	manifest, err := member(archive, "manifest.json")
	if err != nil {
		return err
	}
	var m []struct{ Layers []string }
	if err := json.Unmarshal(manifest, &m); err != nil || len(m) != 1 {
		return fmt.Errorf("manifest of %s: %d images, %w", archive, len(m), err)
	}
	for _, l := range m[0].Layers {
		b, err := member(archive, l)
		if err != nil {
			return err
		}
		cmd := exec.Command("tar", "-x", "-C", dir)
		cmd.Stdin = bytes.NewReader(b)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", l, err, out)
		}
	}
	return nil
}

func member(archive, name string) ([]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%s in %s: %w", name, archive, err)
		}
		if h.Name == name {
			return io.ReadAll(r)
		}
	}
}

// newBundle makes a bundle that runs args, without a terminal and with a writable
// root. Everything is gone when the test ends, or it fails.
func newBundle(t testing.TB, args ...string) *bundle {
	t.Helper()
	require.Root(t)
	b := &bundle{t: t, exe: runtimeUnderTest(t), dir: t.TempDir(), root: t.TempDir()}
	b.id = fmt.Sprintf("hulloci-%d-%s", os.Getpid(), filepath.Base(filepath.Dir(b.dir)))
	if out, err := exec.Command("cp", "-a", rootfsSource(t), filepath.Join(b.dir, "rootfs")).CombinedOutput(); err != nil {
		t.Fatalf("copy the root file system: %v: %s", err, out)
	}
	b.ok("spec", "-b", b.dir)
	raw, err := os.ReadFile(filepath.Join(b.dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	b.spec = &specs.Spec{}
	if err := json.Unmarshal(raw, b.spec); err != nil {
		t.Fatal(err)
	}
	b.spec.Process.Terminal, b.spec.Root.Readonly = false, false
	b.spec.Linux.CgroupsPath = "/hull-oci-test/" + b.id
	if len(args) > 0 {
		b.spec.Process.Args = args
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(b.ok("list", "-q")) {
			b.ok("delete", "-f", id)
		}
		if left := b.cgroups(); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		if d, err := os.ReadDir(b.root); err == nil && len(d) > 0 {
			t.Errorf("state is left: %v", d)
		}
		if m, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(m), b.dir) {
			t.Errorf("mounts are left: %v", err)
		}
	})
	return b
}

// cgroups are the container's directories.
func (b *bundle) cgroups() []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		m, err := filepath.Glob(pattern + b.spec.Linux.CgroupsPath)
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, m...)
	}
	return out
}

// limit reads the first of the files that the container's cgroups have.
func (b *bundle) limit(names ...string) string {
	b.t.Helper()
	for _, d := range b.cgroups() {
		for _, n := range names {
			if v, err := os.ReadFile(filepath.Join(d, n)); err == nil {
				return strings.TrimSpace(string(v))
			}
		}
	}
	b.t.Fatalf("no %v in %v", names, b.cgroups())
	return ""
}

func (b *bundle) save() {
	b.t.Helper()
	raw, err := json.Marshal(b.spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "config.json"), raw, 0o600) //nolint:forbidigo // a test's own file
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

func (b *bundle) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.exe, append([]string{"--root", b.root}, args...)...)
	cmd.Dir = b.dir
	return cmd
}

// runc runs one command. The streams are files: a container that outlives it keeps
// them open.
func (b *bundle) runc(args ...string) result { return b.finish(b.command(args...)) }

func (b *bundle) finish(cmd *exec.Cmd) result {
	b.t.Helper()
	streams := [2]*os.File{}
	for i := range streams {
		f, err := os.CreateTemp(b.t.TempDir(), "stream")
		if err != nil {
			b.t.Fatal(err)
		}
		defer f.Close()
		streams[i] = f
	}
	cmd.Stdout, cmd.Stderr = streams[0], streams[1]
	timer := time.AfterFunc(patience, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
	err := cmd.Run()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	r := result{code: cmd.ProcessState.ExitCode()}
	for i, to := range []*string{&r.stdout, &r.stderr} {
		v, err := os.ReadFile(streams[i].Name())
		if err != nil {
			b.t.Fatal(err)
		}
		*to = string(v)
	}
	return r
}

// ok runs a command that must succeed.
func (b *bundle) ok(args ...string) string {
	b.t.Helper()
	r := b.runc(args...)
	if r.code != 0 {
		b.t.Fatalf("%v: exit code %d: %s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs a command that must fail with words in its message.
func (b *bundle) fails(words string, args ...string) result {
	b.t.Helper()
	r := b.runc(args...)
	if r.code == 0 || !strings.Contains(r.stderr, words) {
		b.t.Errorf("%v: exit code %d, want a failure with %q: %s%s", args, r.code, words, r.stdout, r.stderr)
	}
	return r
}

// start saves the specification and runs the container in the background.
func (b *bundle) start(args ...string) {
	b.t.Helper()
	b.save()
	b.ok(append([]string{"run", "-d"}, append(args, b.id)...)...)
}

// run saves the specification and runs the container to its end.
func (b *bundle) run() result {
	b.t.Helper()
	b.save()
	return b.runc("run", b.id)
}

func (b *bundle) status() string {
	b.t.Helper()
	var s struct{ Status string }
	if err := json.Unmarshal([]byte(b.ok("state", b.id)), &s); err != nil {
		b.t.Fatal(err)
	}
	return s.Status
}

// becomes waits until the container has a status.
func (b *bundle) becomes(want string) {
	b.t.Helper()
	until(b.t, "status "+want, func() bool { return b.status() == want })
}

func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
