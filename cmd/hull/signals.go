package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	sig "github.com/moby/sys/signal"
)

// usualSignals are caught before the container starts, the others a moment later:
// for each one the Go runtime switches threads twice, and all of them together
// would cost two milliseconds of a processor while the container starts.
//
//nolint:gochecknoglobals // constant
var usualSignals = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}

const otherSignalsAfter = 100 * time.Millisecond

// enoughAsking is how many signals that ask to end do end this process, in case the
// container ignores them.
const enoughAsking = 3

// proxy passes the signals that this process gets on to a container.
type proxy struct {
	c     *command
	s     *session
	path  string      // of the container; "" until it runs
	kept  []os.Signal // what came before that
	asked int         // how many asked to end
}

// proxySignals keeps the signals that this process gets from when it returns, and
// sends them to the container from when running is called with its path.
func (c *command) proxySignals(s *session) (running func(path string)) {
	got := make(chan os.Signal, 128)
	signal.Notify(got, usualSignals...)
	paths := make(chan string, 1)
	go func() {
		others := time.After(otherSignalsAfter)
		p := proxy{c: c, s: s}
		for {
			select {
			case <-others:
				signal.Notify(got)
			case g := <-got:
				p.take(g)
			case p.path = <-paths:
				for _, g := range p.kept {
					p.send(g)
				}
			}
		}
	}()
	return func(path string) { paths <- path }
}

// take counts a signal, and sends or keeps it.
func (p *proxy) take(g os.Signal) {
	if g == syscall.SIGINT || g == syscall.SIGTERM {
		if p.asked++; p.asked == enoughAsking {
			p.s.restore()
			fmt.Fprintln(p.c.err, "\ngot 3 SIGTERM/SIGINTs, forcefully exiting")
			os.Exit(1)
		}
	}
	if p.path == "" {
		p.kept = append(p.kept, g)
		return
	}
	p.send(g)
}

func (p *proxy) send(g os.Signal) {
	n, ok := g.(syscall.Signal)
	if !ok || n == syscall.SIGCHLD || n == syscall.SIGPIPE || n == syscall.SIGURG || n == syscall.SIGWINCH {
		return // our own, the Go runtime's, followSize's
	}
	if name := signalName(n); name != "" {
		p.c.tell("POST", p.path+"/kill?signal="+name)
	}
}

// signalName is "TERM" for SIGTERM; empty for one without a name.
func signalName(n syscall.Signal) string {
	for name, s := range sig.SignalMap {
		if s == n {
			return url.QueryEscape(name)
		}
	}
	return ""
}
