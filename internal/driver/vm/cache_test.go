package vm

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hull/internal/vmm"
)

// TestTemplatesPruned: templates are counted, and go when no machine has been made of
// them for a time; what is being made stays.
func TestTemplatesPruned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ts := newTemplates(filepath.Join(dir, "templates"), nil, slog.New(slog.DiscardHandler))
	t.Cleanup(ts.close)
	if list, err := ts.usage(); err != nil || len(list) != 0 {
		t.Errorf("before there is any: %v %v", list, err)
	}
	hourAgo := time.Now().Add(-time.Hour)
	for _, path := range []string{"kernel", "templates/one/state", "templates/one/memory", "templates/two/state", "templates/two/memory", "templates/new-1/memory"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, hourAgo, hourAgo); err != nil {
			t.Fatal(err)
		}
	}
	k := filepath.Join(dir, "kernel")
	for _, name := range []string{"one", "two"} {
		if _, err := seal(filepath.Join(ts.dir, name), vmm.Config{QEMU: k, Kernel: k, Initrd: k}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := ts.usage()
	if err != nil || len(list) != 2 || list[0].ID != "one" || list[0].Size < 2*4096 || time.Since(*list[0].LastUsedAt) < time.Minute {
		t.Fatalf("%+v %v", list, err)
	}
	if state, _ := ts.find("two"); state == "" { // a machine is made of it
		t.Fatal("a template is not found")
	}
	for _, c := range []struct {
		unused time.Duration
		gone   string
	}{{2 * time.Hour, ""}, {time.Minute, "one"}, {0, "two"}, {0, ""}} {
		ids, bytes, err := ts.prune(c.unused)
		if c.gone == "" {
			if len(ids) > 0 || bytes > 0 || err != nil {
				t.Errorf("unused for %v: %q, %d bytes, %v", c.unused, ids, bytes, err)
			}
			continue
		}
		if len(ids) != 1 || ids[0] != c.gone || bytes < 2*4096 || err != nil {
			t.Errorf("unused for %v: %q, %d bytes, %v", c.unused, ids, bytes, err)
		}
		if state, _ := ts.find(c.gone); state != "" {
			t.Errorf("%s can be found", c.gone)
		}
	}
	if _, err := os.Stat(filepath.Join(ts.dir, "new-1")); err != nil {
		t.Error(err)
	}
}
