package docker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"

	"hull/api"
)

// Two requests, of which either may come first, make and start a container, are its
// streams, and have its exit.
func TestRunAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	streams := func(key string) *bufio.Reader {
		_, r := w.raw("POST " + api.RunStreamsPath + "?key=" + key + " HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + api.BufferedHeader + ": 1\r\n\r\n")
		return r
	}
	run := func(key, body string) *bufio.Reader {
		_, r := w.raw(fmt.Sprintf("POST %s?key=%s&stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			api.RunPath, key, len(body), body))
		return r
	}
	answer := func(r *bufio.Reader) *http.Response {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for i, c := range []struct {
		body    string
		status  int
		made    bool
		out     string
		message string
	}{
		{`{"Image":"busybox:1","Cmd":["echo","said"],"HostConfig":{"AutoRemove":true}}`, 200, true, "said\n", ""},
		{`{"Image":"busybox:1","Cmd":["echo","kept"]}`, 200, true, "kept\n", ""},
		{`{"Image":"busybox:1","Cmd":["missing"]}`, 400, true, "", "executable file not found"},
		{`{"Image":"absent"}`, 404, false, "", "No such image"},
	} {
		var a, b *bufio.Reader
		if key := fmt.Sprint(i); i%2 == 0 {
			a, b = streams(key), run(key, c.body)
		} else {
			b, a = run(key, c.body), streams(key)
		}
		if resp := answer(a); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: streams: %s", c.body, resp.Status)
		}
		resp := answer(b)
		if id := resp.Header.Get(api.ContainerHeader); resp.StatusCode != c.status || (id != "") != c.made {
			t.Fatalf("%s: %s, container %q", c.body, resp.Status, id)
		}
		var out bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, io.Discard, a); err != nil || out.String() != c.out { // to its end, in any case
			t.Errorf("%s: output %q, %v", c.body, &out, err)
		}
		if c.message != "" {
			if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), c.message) {
				t.Errorf("%s: %s, %v", c.body, text, err)
			}
			continue
		}
		dec := json.NewDecoder(resp.Body)
		var made api.Running
		var ended container.WaitResponse
		if err := errors.Join(dec.Decode(&made), dec.Decode(&ended)); err != nil || made.ID != resp.Header.Get(api.ContainerHeader) || ended.StatusCode != 0 {
			t.Errorf("%s: %+v %+v %v", c.body, made, ended, err)
		}
	}
	if resp := answer(streams("")); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("no key: %s", resp.Status)
	}
}

// Who comes alone does not wait for ever, and leaves nothing.
func TestLobby(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l lobby
		if l.leave("a", &stream{}) {
			t.Error("a stream that nobody wants was taken")
		}
		if s, err := l.meet(t.Context(), "a"); s != nil || err == nil {
			t.Errorf("a stream that did not come: %v, %v", s, err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.meet(gone, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that has gone: %v", err)
		}
		mine := &stream{}
		go l.leave("a", mine)
		if s, err := l.meet(t.Context(), "a"); s != mine || err != nil {
			t.Errorf("met %v, %v", s, err)
		}
		if len(l.byKey) != 0 {
			t.Errorf("left behind: %v", l.byKey)
		}
	})
}
