package logfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hull/internal/hull"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, f func(*hull.LogTarget)) (Writer, string) {
	t.Helper()
	target := hull.LogTarget{Driver: JSONFile, Path: filepath.Join(t.TempDir(), "log")}
	if f != nil {
		f(&target)
	}
	w, err := Open(target)
	must(t, err)
	return w, target.Path
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func TestDockersBytes(t *testing.T) {
	t.Parallel()
	w, path := open(t, func(h *hull.LogTarget) { h.Attrs = map[string]string{"tag": "a<b", "env": "é"} })
	must(t, w.Write(Stdout, []byte("a \"b\" \\ \t\r<&>\x00é\xff\u2028\n\nhalf"), now))
	must(t, w.Write(Stderr, []byte("err\n"), now))
	must(t, w.Write(Stdout, []byte(" line\n"), now.Add(time.Second)))
	must(t, w.Write(Stdout, []byte("no end"), now))
	must(t, w.Close())
	attrs := `"attrs":{"env":"é","tag":"a\u003cb"},"time":"2026-01-02T03:04:05.0000006Z"}` + "\n"
	want := `{"log":"a \"b\" \\ \u0009\r\u003c\u0026\u003e\u0000é\ufffd\u2028\n","stream":"stdout",` + attrs +
		`{"log":"\n","stream":"stdout",` + attrs +
		`{"log":"err\n","stream":"stderr",` + attrs +
		`{"log":"half line\n","stream":"stdout",` + strings.Replace(attrs, ":05.", ":06.", 1)
	got := content(t, path)
	if !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if rest := strings.TrimPrefix(got, want); !strings.HasPrefix(rest, `{"log":"no end","stream":"stdout",`) {
		t.Errorf("unfinished line: %s", rest)
	}
}

// TestEscapeIsJSON holds the escaper to encoding/json on everything that can go
// wrong at the borders of its eight-byte steps.
func TestEscapeIsJSON(t *testing.T) {
	t.Parallel()
	for b := range 256 {
		for _, at := range []int{0, 1, 7, 8, 9, 15, 16, 20} {
			s := []byte(strings.Repeat("x", 21))
			s[at] = byte(b)
			checkEscape(t, s)
		}
	}
}

func checkEscape(t *testing.T, s []byte) {
	t.Helper()
	got := append(appendEscaped([]byte{'"'}, s), '"')
	var back string
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatalf("%q became %s: %v", s, got, err)
	}
	if bytes.ContainsAny(got, "<>&") {
		t.Fatalf("%q became %s", s, got)
	}
	want, err := json.Marshal(string(s))
	must(t, err)
	var wantBack string
	must(t, json.Unmarshal(want, &wantBack))
	if back != wantBack {
		t.Fatalf("%q became %q, want %q", s, back, wantBack)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("<&>\"\\\x00\x7f\x80\xc3\xa9\xe2\x80\xa8\xf0\x9f\x98\x80\xed\xa0\x80"))
	f.Fuzz(checkEscape)
}

// FuzzSplit: no byte is lost or made, however the output is cut into chunks.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 2)
	f.Add(bytes.Repeat([]byte("x"), 2*MaxLine+5), 1000)
	f.Fuzz(func(t *testing.T, p []byte, step int) {
		var s splitter
		var got []byte
		whole := append([]byte(nil), p...)
		for len(p) > 0 {
			chunk := p[:min(len(p), max(1, step))]
			p = p[len(chunk):]
			for {
				line, n, last, ok := s.next(chunk)
				chunk = chunk[n:]
				if !ok {
					break
				}
				if len(line) > MaxLine || bytes.IndexByte(line, '\n') >= 0 {
					t.Fatal("bad line")
				}
				got = append(got, line...)
				if last {
					got = append(got, '\n')
				}
			}
		}
		if got = append(got, s.end()...); !bytes.Equal(got, whole) {
			t.Fatalf("%q became %q", whole, got)
		}
	})
}

