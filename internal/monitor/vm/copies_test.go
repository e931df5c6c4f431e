package vm

import (
	"os"
	"path/filepath"
	"testing"

	"hull/internal/guest"
)

// TestRenewed: what has changed is told once, and as an addition where it is one.
func TestRenewed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hosts, resolv := write("hosts", "a\n"), write("resolv", "x\n")
	all := copies(Spec{Copied: []string{hosts, resolv}})
	if len(all) != 0 {
		t.Errorf("copies of no files: %v", all)
	}
	s := Spec{Copied: []string{hosts, resolv}}
	s.Container.Files = []guest.File{{Name: "0", Data: []byte("a\n")}, {Name: "1", Data: []byte("x\n")}}
	all = copies(s)
	want := func(what string, n int) []guest.FileChange {
		t.Helper()
		got, err := renewed(all)
		if err != nil || len(got) != n {
			t.Fatalf("%s: %v, %v", what, got, err)
		}
		return got
	}
	want("nothing has changed", 0)
	write("hosts", "a\nb\n")
	if got := want("a line more", 1)[0]; !got.Append || string(got.Data) != "b\n" || got.Name != "0" {
		t.Errorf("a line more: %+v", got)
	}
	write("resolv", "y\n")
	if got := want("another line", 1)[0]; got.Append || string(got.Data) != "y\n" || got.Name != "1" {
		t.Errorf("another line: %+v", got)
	}
	want("nothing has changed since", 0)
}
