package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/common"
	"golang.org/x/sys/unix"

	"hull/api"
)

// stream is a client's connection, taken over from net/http. hulld keeps it only
// until the monitor has its own descriptor:
//
//	client -- POST .../attach, Upgrade: tcp --> hulld
//	client <-- 101 UPGRADED ------------------- hulld
//	                       hulld -- descriptor --> monitor
//	client <========= stdin, stdout, stderr =====> monitor
type stream struct {
	begin   func() (net.Conn, error) // switches protocols; nil once it has
	conn    net.Conn                 // set early where it is a socket to hand over
	prelude []byte                   // what the client sent before the switch
	pair    *net.UnixConn            // our end of a socket pair for a conn that cannot be handed over
	bridged bool                     // a copying goroutine has conn and pair
}

// hijack takes the connection over; answer switches protocols as moby does: 101
// for clients that ask for an upgrade, 200 for old ones.
func hijack(w http.ResponseWriter, r *http.Request, mux bool) (*stream, error) {
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20)); err != nil {
		return nil, fmt.Errorf("read request body: %w", err)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over connection: %w", err)
	}
	header := switchHeader(r, w.Header(), mux)
	buffered := r.Header.Get(api.BufferedHeader) == "1"
	s := &stream{conn: conn, begin: func() (net.Conn, error) {
		if _, err := conn.Write(header); err != nil {
			return nil, err //nolint:wrapcheck // answer says what
		}
		if !buffered {
			awaitRead(conn)
		}
		return conn, nil
	}}
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
	if s.begin == nil {
		return nil
	}
	conn, err := s.begin()
	if err != nil {
		return fmt.Errorf("switch protocols: %w", err)
	}
	s.begin, s.conn = nil, conn
	s.startBridge()
	return nil
}

func (s *stream) startBridge() {
	if s.pair != nil && s.begin == nil && !s.bridged {
		s.bridged = true
		go bridge(s.conn, s.pair)
	}
}

// fail tells the client of a hijacked connection: as a response while there was
// none, as output after that.
func (s *stream) fail(mux bool, stream string, err error) {
	if s.begin == nil {
		if !s.bridged {
			_, _ = frames{s.conn, mux}.write(stream, []byte(messageOf(err)+"\r\n")) // the client may be gone
		}
		return
	}
	var body bytes.Buffer
	_ = json.NewEncoder(&body).Encode(common.ErrorResponse{Message: messageOf(err)}) // to memory
	resp := http.Response{
		StatusCode: statusOf(err), ProtoMajor: 1, ProtoMinor: 1, Close: true, ContentLength: int64(body.Len()),
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(&body),
	}
	_ = resp.Write(s.conn) // the client may be gone
}

func closeWith(c io.Closer, err error) error {
	_ = c.Close()
	return err
}

// headerPatience bounds awaitRead; a client that waits for the response has read
// it long before.
const headerPatience = 50 * time.Millisecond

// awaitRead waits until the peer of a unix socket has read what was written.
// Clients that read the response through a buffer and then go on with the bare
// socket (docker-py) lose output that comes with the header in one read.
func awaitRead(conn net.Conn) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for end := time.Now().Add(headerPatience); time.Now().Before(end); time.Sleep(20 * time.Microsecond) {
		var unread int
		cerr := raw.Control(func(fd uintptr) {
			unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) //nolint:gosec // a descriptor
		})
		if cerr != nil || err != nil || unread == 0 {
			return
		}
	}
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
// goroutine at our end, from answer on and as long as the two ends live.
func (s *stream) file() (*os.File, error) {
	switch c := s.conn.(type) {
	case *net.UnixConn:
		return c.File() //nolint:wrapcheck // says what and where
	case *net.TCPConn:
		return c.File() //nolint:wrapcheck // says what and where
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	s.pair = ours
	s.startBridge()
	return theirs, nil
}

// close gives up our descriptors; the monitor has its own.
func (s *stream) close() {
	if s.bridged {
		return
	}
	if s.conn != nil {
		_ = s.conn.Close()
	}
	if s.pair != nil {
		_ = s.pair.Close()
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
func bridge(client net.Conn, monitor *net.UnixConn) {
	go func() {
		_, _ = io.Copy(monitor, client)
		_ = monitor.CloseWrite()
	}()
	_, _ = io.Copy(client, monitor)
	if c, ok := client.(closeWriter); ok {
		_ = c.CloseWrite()
	}
	_ = client.Close()
	_ = monitor.Close()
}
