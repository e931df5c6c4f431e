package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Voting is the application in examples/voting on an engine, as people who vote see
// it: a connection for each request, none of which may fail.
type Voting struct {
	Hull, Docker *Client // hull compose and docker compose, in its directory
	Port         string

	e      *Engine
	client *http.Client
	counts map[string]int64 // votes that were taken
}

// Voting prepares the application; env are settings of its compose file, as
// "WEB_ISOLATION=vm".
func (e *Engine) Voting(env ...string) *Voting {
	e.t.Helper()
	dir, err := filepath.Abs("../../examples/voting")
	if err != nil {
		e.t.Fatal(err)
	}
	port := e.FreePort()
	v := &Voting{Hull: e.HullCompose(), Docker: e.Compose(), Port: port, e: e, counts: map[string]int64{}}
	for _, c := range []*Client{v.Hull, v.Docker} {
		c.Dir, c.Env = dir, append([]string{"VOTING_PORT=" + port, "DB_PASSWORD=correct horse"}, env...)
	}
	v.client = e.httpClient(time.Minute) // far above what a slow machine needs: a request that hangs has failed
	return v
}

// FreePort is a port of the engine's host that nobody has, and that it has not
// returned before.
func (e *Engine) FreePort() string {
	e.t.Helper()
	for {
		l, err := e.Listen("0.0.0.0:0")
		if err != nil {
			e.t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err := errors.Join(err, l.Close()); err != nil {
			e.t.Fatal(err)
		}
		if _, before := e.ports.LoadOrStore(port, nil); !before {
			return port
		}
	}
}

func (v *Voting) base() string { return "http://127.0.0.1:" + v.Port }

func read(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return strings.TrimSpace(string(b)), err
}

// Get asks for a page.
func (v *Voting) Get(path string) (string, error) {
	return read(v.client.Get(v.base() + path)) //nolint:noctx // bounded by the client's timeout
}

func (v *Voting) vote(choice string) error {
	_, err := read(v.client.PostForm(v.base()+"/", url.Values{"vote": {choice}})) //nolint:noctx // as above
	return err
}

// Vote votes, once for each choice.
func (v *Voting) Vote(choices ...string) {
	v.e.t.Helper()
	for _, c := range choices {
		if err := v.vote(c); err != nil {
			v.e.t.Fatalf("vote for %s: %v", c, err)
		}
		v.counts[c]++
	}
}

// Counted waits until the result is what was voted.
func (v *Voting) Counted() {
	v.e.t.Helper()
	want := fmt.Sprintf("cats=%d dogs=%d", v.counts["cats"], v.counts["dogs"])
	v.e.Eventually("the votes are counted: "+want, func() error {
		got, err := v.Get("/result")
		if err == nil && got != want {
			err = fmt.Errorf("%q", got)
		}
		return err
	})
}

// Load is people who vote and look at the result all the time.
type Load struct {
	v      *Voting
	stop   chan struct{}
	done   sync.WaitGroup
	votes  atomic.Int64
	asked  atomic.Int64
	mu     sync.Mutex
	failed error
}

// Load begins: one who votes as fast as the worker counts, and some who look at the
// result. The first request that fails ends it.
func (v *Voting) Load(readers int) *Load {
	l := &Load{v: v, stop: make(chan struct{})}
	again := func(pause time.Duration, request func() error) {
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(pause):
			}
			if err := request(); err != nil {
				l.mu.Lock()
				l.failed = errors.Join(l.failed, err)
				l.mu.Unlock()
				return
			}
		}
	}
	l.done.Go(func() {
		again(50*time.Millisecond, func() error {
			if err := v.vote("dogs"); err != nil {
				return fmt.Errorf("vote %d: %w", l.votes.Load(), err)
			}
			l.votes.Add(1)
			return nil
		})
	})
	for range readers {
		l.done.Go(func() {
			again(time.Millisecond, func() error {
				if _, err := v.Get("/result"); err != nil {
					return fmt.Errorf("result, request %d: %w", l.asked.Load(), err)
				}
				l.asked.Add(1)
				return nil
			})
		})
	}
	return l
}

// More waits until n more votes and as many looks at the result have been answered.
func (l *Load) More(n int64) {
	l.v.e.t.Helper()
	votes, asked := l.votes.Load(), l.asked.Load()
	l.v.e.Eventually("votes go on", func() error {
		l.mu.Lock()
		err := l.failed
		l.mu.Unlock()
		if err != nil {
			l.v.e.t.Fatalf("a request failed: %v\nhulld's log:\n%s", err, l.v.e.Log())
		}
		if v, a := l.votes.Load()-votes, l.asked.Load()-asked; v < n || a < n {
			return fmt.Errorf("%d votes and %d results of %d", v, a, n)
		}
		return nil
	})
}

// End stops it, and fails the test when a request failed.
func (l *Load) End() {
	l.v.e.t.Helper()
	close(l.stop)
	l.done.Wait()
	if l.failed != nil {
		l.v.e.t.Error(l.failed)
	}
	l.v.counts["dogs"] += l.votes.Load()
	l.v.e.t.Logf("%d votes and %d results without a failure", l.votes.Load(), l.asked.Load())
}
