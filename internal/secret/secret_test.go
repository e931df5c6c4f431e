package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/linux"
)

const value = "the value"

func service(t *testing.T, containers ...hull.Container) (*Service, string, *[]hull.Event) {
	t.Helper()
	root, events := t.TempDir(), &[]hull.Event{}
	s, err := New(Config{Root: root, Containers: func() []hull.Container { return containers }, Events: func(e hull.Event) { *events = append(*events, e) }})
	if err != nil {
		t.Fatal(err)
	}
	return s, root, events
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	user := hull.Container{Name: "web", Mounts: []hull.MountPoint{{Type: hull.MountSecret, Spec: hull.Mount{Source: "used"}}}}
	s, root, events := service(t, user)
	ctx := t.Context()
	for _, name := range []string{"", ".", "..", "a/b", "../a", "-a", strings.Repeat("a", 65), "a.tmp1.1", "a\nb"} {
		if _, err := s.Create(ctx, hull.Secret{Name: name}, []byte(value)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("create %q: %v", name, err)
		}
		if _, err := s.Get(ctx, name); !errdefs.IsNotFound(err) {
			t.Errorf("get %q: %v", name, err)
		}
		if err := s.Remove(ctx, name); !errdefs.IsNotFound(err) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	for _, size := range []int{0, MaxSize + 1} {
		if _, err := s.Create(ctx, hull.Secret{Name: "a"}, make([]byte, size)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, name := range []string{"used", "a"} {
		if _, err := s.Create(ctx, hull.Secret{Name: name, Labels: map[string]string{"k": "v"}}, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Create(ctx, hull.Secret{Name: "a"}, []byte("another")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second one of that name: %v", err)
	}
	if err := s.Remove(ctx, "used"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "web") {
		t.Errorf("remove one in use: %v", err)
	}

	// After a restart: what was half written is gone, what is damaged can be removed.
	dir := filepath.Join(root, "secrets")
	for name, content := range map[string]string{"b.tmp7.1": value, "broken": "{" + value} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(Config{Root: root, Containers: func() []hull.Container { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "b.tmp7.1")); !os.IsNotExist(err) {
		t.Errorf("the half-written one: %v", err)
	}
	all, err := s.List(ctx)
	if err != nil || len(all) != 3 || all[0].Name != "a" || all[0].Labels["k"] != "v" || all[1].Name != "broken" {
		t.Errorf("list: %+v, %v", all, err)
	}
	if _, err := s.Get(ctx, "broken"); err == nil || strings.Contains(err.Error(), value) {
		t.Errorf("a damaged one: %v", err)
	}
	for _, name := range []string{"a", "broken", "used"} {
		if err := s.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	for _, e := range *events {
		if e.Type != "secret" || len(e.Attrs) != 1 || e.Attrs["name"] != e.Actor {
			t.Errorf("event %+v", e)
		}
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	s, root, _ := service(t)
	if _, err := s.Create(t.Context(), hull.Secret{Name: "a"}, []byte(value)); err != nil {
		t.Fatal(err)
	}
	own := hull.SecretFile{UID: os.Getuid(), GID: os.Getgid(), Mode: 0o440}
	if err := s.Show("nope", filepath.Join(root, "x"), own); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown one: %v", err)
	}
	for _, dir := range []string{root, "/dev/shm"} {
		f, err := os.CreateTemp(dir, "hull-secret-")
		if err != nil {
			continue // no such directory here
		}
		kind, err := linux.FSType(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		defer os.Remove(f.Name())
		err = s.Show("a", f.Name(), own) // in the place of what is there
		b, rerr := os.ReadFile(f.Name())
		if kind != linux.TmpfsMagic {
			if !errdefs.IsFailedPrecondition(err) || !os.IsNotExist(rerr) {
				t.Errorf("on a disk: %v; file: %v", err, rerr)
			}
			continue
		}
		st, serr := os.Stat(f.Name())
		if err != nil || rerr != nil || serr != nil || string(b) != value || st.Mode().Perm() != 0o440 {
			t.Errorf("in memory: %v, %v, %v, %q", err, rerr, serr, b)
		}
	}
}
