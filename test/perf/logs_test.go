package perf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"hull/test/harness"
)

// logs is what a container writes: how much of it in a second, and how soon a
// follower has it.
func logs(b *bench) {
	e, hull, _ := b.engine([]string{"busybox"})
	b.throughput(e, hull)
	type reader struct{ who, host string }
	readers := []reader{{"hull", e.Host}}
	for _, p := range b.dockers() {
		readers = append(readers, reader{p.name, p.at})
	}
	const what = "a line from a container's input through cat to who follows its log"
	var all []contender
	for _, r := range readers {
		f, err := newFollower(r.host)
		if err != nil {
			b.missing(what, r.who, err.Error())
			continue
		}
		defer f.close()
		all = append(all, contender{who: r.who, do: f.line})
	}
	if len(all) > 0 {
		b.race(contest{what: what, unit: "µs", n: scale(300), limit: 10 * time.Second, note: "in turns"}, all...)
	}
}

// throughput is text through the default log driver.
func (b *bench) throughput(e *harness.Engine, hull *cli) {
	line := strings.Repeat("the quick brown fox jumps over the lazy dog; ", 2) + "\n"
	e.WriteFile("text/text", strings.Repeat(line, 64<<20/len(line)))
	n := max(2, int(16*factor()))
	one := func(c *cli) contender {
		return contender{who: c.name, do: func() (float64, error) {
			defer removeAll(c, "loud")
			// The text is read into the cache before; what counts is between two moments that
			// the container itself takes.
			shell := fmt.Sprintf("cat /d/text > /dev/null; a=$(cut -d' ' -f1 /proc/uptime); i=0; while [ $i -lt %d ]; do cat /d/text; i=$((i+1)); done; b=$(cut -d' ' -f1 /proc/uptime); echo; echo TOOK $a $b", n)
			if _, err := c.try("run", "-d", "--name", "loud", "-v", e.Dir("text")+":/d", "busybox", "sh", "-c", shell); err != nil {
				return 0, err
			}
			if _, err := c.try("wait", "loud"); err != nil {
				return 0, err
			}
			out, err := c.try("logs", "--tail", "1", "loud")
			var from, to float64
			if _, serr := fmt.Sscanf(strings.TrimSpace(out), "TOOK %f %f", &from, &to); err == nil && serr != nil {
				err = fmt.Errorf("its last line is %q", lastLine(out))
			}
			return float64(n*64) / max(to-from, 0.01), err
		}}
	}
	all := b.each(one, hull)
	for i := range all[1:] {
		all[1+i].rounds = 1
	}
	memory := pss(e.Pid())
	b.race(contest{
		what: fmt.Sprintf("%d MiB of lines of 91 bytes to stdout, default log driver", n*64), unit: "MiB/s", more: true, n: 3, limit: 60 * time.Second,
		cold: true, goal: atLeast(300), note: "from the first byte to the last, in the container's own time",
	}, all...)
	b.figure("growth of hulld meanwhile, PSS", "hull", "MiB", atMost(8), max(0, pss(e.Pid())-memory)/1024, "")
}

// follower is a container that repeats what it is told, with its log followed.
type follower struct {
	a     *api
	id    string
	input net.Conn
	log   *bufio.Reader
	end   func()
}

func newFollower(host string) (*follower, error) {
	f := &follower{a: connect(host)}
	made, err := f.a.call(http.MethodPost, "/containers/create", `{"Image":"busybox","Cmd":["cat"],"OpenStdin":true,"AttachStdin":true}`)
	if err != nil {
		return nil, err
	}
	f.id = fmt.Sprint(made["Id"])
	f.end = func() { _, _ = f.a.raw(http.MethodDelete, "/containers/"+f.id+"?force=1", "") }
	if err := f.open(host); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *follower) open(host string) error {
	conn, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
	if err != nil {
		return err
	}
	f.input = conn
	fmt.Fprintf(conn, "POST /containers/%s/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", f.id)
	head := bufio.NewReader(conn)
	resp, err := http.ReadResponse(head, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("attach: %s", resp.Status)
	}
	if _, err := f.a.raw(http.MethodPost, "/containers/"+f.id+"/start", ""); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	old := f.end
	f.end = func() { cancel(); old() }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://e/containers/"+f.id+"/logs?follow=1&stdout=1", nil)
	if err != nil {
		return err
	}
	stream := connect(host)
	stream.Timeout = 0
	logs, err := stream.Do(req)
	if err != nil {
		return err
	}
	f.log = bufio.NewReader(logs.Body)
	return nil
}

// line is the microseconds until a line is in the log.
func (f *follower) line() (float64, error) {
	const text = "to be followed\n"
	timer := time.AfterFunc(patience, f.end)
	defer timer.Stop()
	start := time.Now()
	if _, err := io.WriteString(f.input, text); err != nil {
		return 0, err
	}
	frame := make([]byte, 8+len(text))
	if _, err := io.ReadFull(f.log, frame); err != nil {
		return 0, err
	}
	if string(frame[8:]) != text {
		return 0, errors.New("the log says something else")
	}
	return float64(time.Since(start).Nanoseconds()) / 1000, nil
}

func (f *follower) close() {
	if f.input != nil {
		_ = f.input.Close()
	}
	f.end()
}
