package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"hull/api"
)

// answers is a connection on which the engine has already answered.
type answers struct {
	net.Conn
	r io.Reader
	w bytes.Buffer
}

func (a *answers) Read(b []byte) (int, error)  { return a.r.Read(b) }
func (a *answers) Write(b []byte) (int, error) { return a.w.Write(b) }

func answer(s string) (*Conn, *answers) {
	a := &answers{r: strings.NewReader(s)}
	return New(a), a
}

func TestDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		status int
		body   string
		bad    bool
	}{
		"length":           {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello"},
		"chunks":           {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n", status: 200, body: "hello"},
		"until the end":    {answer: "HTTP/1.1 200 OK\r\n\r\nhello", status: 200, body: "hello"},
		"no content":       {answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204},
		"not modified":     {answer: "HTTP/1.1 304 Not Modified\r\n\r\n", status: 304},
		"continue":         {answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length:1\r\n\r\nx", status: 201, body: "x"},
		"bare line feeds":  {answer: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", status: 200, body: "ok"},
		"cut body":         {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", bad: true},
		"cut chunk":        {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", bad: true},
		"no last chunk":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", bad: true},
		"bad chunk size":   {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", bad: true},
		"negative chunk":   {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx", bad: true},
		"bad chunk end":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n", bad: true},
		"nothing":          {answer: "", bad: true},
		"cut header":       {answer: "HTTP/1.1 200 OK\r\nContent-Le", bad: true},
		"not HTTP":         {answer: "SSH-2.0-x\r\n\r\n", bad: true},
		"bad status":       {answer: "HTTP/1.1 2x0 OK\r\n\r\n", bad: true},
		"bad header":       {answer: "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", bad: true},
		"negative length":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", bad: true},
		"endless header":   {answer: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 1<<20), bad: true},
		"many headers":     {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 1<<16), bad: true},
		"endless trailers": {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 1<<16), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, _ := answer(c.answer)
			r, body, err := conn.Do("GET", "/x", nil)
			if (err != nil) != c.bad {
				t.Fatalf("error %v, want one: %v", err, c.bad)
			}
			if err == nil && (r.Status != c.status || string(body) != c.body) {
				t.Errorf("%d %q, want %d %q", r.Status, body, c.status, c.body)
			}
		})
	}
}

// What is sent is what net/http understands.
func TestSend(t *testing.T) {
	t.Parallel()
	conn, a := answer("")
	if err := conn.Send("POST", "/v1.55/a?b=c", []byte(`{"x":1}`), true); err != nil {
		t.Fatal(err)
	}
	if err := conn.Send("GET", "/d", nil, false); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(&a.w)
	first, err := http.ReadRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(first.Body)
	if err != nil {
		t.Fatal(err)
	}
	if first.Method != "POST" || first.URL.String() != "/v1.55/a?b=c" || string(body) != `{"x":1}` || first.Header.Get("Upgrade") != "tcp" || first.Header.Get(api.BufferedHeader) != "1" || first.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%+v %s", first, body)
	}
	second, err := http.ReadRequest(r)
	if err != nil || second.Method != "GET" || second.URL.Path != "/d" || second.ContentLength != 0 {
		t.Errorf("%+v %v", second, err)
	}
}

// The raw stream begins with what came together with the answer.
func TestStreamAfterUpgrade(t *testing.T) {
	t.Parallel()
	conn, _ := answer("HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nraw bytes")
	r, err := conn.Receive()
	if err != nil || r.Status != 101 {
		t.Fatal(r, err)
	}
	if b, err := io.ReadAll(conn); err != nil || string(b) != "raw bytes" {
		t.Errorf("%q %v", b, err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const json = "Content-Type: application/json\r\n"
	for name, c := range map[string]struct{ header, body, want string }{
		"message":        {json, `{"message":" no such container: x\n"}`, "Error response from daemon: no such container: x"},
		"empty message":  {json, `{}`, "Error response from daemon: API returned a 404 (Not Found) but provided no error-message"},
		"plain text":     {"", "page not found\n", "Error response from daemon: page not found"},
		"nothing":        {"", "", "request returned 404 Not Found for API route and version /x, check if the server supports the requested API version"},
		"malformed JSON": {json, "{", `malformed answer of the engine: error "{"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, _ := answer("HTTP/1.1 404 Not Found\r\n" + c.header + "\r\n" + c.body)
			r, err := conn.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Check("/x"); err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
	conn, _ := answer("HTTP/1.1 409 Conflict\r\n" + json + "\r\n" + `{"message":"x"}`)
	r, err := conn.Receive()
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if !errors.As(r.Check("/x"), &e) || e.Status != 409 {
		t.Errorf("%+v", e)
	}
}

// Whatever net/http reads without error, this reads alike; nothing makes it panic
// or read without end.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{\"message\":\"x\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := New(&answers{r: bytes.NewReader(b)})
		r, body, err := conn.Do("GET", "/", nil)
		std, stdErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil || stdErr != nil || std.StatusCode == 100 {
			return
		}
		want, stdErr := io.ReadAll(std.Body)
		if stdErr == nil && (r.Status != std.StatusCode || !bytes.Equal(body, want)) {
			t.Errorf("%d %q, net/http: %d %q", r.Status, body, std.StatusCode, want)
		}
	})
}
