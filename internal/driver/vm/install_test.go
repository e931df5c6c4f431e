package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

type entry struct {
	name, data string
	kind       byte
}

func archiveOf(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Mode: 0o600, Linkname: "/etc/passwd"}
		if e.kind == tar.TypeReg {
			h.Size = int64(len(e.data))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data[:h.Size])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// elfKernel is what checkKernel takes for a kernel of x86-64.
func elfKernel(text string) string {
	b := make([]byte, 0x300)
	copy(b, "\x7fELF")
	b[18] = 62
	return string(append(b, text...))
}

func TestKernelInstall(t *testing.T) {
	t.Parallel()
	place := func(t *testing.T) *KernelPlace {
		dir := filepath.Join(t.TempDir(), "kernel")
		return &KernelPlace{Dir: dir, Used: []string{filepath.Join(dir, "vmlinux")}}
	}
	info := entry{name: "hull-kernel.json", data: `{"Name":"6.12-x","Modules":["a.ko"]}`}
	module := entry{name: "./modules/a.ko", data: "module"}

	t.Run("replaces", func(t *testing.T) {
		p := place(t)
		if name, err := p.Install(t.Context(), archiveOf(t, entry{name: "vmlinux", data: elfKernel("one")}, info, module)); err != nil || name != "6.12-x" {
			t.Fatal(name, err)
		}
		// What does not belong to a kernel is not taken, wherever it wants to go.
		second := archiveOf(t, entry{name: "./vmlinux", data: elfKernel("two")}, entry{name: "../outside", data: "x"}, entry{name: "config", data: "x"},
			entry{name: "modules/sub/deep.ko", data: "x"}, entry{name: "modules/link.ko", kind: tar.TypeSymlink}, entry{name: "modules", kind: tar.TypeDir})
		if name, err := p.Install(t.Context(), second); err != nil || name != "hull" {
			t.Fatal(name, err)
		}
		b, err := os.ReadFile(filepath.Join(p.Dir, "vmlinux"))
		if err != nil || !strings.HasSuffix(string(b), "two") {
			t.Errorf("vmlinux is not the second one: %v", err)
		}
		var found []string
		err = filepath.WalkDir(filepath.Dir(p.Dir), func(path string, _ fs.DirEntry, err error) error {
			found = append(found, strings.TrimPrefix(path, filepath.Dir(p.Dir)))
			return err
		})
		if got, want := strings.Join(found, " "), " /kernel /kernel/modules /kernel/vmlinux"; err != nil || got != want {
			t.Errorf("found %q, want %q: %v", got, want, err)
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
		if err := p.Remove(); !errdefs.IsNotFound(err) {
			t.Errorf("second removal: %v", err)
		}
	})

	for name, entries := range map[string][]entry{
		"no kernel":       {info, module},
		"not for x86":     {{name: "vmlinux", data: strings.Repeat("x", 4096)}},
		"short":           {{name: "vmlinux", data: "\x7fELF"}},
		"module missing":  {{name: "vmlinux", data: elfKernel("")}, info},
		"module outside":  {{name: "vmlinux", data: elfKernel("")}, {name: "hull-kernel.json", data: `{"Modules":["../vmlinux"]}`}},
		"bad description": {{name: "vmlinux", data: elfKernel("")}, {name: "hull-kernel.json", data: `{`}},
		"twice":           {{name: "vmlinux", data: elfKernel("")}, {name: "./vmlinux", data: elfKernel("")}},
	} {
		t.Run(name, func(t *testing.T) {
			p := place(t)
			if _, err := p.Install(t.Context(), archiveOf(t, entry{name: "vmlinux", data: elfKernel("first")})); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Install(t.Context(), archiveOf(t, entries...)); !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			checkFirst(t, p)
		})
	}

	t.Run("cut short", func(t *testing.T) {
		p := place(t)
		if _, err := p.Install(t.Context(), archiveOf(t, entry{name: "vmlinux", data: elfKernel("first")})); err != nil {
			t.Fatal(err)
		}
		whole := archiveOf(t, entry{name: "vmlinux", data: elfKernel(strings.Repeat("y", 4096))})
		if _, err := p.Install(t.Context(), bytes.NewReader(whole.Bytes()[:1024])); err == nil {
			t.Error("half an archive was taken")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Install(ctx, whole); !errors.Is(err, context.Canceled) {
			t.Errorf("of a client that left: %v", err)
		}
		checkFirst(t, p)
	})

	t.Run("another is in use", func(t *testing.T) {
		p := place(t)
		p.Used = []string{"/boot/vmlinux"}
		if _, err := p.Install(t.Context(), archiveOf(t, entry{name: "vmlinux", data: elfKernel("")})); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("error %v", err)
		}
	})
}

// checkFirst: the kernel that was there is there, and nothing beside it.
func checkFirst(t *testing.T, p *KernelPlace) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Dir, "vmlinux"))
	if err != nil || !strings.HasSuffix(string(b), "first") {
		t.Errorf("the former kernel is gone: %v", err)
	}
	if left, _ := filepath.Glob(p.Dir + ".*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
