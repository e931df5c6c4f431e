package docker

import (
	"fmt"
	"net/http"
)

// buildAPI is the builder's part of the API. The control API of BuildKit itself
// (/grpc, /session) is served on the client's connection by the builder.
type buildAPI struct{ builder Builder }

// grpc is POST /grpc: the connection becomes one of BuildKit's control API.
func (a *buildAPI) grpc(w http.ResponseWriter, r *http.Request) error {
	if proto := r.Header.Get("Upgrade"); proto != "h2c" {
		return invalid("protocol %q is not supported here: use h2c", proto)
	}
	if err := a.builder.Ready(r.Context()); err != nil {
		return err
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over connection: %w", err)
	}
	if n := rw.Reader.Buffered(); n > 0 {
		return closeWith(conn, invalid("the client sent %d bytes before the protocol was switched", n))
	}
	if _, err := conn.Write([]byte("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")); err != nil {
		return closeWith(conn, fmt.Errorf("switch protocols: %w", err))
	}
	return a.builder.Serve(r.Context(), conn)
}

// session is POST /session.
func (a *buildAPI) session(w http.ResponseWriter, r *http.Request) error {
	return a.builder.Session(r.Context(), w, r)
}
