package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"hull/internal/dns"
)

// names is the pod's name server, where it has one.
type names struct {
	mu    sync.Mutex
	state *naming // nil = there is none
}

// naming is a name server that starts beside everything else.
type naming struct {
	ready chan struct{}
	stop  func()
	err   error
}

// begin starts the name server unless it runs. Most pods have none: that costs one
// look for a file.
func (n *names) begin(serve func(string) (func(), error), dir string) {
	if serve == nil {
		return
	}
	if _, err := os.Lstat(filepath.Join(dir, dns.ConfigName)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state != nil {
		select {
		case <-n.state.ready:
			if n.state.err == nil {
				return
			}
		default:
			return
		}
	}
	st := &naming{ready: make(chan struct{})}
	n.state = st
	go func() {
		defer close(st.ready)
		st.stop, st.err = serve(dir)
	}()
}

// wait returns when the name server answers, or cannot.
func (n *names) wait() error {
	n.mu.Lock()
	st := n.state
	n.mu.Unlock()
	if st == nil {
		return nil
	}
	<-st.ready
	return st.err
}

// end stops it.
func (n *names) end() {
	if n.wait() != nil {
		return
	}
	n.mu.Lock()
	st := n.state
	n.state = nil
	n.mu.Unlock()
	if st != nil {
		st.stop()
	}
}

// serveNames is the Config's Names.
func serveNames(dir string) (func(), error) {
	s, err := dns.Open(filepath.Join(dir, dns.ConfigName))
	if err != nil {
		return nil, fmt.Errorf("start name server: %w", err)
	}
	s.Start()
	return s.Close, nil
}
