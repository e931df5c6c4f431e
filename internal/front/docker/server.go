package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config is the front door's own configuration.
type Config struct {
	// Version of hull, as /version and the Server header show it.
	Version, GitCommit, BuildTime string
	// LogDriver is the engine's default log driver, shown by /info ("" = json-file).
	LogDriver string
	// CDIDirs are where devices are described, shown by /info.
	CDIDirs []string
	// MinAPI is the oldest API version to serve, "1.24" to "1.55" ("" = 1.40).
	MinAPI string
	// MaxBody bounds a JSON request body in bytes (0 = 8 MiB). Archives are not
	// bounded: they are streamed.
	MaxBody int64
}

// Parts are the services behind the door. Log gets one line for each internal
// error; everything else the client is told.
type Parts struct {
	Containers Containers
	Images     Images
	Volumes    Volumes
	Secrets    Secrets
	Files      VolumeFiles
	Networks   Networks
	Events     Events
	Builder    Builder // nil = this engine does not build
	Caches     []Cache
	Kernels    Kernels
	Space      Space // nil = images and build cache have no cap
	Log        *slog.Logger
}

// Server is the Docker Engine API over HTTP.
type Server struct {
	cfg   Config
	parts Parts
	mux   *http.ServeMux
	min   apiVersion
}

var _ http.Handler = (*Server)(nil)

// New builds the server. Nothing runs until Serve or ServeHTTP.
func New(cfg Config, p Parts) *Server {
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 8 << 20
	}
	if cfg.LogDriver == "" {
		cfg.LogDriver = "json-file"
	}
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	oldest := minVersion
	if cfg.MinAPI != "" {
		var err error
		if oldest, err = parseMin(cfg.MinAPI); err != nil {
			p.Log.Warn("the default is used", "error", err)
		}
	}
	cfg.MinAPI = oldest.String()
	s := &Server{cfg: cfg, parts: p, mux: http.NewServeMux(), min: oldest}
	s.routes()
	return s
}

// Serve answers on l until ctx is done, then lets requests in flight end for a
// moment and closes what is left (follows and waits would never end).
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	hs := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       10 * time.Minute,
		MaxHeaderBytes:    1 << 20,
		Protocols:         protocols(),
		ErrorLog:          slog.NewLogLogger(s.parts.Log.Handler(), slog.LevelDebug),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve docker API on %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if hs.Shutdown(quiet) != nil {
			return hs.Close()
		}
		return nil
	})
	return g.Wait()
}

// protocols are HTTP/1 and, for gRPC (buildctl), HTTP/2 without TLS on a socket.
func protocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// ServeHTTP takes the version prefix off the path, checks it, and routes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") && s.parts.Builder != nil {
		s.parts.Builder.ServeGRPC(w, r)
		return
	}
	h := w.Header()
	h["Server"] = []string{"Hull/" + s.cfg.Version + " (linux)"}
	h["Api-Version"] = []string{maxVersion.String()}
	h["Ostype"] = []string{"linux"}
	h["Docker-Experimental"] = []string{"false"}
	path, v, err := splitVersion(r.URL.Path, s.min)
	if err != nil {
		writeError(w, err)
		return
	}
	u := *r.URL
	u.Path = squeeze(path)
	u.RawPath = linkPath(r.Method, u.Path)
	r.URL = &u
	// Only the query counts as form: a body may be an archive that calls itself one.
	r.Form = r.URL.Query()
	r.SetPathValue(versionKey, v.String())
	s.mux.ServeHTTP(w, r)
}

// squeeze drops empty path segments: clients send /containers//name/json for a
// name with its leading slash, and ServeMux would answer with a redirect.
func squeeze(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// linkPath writes the slash in the name of a link, /containers/web/db/json, so that
// it is no separator; "" where the path names none.
func linkPath(method, path string) string {
	s := strings.Split(path, "/") // "", "containers", name, ...
	if len(s) < 4 || s[1] != "containers" {
		return ""
	}
	switch {
	case method == http.MethodDelete && len(s) == 4:
	case len(s) == 5 && s[3] != "attach" && s[3] != "checkpoints":
	default:
		return ""
	}
	name := url.PathEscape(s[2] + "/" + s[3])
	for i := 4; i < len(s); i++ {
		name += "/" + url.PathEscape(s[i])
	}
	return "/containers/" + name
}

// handler answers a request, or returns an error that becomes Docker's error
// body. After the first byte an error can only be logged.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) handle(pattern string, h handler) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rw := &response{ResponseWriter: w}
		err := h(rw, r)
		if err == nil {
			return
		}
		status := statusOf(err)
		if status >= http.StatusInternalServerError && r.Context().Err() == nil {
			s.parts.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
		}
		if !rw.began {
			writeError(rw, err)
		}
	})
}

// response remembers whether the header is out.
type response struct {
	http.ResponseWriter
	began bool
}

func (w *response) WriteHeader(status int) {
	w.began = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.began = true
	return w.ResponseWriter.Write(p) //nolint:wrapcheck // transparent
}

// Hijack takes the connection over; what happens on it is no longer HTTP.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.began = true
	return http.NewResponseController(w.ResponseWriter).Hijack() //nolint:wrapcheck // transparent
}

// Unwrap lets http.ResponseController reach Flush.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