func TestPartsOfALine(t *testing.T) {
	t.Parallel()
	w, path := open(t, nil)
	line := strings.Repeat("x", 2*MaxLine+10)
	must(t, w.Write(Stdout, []byte(line[:100]), now))
	must(t, w.Write(Stdout, []byte(line[100:MaxLine+1]), now.Add(1*time.Second)))
	must(t, w.Write(Stdout, []byte(line[MaxLine+1:]+"\nnext\n"), now.Add(2*time.Second)))
	must(t, w.Close())
	var sizes []string
	for rec := range strings.Lines(content(t, path)) {
		var r struct {
			Log  string
			Time time.Time
		}
		must(t, json.Unmarshal([]byte(rec), &r))
		sizes = append(sizes, fmt.Sprint(len(r.Log), " ", strings.HasSuffix(r.Log, "\n"), " ", r.Time.Second()))
	}
	if got := strings.Join(sizes, ", "); got != "16384 false 6, 16384 false 6, 11 true 6, 5 true 7" {
		t.Error(got)
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	w, path := open(t, func(h *hull.LogTarget) { h.MaxSize, h.MaxFiles, h.Compress = 1000, 3, true })
	f, ok := w.(*fileWriter)
	if !ok {
		t.Fatal("not a file writer")
	}
	for i := range 30 {
		must(t, w.Write(Stdout, fmt.Appendf(nil, "line %d\n", i), now))
	}
	older, newer := content(t, path+".2"), content(t, path+".1")
	f.gz.run()
	for p, want := range map[string]string{path + ".2": older, path + ".1": newer} {
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			t.Error(p, "is still there:", err)
		}
		if gunzip(t, p+".gz") != want {
			t.Error(p, "changed")
		}
	}
	// The next rotations shift compressed files too, and never leave both forms.
	for i := range 20 {
		must(t, w.Write(Stdout, fmt.Appendf(nil, "more %d\n", i), now))
	}
	must(t, w.Close())
	files, err := filepath.Glob(path + "*")
	must(t, err)
	if len(files) != 3 {
		t.Error(files)
	}
	// A rotation makes a running compression give up.
	f.gz.abort()
	if _, err := f.gz.file(path, f.gz.gen.Load()-1); !errors.Is(err, errAborted) {
		t.Error(err)
	}
	if _, err := os.Stat(path + ".gz.tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Error("left behind:", err)
	}
}

func gunzip(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	b, err := io.ReadAll(z)
	must(t, err)
	return string(b)
}

func TestOneFile(t *testing.T) {
	t.Parallel()
	w, path := open(t, func(h *hull.LogTarget) { h.MaxSize, h.MaxFiles = 500, 1 })
	for i := range 50 {
		must(t, w.Write(Stdout, fmt.Appendf(nil, "line %d\n", i), now))
	}
	must(t, w.Close())
	files, err := filepath.Glob(path + "*")
	must(t, err)
	got := content(t, path)
	if len(files) != 1 || len(got) > 500 || !strings.Contains(got, "line 49") {
		t.Error(files, got)
	}
}

// TestFullDisk writes through a limit on the size of files, which fails as a full
// disk does: first a part, then nothing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w, path := open(t, nil)
	f, ok := w.(*fileWriter)
	if !ok {
		t.Fatal("not a file writer")
	}
	must(t, w.Write(Stdout, []byte("before\n"), now))
	real := f.f
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	f.f = full
	if err := w.Write(Stdout, []byte("lost 1\n"), now); !errors.Is(err, syscall.ENOSPC) {
		t.Error("want ENOSPC, got", err)
	}
	if err := w.Write(Stdout, []byte("lost 2\n"), now); err != nil {
		t.Error("told twice:", err)
	}
	f.f = real
	must(t, full.Close())
	must(t, w.Write(Stdout, []byte("after\n"), now))
	must(t, w.Close())
	var logs []string
	for rec := range strings.Lines(content(t, path)) {
		var r struct{ Log, Stream string }
		must(t, json.Unmarshal([]byte(rec), &r))
		logs = append(logs, r.Stream+": "+r.Log)
	}
	if len(logs) != 3 || !strings.HasPrefix(logs[1], "stderr: hull: about ") ||
		!strings.HasSuffix(logs[1], "no space left on device\n") || logs[2] != "stdout: after\n" {
		t.Errorf("%q", logs)
	}
}

func TestTornRecordsAreRepaired(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{JSONFile, Local} {
		w, path := open(t, func(h *hull.LogTarget) { h.Driver = driver })
		must(t, w.Write(Stdout, []byte("one\n"), now))
		one := content(t, path)
		must(t, w.Write(Stdout, []byte("two\n"), now))
		must(t, w.Close())
		for cut := len(one) + 1; cut < len(content(t, path)); cut++ {
			p := path + ".cut"
			must(t, os.WriteFile(p, []byte(content(t, path)[:cut]), 0o600))
			w, err := Open(hull.LogTarget{Driver: driver, Path: p})
			must(t, err)
			must(t, w.Write(Stdout, []byte("one\n"), now))
			must(t, w.Close())
			got := content(t, p)
			if !strings.HasPrefix(got, one) || !strings.HasSuffix(got, one) || driver == Local && got != one+one {
				t.Fatalf("%s cut at %d: %q", driver, cut, got)
			}
			if driver == JSONFile && strings.Count(got, "\n") != 3 {
				t.Fatalf("cut at %d: %q", cut, got)
			}
		}
	}
}

func TestLocalFormat(t *testing.T) {
	t.Parallel()
	w, path := open(t, func(h *hull.LogTarget) { h.Driver = Local })
	must(t, w.Write(Stderr, []byte("hi\n"), time.Unix(0, 300)))
	must(t, w.Close())
	if got := content(t, path); got != "\x00\x00\x00\x0f\x0a\x06stderr\x10\xac\x02\x1a\x02hi\x00\x00\x00\x0f" {
		t.Errorf("%q", got)
	}
}

