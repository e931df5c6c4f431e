package vm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepTime: a guest is told the time every minute, also after it did not answer,
// and no more when its machine has gone.
func TestKeepTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var told []time.Duration
		done := make(chan struct{})
		go keepTime(done, func(ctx context.Context) error {
			told = append(told, time.Since(began))
			if len(told) == 2 {
				<-ctx.Done()
				return errors.New("no answer")
			}
			return nil
		})
		time.Sleep(4 * clockEvery)
		synctest.Wait()
		if len(told) != 4 || told[0] != clockEvery || told[3] != 4*clockEvery {
			t.Errorf("told after %v", told)
		}
		close(done)
		time.Sleep(4 * clockEvery)
		if len(told) != 4 {
			t.Errorf("told after the machine's end: %v", told)
		}
	})
}
