// Package wire is a small HTTP/1.1 client for an engine's unix socket. It exists
// because a command that takes two milliseconds in all cannot afford net/http:
// requests are written as one buffer, connections are the caller's (so several
// requests can be under way at once), and a 101 leaves the raw stream.
package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"hull/api"
)

const (
	bufSize   = 32 << 10
	maxHeader = 64 << 10 // bytes of status line and headers
	maxError  = 1 << 20  // bytes of an error body, as docker's client
)

// ErrProtocol is the kind of every malformed answer.
var ErrProtocol = errors.New("malformed answer of the engine")

// Conn is one connection; one request at a time.
type Conn struct {
	net.Conn
	// Minimal asks for answers with no more in them than a table shows ("Prefer:
	// return=minimal", RFC 7240); engines that do not know it send all.
	Minimal bool
	// Start is sent with requests for an upgrade: see api.StartHeader.
	Start bool
	r     *bufio.Reader
}

// Response is an answer without its body's bytes.
type Response struct {
	Status int    // 200
	Reason string // "OK"
	JSON   bool   // Content-Type is application/json
	Exec   string // api.ExecHeader
	// Container is api.ContainerHeader.
	Container string
	// Body must be read to its end before the next request on the connection. It
	// is empty, not nil, when there is none.
	Body io.Reader
}

// Dial connects to the unix socket at path.
func Dial(path string) (*Conn, error) {
	c, err := net.Dial("unix", path) //nolint:noctx // connecting to a unix socket does not block
	if err != nil {
		return nil, err
	}
	return New(c), nil
}

// New wraps an open connection.
func New(c net.Conn) *Conn {
	return &Conn{Conn: c, r: bufio.NewReaderSize(c, bufSize)}
}

// Send writes one request. body nil = none, else JSON. upgrade asks for the raw
// stream.
func (c *Conn) Send(method, target string, body []byte, upgrade bool) error {
	b := make([]byte, 0, 256+len(target)+len(body))
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: hull\r\nUser-Agent: hull\r\n"...)
	if upgrade {
		b = append(b, "Connection: Upgrade\r\nUpgrade: tcp\r\n"+api.BufferedHeader+": 1\r\n"...)
		if c.Start {
			b = append(b, api.StartHeader+": 1\r\n"...)
		}
	}
	if body != nil {
		b = append(b, "Content-Type: application/json\r\n"...)
	}
	if c.Minimal {
		b = append(b, "Prefer: return=minimal\r\n"...)
	}
	if body != nil || method != "GET" {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	b = append(b, body...)
	_, err := c.Write(b)
	return err
}

// Receive reads an answer's status and headers.
func (c *Conn) Receive() (*Response, error) {
	for {
		r, err := c.receive()
		if err != nil || r.Status != 100 {
			return r, err
		}
	}
}

func (c *Conn) receive() (*Response, error) {
	budget := maxHeader
	line, err := c.line(&budget)
	if err != nil {
		return nil, err
	}
	r := &Response{}
	proto, rest, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	r.Status, err = strconv.Atoi(code)
	if err != nil || len(code) != 3 || r.Status < 100 || !strings.HasPrefix(proto, "HTTP/1.") {
		return nil, fmt.Errorf("%w: status line %q", ErrProtocol, line)
	}
	r.Reason = reason
	length, chunked := int64(-1), false
	for {
		line, err := c.line(&budget)
		if err != nil {
			return nil, noEOF(err)
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%w: header %q", ErrProtocol, line)
		}
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "content-length"):
			if length, err = strconv.ParseInt(value, 10, 64); err != nil || length < 0 {
				return nil, fmt.Errorf("%w: content length %q", ErrProtocol, value)
			}
		case strings.EqualFold(name, "transfer-encoding"):
			chunked = strings.EqualFold(value, "chunked")
		case strings.EqualFold(name, "content-type"):
			r.JSON = value == "application/json" || strings.HasPrefix(value, "application/json;")
		case strings.EqualFold(name, api.ExecHeader):
			r.Exec = value
		case strings.EqualFold(name, api.ContainerHeader):
			r.Container = value
		}
	}
	switch {
	case r.Status < 200, r.Status == 204, r.Status == 304:
		r.Body = strings.NewReader("")
	case chunked:
		r.Body = &chunks{c: c, budget: maxHeader}
	case length >= 0:
		r.Body = &exactly{r: c.r, n: length}
	default:
		r.Body = c.r // until the engine closes
	}
	return r, nil
}