func TestBothStreamsAtOnce(t *testing.T) {
	t.Parallel()
	w, path := open(t, nil)
	var wg sync.WaitGroup
	for _, s := range []Stream{Stdout, Stderr} {
		wg.Go(func() {
			for range 500 {
				must(t, w.Write(s, []byte(s.String()+" one\n"+s.String()+" tw"), now))
				must(t, w.Write(s, []byte("o\n"), now))
			}
		})
	}
	wg.Wait()
	must(t, w.Close())
	n := map[string]int{}
	for rec := range strings.Lines(content(t, path)) {
		var r struct{ Log, Stream string }
		must(t, json.Unmarshal([]byte(rec), &r))
		if !strings.HasPrefix(r.Log, r.Stream) {
			t.Fatal(rec)
		}
		n[r.Log]++
	}
	if len(n) != 4 || n["stdout one\n"] != 500 || n["stderr two\n"] != 500 {
		t.Error(n)
	}
}

func listen(t *testing.T, network string) (string, func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	c, err := net.ListenPacket(network, map[string]string{"unixgram": path, "udp": "127.0.0.1:0"}[network])
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c.LocalAddr().String(), func() string {
		b := make([]byte, 64<<10)
		must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		n, _, err := c.ReadFrom(b)
		must(t, err)
		return string(b[:n])
	}
}

func TestJournald(t *testing.T) {
	t.Parallel()
	address, next := listen(t, "unixgram")
	w, path := open(t, func(h *hull.LogTarget) {
		h.Driver, h.ContainerID, h.ContainerName = Journald, "0123456789abcdef", "web"
		h.Options = map[string]string{OptAddress: address, OptTag: "tag\nPRIORITY=0"}
		h.Attrs = map[string]string{"com.example/x": "1", "_COMM": "fake"}
	})
	must(t, w.Write(Stderr, []byte("oops\n"), now))
	tag := "\n" + string(binary.LittleEndian.AppendUint64(nil, 14)) + "tag\nPRIORITY=0\n"
	want := "PRIORITY=3\nCONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\n" +
		"CONTAINER_TAG" + tag + "IMAGE_NAME=\nSYSLOG_IDENTIFIER" + tag + "COMM=fake\nCOM_EXAMPLE_X=1\n" +
		"SYSLOG_TIMESTAMP=2026-01-02T03:04:05.0000006Z\nMESSAGE=oops\n"
	if got := next(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	must(t, w.Close())
	if !strings.Contains(content(t, path), "oops") {
		t.Error("no copy to read back")
	}
}

func TestSyslog(t *testing.T) {
	t.Parallel()
	address, next := listen(t, "udp")
	for style, want := range map[string]string{
		"":             "<139>Jan  2 03:04:05 host tag_x[PID]: oops\n",
		"rfc3164":      "<139>Jan  2 03:04:05 host tag_x[PID]: oops\n",
		"rfc5424":      "<139>1 2026-01-02T03:04:05Z host tag_x PID tag_x - oops\n",
		"rfc5424micro": "<139>1 2026-01-02T03:04:05.000000Z host tag_x PID tag_x - oops\n",
	} {
		w, _ := open(t, func(h *hull.LogTarget) {
			h.Driver, h.Path = Syslog, ""
			h.Options = map[string]string{
				OptNetwork: "udp", OptAddress: address, OptFacility: "17", OptFormat: style, OptTag: "tag x", OptHostname: "host",
			}
		})
		must(t, w.Write(Stderr, []byte("oops\n"), now))
		if got := next(); got != strings.ReplaceAll(want, "PID", fmt.Sprint(os.Getpid())) {
			t.Errorf("%s: %q", style, got)
		}
		must(t, w.Close())
	}
}

func TestLogServiceGoneAndBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	w, _ := open(t, func(h *hull.LogTarget) {
		h.Driver, h.Path = Journald, ""
		h.Options = map[string]string{OptAddress: path}
	})
	if err := w.Write(Stdout, []byte("a\nb\n"), now); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
	if err := w.Write(Stdout, []byte("c\n"), now); err != nil {
		t.Error("told twice:", err)
	}
	c, err := net.ListenPacket("unixgram", path)
	must(t, err)
	defer c.Close()
	r, ok := w.(*remote)
	if !ok {
		t.Fatal("not a remote")
	}
	r.retry = time.Time{}
	must(t, w.Write(Stdout, []byte("d\n"), now))
	b := make([]byte, 4096)
	for _, want := range []string{"MESSAGE=hull: 3 lines of log were lost\n", "MESSAGE=d\n"} {
		n, _, err := c.ReadFrom(b)
		must(t, err)
		if !strings.HasSuffix(string(b[:n]), want) {
			t.Errorf("%q", b[:n])
		}
	}
	must(t, w.Close())
}

func TestOthers(t *testing.T) {
	t.Parallel()
	w, err := Open(hull.LogTarget{Driver: None})
	must(t, err)
	must(t, errors.Join(w.Write(Stdout, []byte("x"), now), w.Close()))
	if _, err := Open(hull.LogTarget{Driver: "gelf"}); err == nil {
		t.Error("gelf was opened")
	}
}
