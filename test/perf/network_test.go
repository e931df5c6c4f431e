package perf

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"hull/test/harness"
)

// Names of what a network measurement makes on an engine.
const (
	netImage, netName      = "bench-load", "bench-net"
	netServer, netClient   = "bench-server", "bench-client"
	loadSpan               = "0.4"
	publishedOn            = "127.0.0.1:39007"
	containers, throughout = "container to container", "host to published port"
)

// end is one engine (and isolation) with a server and a client in containers.
type end struct {
	who string
	c   *cli
	e   *harness.Engine
	exe string // the program that makes load, on the host
	ip  string // the server's
}

// networks is what goes between containers and through a published port: how much,
// how often, how soon; and names.
func networks(b *bench) {
	e, hull, _ := b.engine([]string{"busybox"}, harness.Args("--vm-kernel", kernel(b)))
	exe, err := os.Executable() // this test: it serves and makes load, too
	if err != nil {
		b.t.Fatal(err)
	}
	b.out.text = "A small program in both ends; one connection (connections: four at a time), " + loadSpan + " s a turn."
	var ends []*end
	add := func(x *end) {
		if err := x.up(); err != nil {
			x.down()
			b.missing("network", x.who, err.Error())
			return
		}
		ends = append(ends, x)
	}
	add(&end{who: "hull", c: hull, e: e, exe: exe})
	for _, p := range b.peers {
		if p.Engine != nil {
			add(&end{who: p.name, c: &p.cli, e: p.Engine, exe: exe})
		}
	}
	if len(ends) == 0 || ends[0].who != "hull" {
		b.t.Fatal("hull's containers did not come up")
	}
	defer func() {
		for _, x := range ends {
			x.down()
		}
	}()
	b.traffic(ends)
	b.names(ends)
	b.loopback(e, exe)

	// The same server under the other isolations.
	ends[0].down()
	for _, isolation := range []string{"container", "sandbox", "vm"} {
		x := &end{who: isolation, c: hull, e: e, exe: exe}
		if err := x.serve(isolation); err != nil {
			b.missing("a server under --isolation "+isolation, "hull", err.Error())
		} else {
			for _, m := range measures() {
				b.race(contest{what: "host to published port, by isolation: " + m.title, unit: m.unit, more: m.more, n: 3, limit: 10 * time.Second}, x.load(throughout, m))
			}
		}
		x.down()
	}
}

// up makes an image with the program, a network, a server and a client.
func (x *end) up() error {
	for _, args := range [][]string{
		{"create", "--name", netServer, "busybox"}, {"cp", x.exe, netServer + ":/load"}, {"commit", netServer, netImage}, {"rm", netServer},
		{"network", "create", netName},
		{"run", "-d", "--network", netName, "--name", netClient, netImage, "sleep", "10000"},
	} {
		if _, err := x.c.try(args...); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
	}
	return x.serve("")
}

// serve runs the server.
func (x *end) serve(isolation string) error {
	if isolation != "" {
		_, _ = x.c.try("network", "create", netName) // it may be there
	}
	args := []string{"run", "-d", "--network", netName, "-p", fmt.Sprintf("%s:%d", publishedOn, loadPort), "--name", netServer}
	if isolation != "" {
		args = append(args, "--isolation", isolation)
	}
	if _, err := x.c.try(append(args, netImage, "/load", "serve")...); err != nil {
		return err
	}
	out, err := x.c.try("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", netServer)
	if err != nil {
		return err
	}
	x.ip = strings.TrimSpace(out)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err = x.make(throughout, "connections", "0.01"); err == nil || time.Now().After(end) {
			return err
		}
	}
}

func (x *end) down() {
	removeAll(x.c, netServer, netClient)
	_, _ = x.c.try("network", "rm", netName)
}

// make runs the program that makes load, and gives what it prints.
func (x *end) make(path, what, span string) ([3]float64, error) {
	if path == containers {
		addr := fmt.Sprintf("%s:%d", x.ip, loadPort)
		if what == "names" {
			addr = netServer
		}
		return figures(x.c.try("exec", netClient, "/load", "load", what, addr, span))
	}
	return onHost(x.e, x.exe, what, publishedOn, span)
}

// onHost runs the program that makes load beside an engine.
func onHost(e *harness.Engine, exe, what, addr, span string) ([3]float64, error) {
	c := cli{cmd: func(args ...string) *exec.Cmd { return e.HostCommand(append([]string{exe}, args...)...) }}
	return figures(c.try("load", what, addr, span))
}

// figures is what the program that makes load has printed.
func figures(out string, err error) (v [3]float64, _ error) {
	if err == nil {
		_, err = fmt.Sscan(out, &v[0], &v[1], &v[2])
	}
	return v, err
}

// measure is one figure of the program.
type measure struct {
	title, what, unit string
	index             int
	more              bool
}

func measures() []measure {
	return []measure{
		{"throughput", "stream", "MiB/s", 0, true},
		{"connections", "connections", "/s", 0, true},
		{"request, there and back, p50", "requests", "µs", 1, false},
		{"request, there and back, p99", "requests", "µs", 2, false},
	}
}

func (x *end) load(path string, m measure) contender {
	return contender{who: x.who, do: func() (float64, error) {
		v, err := x.make(path, m.what, loadSpan)
		return v[m.index], err
	}}
}

// traffic takes many turns: what the kernel alone does for all engines differs more
// from one turn to the next than between them.
func (b *bench) traffic(ends []*end) {
	for _, path := range []string{containers, throughout} {
		for _, m := range measures() {
			var all []contender
			for _, x := range ends {
				all = append(all, x.load(path, m))
			}
			b.race(contest{what: path + ": " + m.title, unit: m.unit, more: m.more, n: scale(32), limit: 36 * time.Second, note: "in turns"}, all...)
		}
	}
}

// names is how many questions a container's resolver answers.
func (b *bench) names(ends []*end) {
	for _, m := range []measure{
		{"names asked of 127.0.0.11, four at a time", "names", "/s", 0, true},
		{"... one in a hundred takes", "names", "µs", 2, false},
	} {
		var all []contender
		for _, x := range ends {
			all = append(all, x.load(containers, m))
		}
		g := atLeast(20000)
		if !m.more {
			g = atMost(1000)
		}
		b.race(contest{what: m.title, unit: m.unit, more: m.more, n: scale(8), limit: 16 * time.Second, goal: g, note: "in turns"}, all...)
	}
}

// loopback is the same without any container: the floor.
func (b *bench) loopback(e *harness.Engine, exe string) {
	server := e.HostCommand(exe, "serve")
	if err := server.Start(); err != nil {
		b.t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	addr := fmt.Sprint("127.0.0.1:", loadPort)
	e.Eventually("the floor's server answers", func() error { _, err := onHost(e, exe, "connections", addr, "0.01"); return err })
	for _, m := range measures() {
		b.alone(contest{what: "no container, loopback: " + m.title, unit: m.unit, more: m.more, n: 3, limit: 10 * time.Second, note: "the floor"}, contender{who: "no engine", do: func() (float64, error) {
			v, err := onHost(e, exe, m.what, addr, loadSpan)
			return v[m.index], err
		}})
	}
}
