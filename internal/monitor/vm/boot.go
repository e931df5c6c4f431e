package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/vmm"
)

const (
	// restoreLimit bounds one restored start: a guest that does not have to boot
	// answers soon, or never.
	restoreLimit = 30 * time.Second
	// restores is how often a restored start that does not answer is tried.
	restores = 2
)

// Boot starts a machine with try: restored where there is a template, whose device
// state is the file state, booted else. A template that QEMU refuses is removed, so
// that another is made; so is one whose guest does not answer in time, but that may
// be the host's doing, and it gets another chance before. What the guest's kernel
// cannot do (errdefs.ErrNotImplemented) is not the template's fault.
func Boot(ctx context.Context, state string, warn func(string), try func(ctx context.Context, restore bool) error) error {
	late := true
	for i := 0; state != "" && late && i < restores; i++ {
		limited, cancel := context.WithTimeout(ctx, restoreLimit)
		err := try(limited, true)
		late = limited.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || errdefs.IsNotImplemented(err) {
			return err
		}
		warn(fmt.Sprintf("a machine cannot be restored from its template (try %d): %v", i+1, err))
		if errors.Is(err, vmm.ErrPlug) {
			return try(ctx, false) // the template is as good as it was
		}
	}
	if state != "" {
		if err := os.Remove(state); err != nil && !errors.Is(err, os.ErrNotExist) {
			warn("remove template: " + err.Error())
		}
	}
	return try(ctx, false)
}
