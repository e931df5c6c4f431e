package linux_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"hull/internal/linux"
)

// resident is how much of this program is in memory.
func resident(t *testing.T) (kib int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case !strings.HasSuffix(f[0], ":"):
			ours = len(f) > 5 && f[5] == exe && !strings.Contains(f[1], "w")
		case ours && f[0] == "Rss:":
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	return kib
}

// TestForgetProgram: the program goes on, with less of it in memory. Nothing else runs
// in this process meanwhile.
func TestForgetProgram(t *testing.T) { //nolint:paralleltest // others would bring the program back
	before := resident(t)
	if err := linux.ForgetProgram(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t); after >= before {
		t.Errorf("%d KiB of the program were in memory, and are %d", before, after)
	}
}
