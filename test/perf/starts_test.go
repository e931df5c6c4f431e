package perf

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// starts is a container's life from the command line: run to its end, exec, removal.
func starts(b *bench) {
	_, hull, docker := b.engine([]string{"busybox"})
	for _, network := range []struct {
		name  string
		flags []string
		goal  goal
	}{
		{"on the bridge", nil, atMost(25)},
		{"without network", []string{"--network", "none"}, atMost(18)},
		{"with a published port", []string{"-p", "127.0.0.1::80"}, goal{}},
	} {
		args := append(append([]string{"run", "--rm"}, network.flags...), "busybox", "true")
		b.alone(contest{what: "run " + network.name + ", back to back", n: scale(200), limit: time.Minute, goal: network.goal}, command(hull, args...))
		b.race(contest{what: "run " + network.name, n: scale(30), limit: 40 * time.Second, note: "in turns"}, b.each(func(c *cli) contender { return command(c, args...) }, hull, docker)...)
	}
	b.execs(hull, docker)
	b.teardown(hull, docker)
	b.alone(contest{what: "start of the command line", n: scale(100), limit: 10 * time.Second, goal: atMost(8), note: "`hull --version`"}, command(hull, "--version"))
}

func (b *bench) execs(hull, docker *cli) {
	const name = "bench-exec"
	args := []string{"run", "-d", "--name", name, "busybox", "sleep", "10000"}
	b.output(hull, args...)
	defer removeAll(hull, name)
	one := []string{"exec", name, "true"}
	b.alone(contest{what: "exec, back to back", n: scale(200), limit: 20 * time.Second, goal: atMost(9)}, command(hull, one...))
	all := []contender{command(hull, one...), command(docker, one...)}
	for _, p := range b.peers {
		if _, err := p.try(args...); err != nil {
			b.missing("exec", p.name, err.Error())
			continue
		}
		defer removeAll(&p.cli, name)
		all = append(all, command(&p.cli, one...))
	}
	b.race(contest{what: "exec", n: scale(30), limit: 30 * time.Second, note: "in turns"}, all...)
}

// teardown is the removal of a running container.
func (b *bench) teardown(hull, docker *cli) {
	one := func(c *cli) contender {
		return contender{who: c.name, do: func() (float64, error) {
			if _, err := c.try("run", "-d", "--name", "bench-rm", "busybox", "sleep", "10000"); err != nil {
				return 0, err
			}
			start := time.Now()
			_, err := c.try("rm", "-f", "bench-rm")
			return msSince(start), err
		}}
	}
	b.race(contest{what: "rm -f of a running container", n: scale(20), limit: 30 * time.Second, note: "in turns"}, b.each(one, hull, docker)...)
}

// api is one connection to an engine.
type api struct{ http.Client }

func connect(host string) *api {
	socket := strings.TrimPrefix(host, "unix://")
	return &api{http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}}
}

// call does one request, and decodes what it answers into a map.
func (a *api) call(method, path, body string) (map[string]any, error) {
	b, err := a.raw(method, path, body)
	if err != nil || !bytes.HasPrefix(b, []byte("{")) {
		return nil, err
	}
	var v map[string]any
	return v, json.Unmarshal(b, &v)
}

func (a *api) raw(method, path, body string) ([]byte, error) {
	req, err := http.NewRequest(method, "http://e"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, lastLine(string(b)))
	}
	return b, err
}

// engineOnly is create and start through the API: no command line.
func engineOnly(b *bench) {
	e, _, _ := b.engine([]string{"busybox"})
	one := func(who, host string) contender {
		a := connect(host)
		return contender{who: who, do: func() (float64, error) {
			start := time.Now()
			made, err := a.call(http.MethodPost, "/containers/create", `{"Image":"busybox","Cmd":["sleep","100"]}`)
			if err != nil {
				return 0, err
			}
			id := fmt.Sprint(made["Id"])
			_, err = a.call(http.MethodPost, "/containers/"+id+"/start", "")
			took := msSince(start)
			if err == nil {
				_, err = a.call(http.MethodDelete, "/containers/"+id+"?force=1", "")
			}
			return took, err
		}}
	}
	own := one("hulld", e.Host)
	what := "create and start, bridge, durable"
	b.alone(contest{what: what + ", back to back", n: scale(200), limit: 30 * time.Second, goal: atMost(10), note: "p99 <= 25 ms"}, own)
	all := []contender{own}
	for _, p := range b.dockers() {
		all = append(all, one(p.name, p.at))
	}
	b.race(contest{what: what, n: scale(20), limit: 30 * time.Second, note: "in turns"}, all...)
}

// parallel is a hundred runs, eight at a time; beside the peers, forty.
func parallel(b *bench) {
	_, hull, _ := b.engine([]string{"busybox"})
	const atOnce = 8
	one := func(c *cli, total int) contender {
		return contender{who: c.name, do: func() (float64, error) {
			work := make(chan struct{}, total)
			for range total {
				work <- struct{}{}
			}
			close(work)
			start := time.Now()
			errs := make([]error, atOnce)
			var wg sync.WaitGroup
			for i := range atOnce {
				wg.Go(func() {
					for range work {
						if _, err := c.try("run", "--rm", "busybox", "true"); err != nil {
							errs[i] = err
							return
						}
						if time.Since(start) > patience {
							errs[i] = fmt.Errorf("no end in %v", patience)
							return
						}
					}
				})
			}
			wg.Wait()
			return time.Since(start).Seconds(), cmp.Or(errs...)
		}}
	}
	b.alone(contest{what: "100 x run --rm, 8 at a time", unit: "s", n: 5, limit: 30 * time.Second, goal: atMost(2.5)}, one(hull, 100))
	forty := b.each(func(c *cli) contender { return one(c, 40) }, hull)
	b.race(contest{what: "40 x run --rm, 8 at a time", unit: "s", n: 2, limit: 30 * time.Second, cold: true, note: "in turns"}, forty...)
}
