package linux

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/require"
)

// quotaFS is the path of a file system with project quota that is mounted nowhere.
func quotaFS(t *testing.T) string {
	t.Helper()
	require.Root(t)
	mkfs := require.Program(t, "mke2fs")
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), mkfs, "-q", "-F", "-t", "ext4", "-I", "256", "-O", "quota,project", "-E", "quotatype=prjquota", image).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	dev, err := LoopDevice(image)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	m, err := MountFS("ext4", dev.Name(), "prjquota")
	require.Must(t, "prjquota", err == nil, "a kernel with CONFIG_QFMT_V2")
	t.Cleanup(func() { m.Close() })
	return ProcPath(m)
}

func TestLimitTreeRoot(t *testing.T) {
	t.Parallel()
	fs := quotaFS(t)
	open := func(path string) *os.File {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if !HasQuota(open(fs)) {
		t.Fatal("a file system with project quota has none")
	}
	seen := map[uint32]bool{}
	for _, name := range []string{"one", "two"} {
		dir := filepath.Join(fs, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := LimitTree(open(dir), 0, 4<<20); err != nil {
			t.Fatal(err)
		}
		id, err := ProjectOf(open(dir))
		if err != nil || id == 0 || seen[id] {
			t.Fatal(id, err)
		}
		seen[id] = true
		sub := filepath.Join(dir, "sub")
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "fits"), make([]byte, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		err = os.WriteFile(filepath.Join(dir, "more"), make([]byte, 4<<20), 0o600)
		if !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("6 MiB went into 4 MiB: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(fs, "outside"), make([]byte, 8<<20), 0o600); err != nil {
		t.Error("the limit of a directory holds for another:", err)
	}
	for id := range seen {
		if err := FreeTree(open(fs), id); err != nil {
			t.Error(err)
		}
	}
}

// TestNoQuotaIsSaid: a file system without project quota.
func TestNoQuotaIsSaid(t *testing.T) {
	t.Parallel()
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if HasQuota(f) {
		t.Skip("the machine's own has it")
	}
	if err := LimitTree(f, 0, 1<<20); !errors.Is(err, ErrNoQuota) {
		t.Error(err)
	}
}
