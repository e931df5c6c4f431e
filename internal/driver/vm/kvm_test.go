package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/internal/vmm"
)

func testKVM(t *testing.T) *kvm {
	t.Helper()
	k := newKVM(t.TempDir())
	k.limit = time.Minute
	k.device = filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(k.device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKVMIsUsedWhereItBoots: the verdict of one boot holds for what was tried, and
// for nothing else.
func TestKVMIsUsedWhereItBoots(t *testing.T) {
	k := testKVM(t)
	boots := 0
	try := func(of string, boot func(context.Context) error, want bool) {
		t.Helper()
		got, err := k.works(t.Context(), of, func(ctx context.Context) error { boots++; return boot(ctx) })
		if err != nil || got != want {
			t.Errorf("works %v (%v), want %v", got, err, want)
		}
	}
	fine := func(context.Context) error { return nil }
	broken := func(context.Context) error { return errors.New("qemu: failed to set MSR\nassertion failed") }
	says := func(a vmm.Accel, words ...string) {
		t.Helper()
		got, why := k.says()
		if got != a {
			t.Errorf("says %s (%s), want %s", got, why, a)
		}
		for _, w := range words {
			if !strings.Contains(why, w) {
				t.Errorf("%q lacks %q", why, w)
			}
		}
	}
	says(vmm.TCG, "first machine")
	try("one", fine, true)
	try("one", broken, true) // not tried again
	says(vmm.KVM, "booted")
	try("two", broken, false) // another kernel, QEMU or boot of the host
	try("two", fine, false)
	says(vmm.TCG, "failed to set MSR; assertion", "emulated", k.file)
	if boots != 2 {
		t.Errorf("%d boots, want 2", boots)
	}
	// What is kept may be damaged.
	if err := os.Chmod(k.file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.file, []byte(`{"Of":`), 0o600); err != nil {
		t.Fatal(err)
	}
	try("two", fine, true)

	// A boot that hangs is given up.
	k.limit = 10 * time.Millisecond
	try("three", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, false)
	says(vmm.TCG, "did not boot within 10ms")

	// Who does not wait any longer leaves no verdict.
	k.limit = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	if got, err := k.works(ctx, "four", func(context.Context) error { cancel(); return ctx.Err() }); got || err == nil {
		t.Errorf("a cancelled start says %v, %v", got, err)
	}
	try("four", fine, true)

	// Without the device nothing is tried, whatever was known.
	if err := os.Remove(k.device); err != nil {
		t.Fatal(err)
	}
	try("four", broken, false)
	says(vmm.TCG, "no "+k.device)
}

// TestMissingPieces: what is missing is named, with what to do.
func TestMissingPieces(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	readable := func(path string) string {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	elf := func(machine byte) string {
		b := make([]byte, 0x300)
		copy(b, "\x7fELF")
		b[18] = machine
		return string(b)
	}
	qemu, good, guest := file("qemu", ""), readable(file("vmlinux", elf(62))), file("hull-guest", "")
	for _, c := range []struct {
		what string
		conf Config
		want []string
	}{
		{"everything", Config{QEMU: qemu, Kernels: []string{good}, GuestPath: guest}, nil},
		{"no QEMU", Config{QEMU: filepath.Join(dir, "none"), Kernels: []string{good}, GuestPath: guest}, []string{"none", "is not there"}},
		{"no kernel", Config{QEMU: qemu, GuestPath: guest}, []string{"no guest kernel", "hull vm kernel install"}},
		{"no kernel in its place", Config{QEMU: qemu, Kernels: []string{filepath.Join(dir, "gone")}, GuestPath: guest}, []string{"no guest kernel"}},
		{"an empty kernel", Config{QEMU: qemu, Kernels: []string{readable(file("empty", ""))}, GuestPath: guest}, []string{"is no kernel (0 bytes)", "hull vm kernel install"}},
		{"a kernel for another processor", Config{QEMU: qemu, Kernels: []string{readable(file("arm", elf(183)))}, GuestPath: guest}, []string{"not for x86-64", "hull vm kernel install"}},
		{"a kernel for its owner only", Config{QEMU: qemu, Kernels: []string{file("closed", elf(62))}, GuestPath: guest}, []string{"by its owner only", "chmod a+r"}},
		{"no guest", Config{QEMU: qemu, Kernels: []string{good}, GuestPath: filepath.Join(dir, "none")}, []string{"hull-guest belongs beside hulld"}},
	} {
		c.conf.Dir = filepath.Join(dir, "state")
		d, err := New(c.conf)
		if err != nil {
			t.Fatal(err)
		}
		got := d.Info().Unavailable
		if (got == "") != (c.want == nil) {
			t.Errorf("%s: unavailable %q", c.what, got)
		}
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q lacks %q", c.what, got, w)
			}
		}
	}
	// A hull-guest that wants a dynamic linker would be a guest without process 1.
	if err := static([]byte("#!/bin/sh")); err == nil {
		t.Error("a script is taken for hull-guest")
	}
}
