package logs

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/logs/logfile"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newService(t testing.TB) *Service {
	t.Helper()
	s, err := New(Config{Root: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func container(driver string, opts ...string) hull.Container {
	c := hull.Container{ID: id, Name: "c", Image: hull.ImageRef{Name: "busybox", ID: "sha256:feedfacecafebeef"}}
	c.Resolved.Labels = map[string]string{"one": "1", "two": "2"}
	c.Resolved.Env = []string{"HOME=/", "X=y"}
	c.Spec.Log = hull.LogSpec{Driver: driver, Options: map[string]string{}}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		c.Spec.Log.Options[k] = v
	}
	return c
}

type log struct {
	t testing.TB
	s *Service
	c hull.Container
	w logfile.Writer
}

func open(t testing.TB, c hull.Container) *log {
	t.Helper()
	s := newService(t)
	target, err := s.Target(c)
	must(t, err)
	w, err := logfile.Open(target)
	must(t, err)
	l := &log{t, s, c, w}
	t.Cleanup(func() { must(t, l.w.Close()) })
	return l
}

func at(n int) time.Time { return time.Unix(1000+int64(n), 0).UTC() }

// lines writes lines n to m-1, each second one, odd ones to stderr.
func (l *log) lines(n, m int) {
	l.t.Helper()
	for i := n; i < m; i++ {
		must(l.t, l.w.Write(logfile.Stream(1+i%2), fmt.Appendf(nil, "line %d <&> \"é\" \t\x00\xff\n", i), at(i)))
	}
}

var all = hull.LogsRequest{Stdout: true, Stderr: true, Tail: -1}

func (l *log) read(r hull.LogsRequest) []int {
	l.t.Helper()
	rd, err := l.s.Read(l.t.Context(), l.c, r, nil)
	must(l.t, err)
	defer func() { must(l.t, rd.Close()) }()
	return collect(l.t, rd)
}

func collect(t testing.TB, rd hull.LogReader) (out []int) {
	t.Helper()
	for {
		line, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		out = append(out, number(t, line))
	}
}

// number checks a line that lines wrote.
func number(t testing.TB, line hull.LogLine) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(string(line.Data), "line %d", &n); err != nil {
		t.Fatalf("%q: %v", line.Data, err)
	}
	tail := strings.TrimPrefix(string(line.Data), fmt.Sprintf("line %d ", n))
	if tail != "<&> \"é\" \t\x00\ufffd\n" && tail != "<&> \"é\" \t\x00\xff\n" {
		t.Fatalf("line %d is %q", n, line.Data)
	}
	if !line.Time.Equal(at(n)) || line.Stream != []string{"stdout", "stderr"}[n%2] {
		t.Fatal("line", n, line.Time, line.Stream)
	}
	return n
}

func wantRange(t testing.TB, got []int, from, to, step int) {
	t.Helper()
	if len(got) != (to-from+step-1)/step {
		t.Fatalf("got %d lines, want %d to %d: %v", len(got), from, to, got)
	}
	for i, n := range got {
		if n != from+i*step {
			t.Fatalf("line %d is %d", i, n)
		}
	}
}

func TestReadSelections(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := open(t, container(driver))
			l.lines(0, 100)
			with := func(f func(*hull.LogsRequest)) []int {
				r := all
				f(&r)
				return l.read(r)
			}
			wantRange(t, l.read(all), 0, 100, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Tail = 10 }), 90, 100, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Tail = 100 }), 0, 100, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Tail = 1000 }), 0, 100, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Tail = 0 }), 0, 0, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Stderr = false }), 0, 100, 2)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Stdout = false }), 1, 100, 2)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Stdout = false; r.Tail = 3 }), 95, 100, 2)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Since, r.Until = at(20), at(29) }), 20, 30, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Until, r.Tail = at(29), 5 }), 25, 30, 1)
			wantRange(t, with(func(r *hull.LogsRequest) { r.Follow = true }), 0, 100, 1) // no run is on
		})
	}
}

func TestNoLogYet(t *testing.T) {
	t.Parallel()
	s := newService(t)
	rd, err := s.Read(t.Context(), container("json-file"), all, nil)
	must(t, err)
	wantRange(t, collect(t, rd), 0, 0, 1)
	must(t, rd.Close())
}

