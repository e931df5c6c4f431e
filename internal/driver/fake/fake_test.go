package fake_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/fake"
	"hull/internal/hull"
)

type world struct {
	t   *testing.T
	w   *fake.World
	fds int
}

func (w *world) Driver() driver.Driver     { return fake.New(w.w) }
func (w *world) Rootfs() hull.Rootfs       { return hull.Rootfs{} }
func (w *world) NetNS() string             { return "" }
func (w *world) RunDir(string) string      { return w.t.TempDir() }
func (w *world) Log(string) hull.LogTarget { return hull.LogTarget{} }
func (w *world) Logged(id string) string   { return w.w.Log(id) }
func (w *world) KillMonitor(podID string)  { w.w.KillMonitor(podID) }

// Leaks counts sandboxes and descriptors. Clients that are on their way out may
// take a moment.
func (w *world) Leaks() (left []string) {
	if n := w.w.Sandboxes(); n > 0 {
		left = append(left, fmt.Sprintf("%d sandboxes", n))
	}
	limit := time.Now().Add(time.Minute)
	for fds(w.t) > w.fds {
		if time.Now().After(limit) {
			return append(left, fmt.Sprintf("%d descriptors, %d before", fds(w.t), w.fds))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return left
}

func fds(t *testing.T) int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.World {
		return &world{t: t, w: fake.NewWorld(), fds: fds(t)}
	})
}
