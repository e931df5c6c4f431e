package proc

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

// TestLookupKey: only what the image alone decides may be remembered.
func TestLookupKey(t *testing.T) {
	t.Parallel()
	upper := t.TempDir()
	spec := func(user string, lower ...string) driver.ContainerSpec {
		return driver.ContainerSpec{User: user, Rootfs: hull.Rootfs{Lower: lower, Upper: upper}}
	}
	a, ok := lookupKey(spec("redis", "/l1", "/l2"))
	if !ok {
		t.Fatal("an untouched container is not fresh")
	}
	for _, other := range []driver.ContainerSpec{spec("root", "/l1", "/l2"), spec("redis", "/l1"), spec("redis", "/l2", "/l1")} {
		if b, _ := lookupKey(other); a == b {
			t.Errorf("%+v has the key of another", other)
		}
	}
	groups := spec("redis", "/l1", "/l2")
	groups.Groups = []string{"audio"}
	if b, _ := lookupKey(groups); a == b {
		t.Error("additional groups make no difference")
	}
	if err := os.Mkdir(filepath.Join(upper, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok := lookupKey(spec("redis", "/l1", "/l2")); ok {
		t.Error("a container with its own /etc counts as fresh")
	}
}

func TestUsersAreBounded(t *testing.T) {
	t.Parallel()
	var u users
	for i := range 3 * maxUsers {
		u.put(string(rune(i)), specs.User{UID: uint32(i)})
	}
	if len(u.known) > maxUsers {
		t.Errorf("%d remembered", len(u.known))
	}
	if v, ok := u.get(string(rune(3*maxUsers - 1))); !ok || v.UID != 3*maxUsers-1 {
		t.Error("the last one is not remembered")
	}
}
