package proc

import (
	"os"
	"path/filepath"
	"testing"

	"hull/internal/hull"
)

func TestOlder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		release, than string
		want          bool
	}{
		{"6.18.44-fc-v657", "5.19", false},
		{"5.19.0", "5.19", false},
		{"5.15.0-91-generic", "5.19", true},
		{"5.4", "5.12", true},
		{"4.19.0-26-amd64", "5.12", true},
		{"10.0-rc1", "5.12", false},
		{"next", "5.12", false},
	} {
		if got := older(c.release, c.than); got != c.want {
			t.Errorf("%s older than %s: %v", c.release, c.than, got)
		}
	}
}

// A monitor that cannot be run breaks everything, and is said with what to do.
func TestExamineMonitor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hull-monitor")
	for _, want := range []hull.Verdict{hull.Broken, hull.Broken, hull.Fine} {
		f := examineMonitor(path)
		if f.Verdict != want || f.Says == "" || (want == hull.Broken) != (f.Means != "" && f.Next != "") {
			t.Errorf("want %s: %+v", want, f)
		}
		mode := os.FileMode(0o600)
		if _, err := os.Stat(path); err == nil {
			mode = 0o700
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}
