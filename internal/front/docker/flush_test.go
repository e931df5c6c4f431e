package docker

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// flushes counts what reaches a client.
type flushes struct {
	http.ResponseWriter
	n int
}

func (f *flushes) Write(p []byte) (int, error) { return len(p), nil }
func (f *flushes) Flush()                      { f.n++ }

// A line after a pause is sent at once; those that follow on its heels go together.
func TestFlusherIsPromptAndGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &flushes{}
		f := newFlusher(w)
		write := func() {
			if _, err := f.Write([]byte("line\n")); err != nil {
				t.Fatal(err)
			}
		}
		for turn := range 3 {
			write()
			if want := 2*turn + 1; w.n != want {
				t.Fatalf("turn %d: %d flushes after the first line, want %d", turn, w.n, want)
			}
			for range 100 {
				write()
			}
			if want := 2*turn + 1; w.n != want {
				t.Fatalf("turn %d: %d flushes in the burst, want %d", turn, w.n, want)
			}
			time.Sleep(10 * flushDelay) // the test's own clock
			if want := 2*turn + 2; w.n != want {
				t.Fatalf("turn %d: %d flushes after it, want %d", turn, w.n, want)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		write()
	})
}