func TestRotation(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := open(t, container(driver, "max-size=1k", "max-file=4"))
			for i := range 10 {
				l.lines(i*10, i*10+10)
			}
			got := l.read(all)
			if len(got) < 20 || len(got) > 90 {
				t.Error(len(got), "lines are left")
			}
			wantRange(t, got, got[0], 100, 1)
			r := all
			for _, n := range []int{1, 5, 15, len(got) - 1, len(got)} {
				r.Tail = n
				wantRange(t, l.read(r), 100-n, 100, 1)
			}
			files, err := filepath.Glob(l.s.path(id, driver) + "*")
			if err != nil || len(files) != 4 {
				t.Error(files, err)
			}
			for _, f := range files {
				if st, err := os.Stat(f); err != nil || st.Size() > 1000 {
					t.Error(f, st.Size(), err)
				}
			}
		})
	}
}

func (l *log) follow(ctx context.Context, r hull.LogsRequest, ended <-chan struct{}) hull.LogReader {
	l.t.Helper()
	r.Follow = true
	rd, err := l.s.Read(ctx, l.c, r, ended)
	must(l.t, err)
	l.t.Cleanup(func() { must(l.t, rd.Close()) })
	return rd
}

func TestFollowAcrossRotationIsComplete(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := open(t, container(driver, "max-size=20k", "max-file=30", "compress=false"))
			ended := make(chan struct{})
			var wg sync.WaitGroup
			for range 10 {
				rd := l.follow(t.Context(), all, ended)
				wg.Go(func() {
					got := collect(t, rd)
					if len(got) != 2000 || got[0] != 0 || got[1999] != 1999 {
						t.Error("lost lines: got", len(got))
					}
				})
			}
			for i := range 200 {
				l.lines(i*10, i*10+10)
			}
			close(ended)
			wg.Wait()
		})
	}
}

func TestFollowIsLive(t *testing.T) {
	t.Parallel()
	l := open(t, container("json-file"))
	ended := make(chan struct{})
	r := all
	r.Tail = 0
	l.lines(0, 5)
	rd := l.follow(t.Context(), r, ended)
	for i := 5; i < 50; i++ {
		l.lines(i, i+1)
		line, err := rd.Next()
		must(t, err)
		if number(t, line) != i {
			t.Fatal(i)
		}
	}
	l.lines(50, 60)
	close(ended)
	wantRange(t, collect(t, rd), 50, 60, 1)
}

func TestFollowEnds(t *testing.T) {
	t.Parallel()
	l := open(t, container("json-file"))
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	byContext, byClose := l.follow(ctx, all, ended), l.follow(t.Context(), all, ended)
	r := all
	r.Until = time.Now().Add(50 * time.Millisecond)
	byUntil := l.follow(t.Context(), r, ended)
	l.lines(0, 3)
	var read, wg sync.WaitGroup
	for _, rd := range []hull.LogReader{byContext, byClose, byUntil} {
		read.Add(1)
		wg.Go(func() {
			for i := range 3 {
				if line, err := rd.Next(); err != nil || number(t, line) != i {
					t.Error(line, err)
				}
			}
			read.Done()
			wantRange(t, collect(t, rd), 0, 0, 1)
		})
	}
	read.Wait()
	cancel()
	must(t, byClose.Close())
	wg.Wait()
}

func TestFollowWaitsForTheFile(t *testing.T) {
	t.Parallel()
	l := open(t, container("json-file"))
	must(t, os.Remove(l.s.path(id, "json-file")))
	ended := make(chan struct{})
	rd := l.follow(t.Context(), all, ended)
	done := make(chan []int)
	go func() { done <- collect(t, rd) }()
	target, err := l.s.Target(l.c)
	must(t, err)
	w, err := logfile.Open(target)
	must(t, err)
	l.w = w
	l.lines(0, 3)
	close(ended)
	wantRange(t, <-done, 0, 3, 1)
}

func TestThousandFollowers(t *testing.T) {
	t.Parallel()
	l := open(t, container("json-file"))
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for range 1000 {
		rd := l.follow(t.Context(), all, ended)
		wg.Go(func() {
			if got := collect(t, rd); len(got) != 100 {
				t.Error(len(got))
			}
		})
	}
	for i := range 10 {
		l.lines(i*10, i*10+10)
	}
	close(ended)
	wg.Wait()
}

