package build

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/moby/buildkit/util/grpcerrors"
)

// maxMessage bounds a message of the control API: build definitions are large.
const maxMessage = 64 << 20

// serve answers BuildKit's control API on connections that are handed over.
func (k *kit) serve() {
	k.server = grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor, k.works),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
	)
	k.controller.Register(k.server)
	healthpb.RegisterHealthServer(k.server, health.NewServer())
	go k.server.Serve(k.conns) //nolint:errcheck // ends with Stop
}

// works says to the image service that a build is under way.
func (k *kit) works(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
	if info.FullMethod == controlapi.Control_Solve_FullMethodName {
		done, idle := k.shop.Work(), k.busy()
		defer func() {
			idle()
			err = errors.Join(err, done())
			k.ended(context.WithoutCancel(ctx))
		}()
	}
	return handler(ctx, req)
}

// Serve answers the control API on conn, and returns at once.
func (s *Service) Serve(ctx context.Context, conn net.Conn) error {
	k, err := s.open(ctx)
	if err != nil {
		return err
	}
	return k.conns.give(conn)
}

// Ready opens BuildKit, so that what follows cannot fail for it.
func (s *Service) Ready(ctx context.Context) error {
	_, err := s.open(ctx)
	return err
}

// ServeGRPC answers one call of the control API.
func (s *Service) ServeGRPC(w http.ResponseWriter, r *http.Request) {
	k, err := s.open(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	k.server.ServeHTTP(w, r)
}

// Session takes a client's connection over and serves its session, through which
// a build reaches the client's files, secrets and credentials, until either ends.
func (s *Service) Session(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	k, err := s.open(ctx)
	if err != nil {
		return err
	}
	switch proto := r.Header.Get("Upgrade"); proto {
	case "h2c":
	case "":
		return errdefs.ErrInvalidArgument.WithMessage("no upgrade proto in request: a build session needs one to h2c")
	default:
		return errdefs.ErrInvalidArgument.WithMessage("protocol " + strconv.Quote(proto) + " not supported: a build session needs h2c")
	}
	return k.sessions.HandleHTTPRequest(ctx, w, r)
}

// dial is a connection to the control API from within.
func (k *kit) dial(context.Context, string) (net.Conn, error) {
	near, far := net.Pipe()
	return near, k.conns.give(far)
}

// connListener is a net.Listener of connections that came another way.
type connListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newConnListener() *connListener {
	return &connListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *connListener) give(c net.Conn) error {
	select {
	case l.conns <- c:
		return nil
	case <-l.done:
		return errors.Join(errClosed, c.Close())
	}
}

// Accept implements net.Listener.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *connListener) Addr() net.Addr { return &net.UnixAddr{Name: "build", Net: "unix"} }