// line reads one line without its end; budget is what is left of the header.
func (c *Conn) line(budget *int) (string, error) {
	var long []byte
	for {
		b, err := c.r.ReadSlice('\n')
		if *budget -= len(b); *budget < 0 {
			return "", fmt.Errorf("%w: header of more than %d bytes", ErrProtocol, maxHeader)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, b...)
			continue
		}
		if err != nil {
			if len(b)+len(long) > 0 {
				err = noEOF(err)
			}
			return "", err
		}
		return strings.TrimRight(string(append(long, b...)), "\r\n"), nil
	}
}

// Read reads the raw stream of a connection that was upgraded, what came with the
// answer included.
func (c *Conn) Read(b []byte) (int, error) { return c.r.Read(b) }

// CloseWrite tells the far end that nothing more comes.
func (c *Conn) CloseWrite() error {
	if u, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return u.CloseWrite()
	}
	return nil
}

// Do sends a request and reads the whole answer.
func (c *Conn) Do(method, target string, body []byte) (*Response, []byte, error) {
	if err := c.Send(method, target, body, false); err != nil {
		return nil, nil, err
	}
	return c.Answer()
}

// Answer reads the whole answer to what was sent.
func (c *Conn) Answer() (*Response, []byte, error) {
	r, err := c.Receive()
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(r.Body)
	return r, b, err
}

// Error is what the engine said instead of an answer.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return "Error response from daemon: " + e.Message }

// Check returns an *Error unless r succeeded; it reads the body then. target is
// for an answer without a message.
func (r *Response) Check(target string) error {
	if r.Status < 400 {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxError))
	if err != nil {
		return err
	}
	return Failure(r, b, target)
}

// Failure is the *Error of an answer whose body was read.
func Failure(r *Response, body []byte, target string) error {
	e := &Error{Status: r.Status, Message: strings.TrimSpace(string(body))}
	var m struct {
		Message string `json:"message"`
	}
	switch {
	case e.Message == "":
		return fmt.Errorf("request returned %d %s for API route and version %s, check if the server supports the requested API version", r.Status, r.Reason, target)
	case !r.JSON:
	case json.Unmarshal(body, &m) != nil:
		return fmt.Errorf("%w: error %q", ErrProtocol, e.Message)
	case m.Message == "":
		e.Message = fmt.Sprintf("API returned a %d (%s) but provided no error-message", r.Status, r.Reason)
	default:
		e.Message = strings.TrimSpace(m.Message)
	}
	return e
}

// exactly reads a body of known length; less is an error.
type exactly struct {
	r io.Reader
	n int64
}

func (e *exactly) Read(b []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > e.n {
		b = b[:e.n]
	}
	n, err := e.r.Read(b)
	e.n -= int64(n)
	if e.n > 0 {
		err = noEOF(err)
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// chunks reads a chunked body.
type chunks struct {
	c      *Conn
	left   int64
	begun  bool
	done   bool
	budget int // for trailers
}

func (k *chunks) Read(b []byte) (int, error) {
	if k.left == 0 && !k.done {
		if err := k.next(); err != nil {
			return 0, noEOF(err)
		}
	}
	if k.done {
		return 0, io.EOF
	}
	if int64(len(b)) > k.left {
		b = b[:k.left]
	}
	n, err := k.c.r.Read(b)
	k.left -= int64(n)
	return n, noEOF(err)
}

// next reads the line before a chunk, and the end of the one before it.
func (k *chunks) next() error {
	budget := 4 << 10
	if k.begun {
		s, err := k.c.line(&budget)
		if err != nil {
			return err
		}
		if s != "" {
			return fmt.Errorf("%w: chunk end %q", ErrProtocol, s)
		}
	}
	k.begun = true
	s, err := k.c.line(&budget)
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(s, ";")
	k.left, err = strconv.ParseInt(strings.TrimSpace(size), 16, 63)
	if err != nil || k.left < 0 {
		return fmt.Errorf("%w: chunk size %q", ErrProtocol, size)
	}
	if k.left > 0 {
		return nil
	}
	k.done = true
	for { // trailers
		s, err := k.c.line(&k.budget)
		if err != nil || s == "" {
			return err
		}
	}
}

// noEOF makes an early end an error that no reader takes for a good one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