func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	good := `{"log":"line 1 \u003c\u0026\u003e \"é\" \t\u0000\ufffd\n","stream":"stderr","time":"1970-01-01T00:16:41Z"}` + "\n"
	spaced := `{ "time": "1970-01-01T00:16:42Z", "stream": "stdout", "log": "line 2 <&> \"\u00e9\" \t\u0000\ufffd\n" }` + "\n"
	l := open(t, container("json-file"))
	text := "\x00\x00garbage\n{\n" + good + `{"log":"torn` + "\n" + spaced + `{"log":"x\n","stream":"stdin","time":"1970-01-01T00:16:42Z"}` + "\n" + `{"log":"half`
	must(t, os.WriteFile(l.s.path(id, "json-file"), []byte(text), 0o600))
	wantRange(t, l.read(all), 1, 3, 1)

	l = open(t, container("local"))
	l.lines(0, 3)
	f, err := os.OpenFile(l.s.path(id, "local"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("\xff\xff\xff\xffjunk")
	must(t, errors.Join(err, f.Close()))
	wantRange(t, l.read(all), 0, 3, 1)
	// The next run repairs it.
	target, err := l.s.Target(l.c)
	must(t, err)
	w, err := logfile.Open(target)
	must(t, err)
	l.w = w
	l.lines(3, 6)
	wantRange(t, l.read(all), 0, 6, 1)
}

func TestLongLines(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := open(t, container(driver))
			text := strings.Repeat("\x01abc", 30000) + "\nshort\nno newline"
			for p := []byte(text); len(p) > 0; {
				n := min(len(p), 5000)
				must(t, l.w.Write(logfile.Stdout, p[:n], at(1)))
				p = p[n:]
			}
			must(t, l.w.Close())
			rd, err := l.s.Read(t.Context(), l.c, all, nil)
			must(t, err)
			var got strings.Builder
			for {
				line, err := rd.Next()
				if err != nil {
					break
				}
				got.Write(line.Data)
			}
			must(t, rd.Close())
			if got.String() != text {
				t.Errorf("%d bytes became %d", len(text), got.Len())
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, c := range []struct {
		l    string
		text string // "" = fine
	}{
		{"fluentd", "logger: no log driver named 'fluentd' is registered"},
		{"json-file foo=1", "unknown log opt 'foo' for json-file log driver"},
		{"local labels-x=1", "unknown log opt 'labels-x' for local log driver"},
		{"json-file max-size=10m max-file=3 compress=true labels=a env=b tag={{.Name}} mode=non-blocking max-buffer-size=4m", ""},
		{"json-file max-size=-1", ""},
		{"json-file max-size=0", "max-size must be a positive number, not '0'"},
		{"json-file max-size=x", "max-size must be a positive number, not 'x'"},
		{"json-file max-file=0", "max-file cannot be less than 1"},
		{"json-file max-file=1", ""},
		{"json-file max-file=1 compress=true", "compress cannot be true when max-file is less than 2 or max-size is not set"},
		{"json-file mode=fast", "logger: logging mode not supported: fast"},
		{"json-file max-buffer-size=4m", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file labels-regex=(", "labels-regex: error parsing regexp: missing closing ): `(`"},
		{"json-file tag={{.Nope}}", "*"},
		{"syslog syslog-address=udp://127.0.0.1:514 syslog-facility=local3 syslog-format=rfc5424", ""},
		{"syslog syslog-address=tcp+tls://h", "syslog-address: tcp+tls is not supported, use tcp or udp to a local relay"},
		{"syslog syslog-address=http://h", "unsupported scheme: 'http'"},
		{"syslog syslog-facility=nope", "invalid syslog facility"},
		{"syslog syslog-format=x", "Invalid syslog format"},
		{"journald tag=x cache-disabled=true", ""},
		{"none anything=goes", ""},
	} {
		w := strings.Fields(c.l)
		err := s.Check(container(w[0], w[1:]...).Spec.Log)
		if (err == nil) != (c.text == "") || err != nil && c.text != "*" && err.Error() != c.text {
			t.Errorf("%s: %v", c.l, err)
		}
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v has the wrong kind", c.l, err)
		}
	}
	if _, err := New(Config{Root: t.TempDir(), DefaultDriver: "nope"}); err == nil {
		t.Error("unknown default driver was accepted")
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	s := newService(t)
	get := func(driver string, opts ...string) hull.LogTarget {
		t.Helper()
		target, err := s.Target(container(driver, opts...))
		must(t, err)
		return target
	}
	d := get("")
	if d.Driver != "json-file" || d.MaxSize != 10<<20 || d.MaxFiles != 3 || !d.Compress || d.Attrs != nil ||
		d.Path != filepath.Join(s.dir, id, id+"-json.log") {
		t.Error(d)
	}
	d = get("json-file", "labels=one,none", "env-regex=^HO", "tag={{.Name}}/{{.ID}}/{{.ImageID}}", "max-file=1")
	if fmt.Sprint(d.Attrs) != "map[HOME:/ one:1 tag:c/0123456789ab/feedfacecafe]" || d.Compress {
		t.Error(d.Attrs)
	}
	d = get("syslog", "syslog-address=udp://127.0.0.1", "syslog-facility=local1")
	o := d.Options
	if o["network"] != "udp" || o["address"] != "127.0.0.1:514" || o["facility"] != "17" || o["tag"] != id[:12] || d.Path == "" {
		t.Error(d)
	}
	if d = get("none"); d.Path != "" {
		t.Error(d)
	}
	must(t, s.Remove(container("json-file")))
	must(t, s.Remove(container("json-file")))
	if left, _ := os.ReadDir(s.dir); len(left) != 0 {
		t.Error(left)
	}
	if err := s.Remove(hull.Container{ID: ".."}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	s := newService(t)
	must(t, s.Sweep(func(string) bool { return false }))
	kept, swept := container("json-file"), container("local")
	swept.ID = strings.Repeat("f", 64)
	for _, c := range []hull.Container{kept, swept} {
		_, err := s.Target(c)
		must(t, err)
	}
	must(t, s.Sweep(func(id string) bool { return id == kept.ID }))
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) != 1 || left[0].Name() != kept.ID {
		t.Error(left, err)
	}
}

func TestNoneCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, c := range []hull.Container{container("none"), container("journald", "cache-disabled=true")} {
		_, err := s.Read(t.Context(), c, all, nil)
		if !errdefs.IsNotImplemented(err) || err.Error() != "configured logging driver does not support reading" {
			t.Error(err)
		}
	}
}

func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}` + "\n"))
	f.Add([]byte(`{"log":"\ud83d\ude00\ud83d\"","stream":"stderr","attrs":{"a":"b"},"time":"2026-01-02T03:04:05Z"}` + "\n{"))
	f.Fuzz(func(t *testing.T, b []byte) { decodeAll(t, &jsonDecoder{}, b) })
}

func FuzzReadLocal(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0d\x0a\x06stdout\x10\x05\x1a\x01x\x00\x00\x00\x0d"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) { decodeAll(t, &localDecoder{}, b) })
}

func decodeAll(t *testing.T, d decoder, b []byte) {
	for len(b) > 0 {
		line, n, ok, err := d.next(b)
		if n > len(b) || n < 0 || ok && line.Stream != "stdout" && line.Stream != "stderr" {
			t.Fatal(line, n)
		}
		if err != nil || n == 0 {
			return
		}
		b = b[n:]
	}
}

func BenchmarkRead(b *testing.B) {
	for _, driver := range []string{"json-file", "local"} {
		b.Run(driver, func(b *testing.B) {
			l := open(b, container(driver))
			p := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 600))
			for range 50 {
				must(b, l.w.Write(logfile.Stdout, p, at(0)))
			}
			b.SetBytes(int64(50 * len(p)))
			for b.Loop() {
				rd, err := l.s.Read(b.Context(), l.c, all, nil)
				must(b, err)
				for err == nil {
					_, err = rd.Next()
				}
				must(b, rd.Close())
			}
		})
	}
}

func BenchmarkTail10(b *testing.B) {
	l := open(b, container("json-file"))
	p := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 600))
	for range 50 {
		must(b, l.w.Write(logfile.Stdout, p, at(0)))
	}
	r := all
	r.Tail = 10
	for b.Loop() {
		rd, err := l.s.Read(b.Context(), l.c, r, nil)
		must(b, err)
		for err == nil {
			_, err = rd.Next()
		}
		must(b, rd.Close())
	}
}
