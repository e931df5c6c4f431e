package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"hull/internal/vmm"
)

// TestTemplateThatIsNoGood: it is removed, and the machine boots; one that serves is
// kept.
func TestTemplateThatIsNoGood(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		restore error // what a restored start gives
		kept    bool
		want    []bool // the tries: restored or not
	}{
		"serves":                  {nil, true, []bool{true}},
		"refused":                 {broken, false, []bool{true, false}},
		"QEMU cannot plug":        {vmm.ErrPlug, true, []bool{true, false}},
		"its kernel lacks a part": {errdefs.ErrNotImplemented, true, []bool{true}},
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			if err := os.WriteFile(state, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var tries []bool
			warnings := 0
			err := Boot(t.Context(), state, func(string) { warnings++ }, func(_ context.Context, restore bool) error {
				tries = append(tries, restore)
				if restore {
					return c.restore
				}
				return nil
			})
			wrong := err != nil
			if errdefs.IsNotImplemented(c.restore) {
				wrong = !errdefs.IsNotImplemented(err)
			}
			if wrong || len(tries) != len(c.want) || tries[0] != c.want[0] || (warnings == 0) != (len(c.want) == 1) {
				t.Errorf("%v after tries %v with %d warnings", err, tries, warnings)
			}
			if _, err := os.Stat(state); err == nil != c.kept {
				t.Errorf("the template: %v", err)
			}
		})
	}
	// Without a template, and with an end to the caller's patience.
	ctx, cancel := context.WithCancelCause(t.Context())
	tries := 0
	err := Boot(ctx, "none", func(string) {}, func(context.Context, bool) error { tries++; cancel(broken); return broken })
	if !errors.Is(err, broken) || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
}
