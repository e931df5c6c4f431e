package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestHundredBoots: a hundred machines boot, two at a time, none from a template,
// for which there is no directory. HULL_VM_BOOTS is how many, for make test-vm.
func TestHundredBoots(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("HULL_VM_BOOTS"))
	if n == 0 {
		t.Skip("takes minutes: make test-vm runs it")
	}
	w := start(t, "busybox")
	if err := os.WriteFile(filepath.Join(w.Root, "vm", "templates"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var took []time.Duration
	var failed []string
	todo := make(chan int, n)
	for i := range n {
		todo <- i
	}
	close(todo)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range todo {
				want := "boot " + strconv.Itoa(i)
				began := time.Now()
				out, err := w.c.Cmd("run", "--rm", "--isolation", "vm", "-v", "boots:/data", "busybox", "echo", want).CombinedOutput()
				mu.Lock()
				took = append(took, time.Since(began))
				if err != nil || string(out) != want+"\n" {
					failed = append(failed, fmt.Sprintf("%s: %s%v", want, out, err))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	t.Logf("%d of %d machines booted; fastest %v, median %v, slowest %v", n-len(failed), n, took[0], took[n/2], took[n-1])
	for _, f := range failed {
		t.Error(f)
	}
}
