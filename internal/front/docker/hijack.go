package docker

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/moby/moby/api/types"
)

// stream is a client's connection, taken over from net/http. hulld keeps it only
// until the monitor has its own descriptor:
//
//	client -- POST .../attach, Upgrade: tcp --> hulld
//	client <-- 101 UPGRADED ------------------- hulld
//	                       hulld -- descriptor --> monitor
//	client <========= stdin, stdout, stderr =====> monitor
type stream struct {
	conn    net.Conn
	prelude []byte // what the client sent before the switch
	header  []byte // the answer that is still owed
}

// hijack takes the connection over and answers as moby does: 101 to clients
// that ask for an upgrade, 200 to old ones.
func hijack(w http.ResponseWriter, r *http.Request, mux bool) (*stream, error) {
	s, err := takeOver(w, r, mux)
	if err != nil {
		return nil, err
	}
	if err := s.answer(); err != nil {
		return nil, closeWith(s.conn, err)
	}
	return s, nil
}

// takeOver takes the connection over; answer is still to be called.
func takeOver(w http.ResponseWriter, r *http.Request, mux bool) (*stream, error) {
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20)); err != nil {
		return nil, fmt.Errorf("read request body: %w", err)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over connection: %w", err)
	}
	s := &stream{conn: conn, header: switchHeader(r, w.Header(), mux)}
	if n := rw.Reader.Buffered(); n > 0 {
		s.prelude = make([]byte, n)
		if _, err := io.ReadFull(rw.Reader, s.prelude); err != nil {
			return nil, closeWith(conn, fmt.Errorf("read ahead: %w", err))
		}
	}
	return s, nil
}

// answer ends HTTP on the connection; the second time it does nothing.
func (s *stream) answer() error {
	header := s.header
	s.header = nil
	if len(header) == 0 {
		return nil
	}
	if _, err := s.conn.Write(header); err != nil {
		return fmt.Errorf("switch protocols: %w", err)
	}
	return nil
}

func closeWith(c io.Closer, err error) error {
	_ = c.Close()
	return err
}

// switchHeader is the response that ends HTTP on the connection.
func switchHeader(r *http.Request, h http.Header, mux bool) []byte {
	var b bytes.Buffer
	contentType := types.MediaTypeRawStream
	if mux && versionOf(r) >= 42 {
		contentType = types.MediaTypeMultiplexedStream
	}
	if r.Header.Get("Upgrade") != "" {
		b.WriteString("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n")
	} else {
		contentType = types.MediaTypeRawStream
		b.WriteString("HTTP/1.1 200 OK\r\n")
	}
	b.WriteString("Content-Type: " + contentType + "\r\n")
	_ = h.Write(&b) // to memory
	b.WriteString("\r\n")
	return b.Bytes()
}

// file is a descriptor of the connection for another process. A connection that
// is not a plain socket (TLS, websocket) gets a socket pair with a copying
// goroutine at our end, which lives as long as the two ends do.
func (s *stream) file() (*os.File, error) {
	switch c := s.conn.(type) {
	case *net.UnixConn:
		return c.File() //nolint:wrapcheck // says what and where
	case *net.TCPConn:
		return c.File() //nolint:wrapcheck // says what and where
	}
	if err := s.answer(); err != nil { // the bridge has the connection from here on
		return nil, err
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	go bridge(s.conn, ours, s.prelude)
	s.conn, s.prelude = nil, nil
	return theirs, nil
}

func (s *stream) close() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "stream")
	theirs := os.NewFile(uintptr(fds[1]), "stream")
	conn, err := net.FileConn(mine) // a duplicate
	_ = mine.Close()
	if err != nil {
		return nil, nil, closeWith(theirs, fmt.Errorf("use socket pair: %w", err))
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		_ = theirs.Close()
		return nil, nil, closeWith(conn, fmt.Errorf("use socket pair: %T", conn))
	}
	return unix, theirs, nil
}

type closeWriter interface{ CloseWrite() error }

// bridge copies both ways; the end of one direction half-closes the other side,
// and the end of the output ends all.
func bridge(client net.Conn, monitor *net.UnixConn, prelude []byte) {
	go func() {
		_, err := monitor.Write(prelude)
		if err == nil {
			_, _ = io.Copy(monitor, client)
		}
		_ = monitor.CloseWrite()
	}()
	_, _ = io.Copy(client, monitor)
	if c, ok := client.(closeWriter); ok {
		_ = c.CloseWrite()
	}
	_ = client.Close()
	_ = monitor.Close()
}
