package docker

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"

	"hull/internal/hull"
)

// buildAPI is the builder's part of the API. The control API of BuildKit itself
// (/grpc, /session) is served on the client's connection by the builder.
type buildAPI struct {
	builder Builder
	caches  []Cache
}

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

// build is POST /build, of both versions.
func (a *buildAPI) build(w http.ResponseWriter, r *http.Request) error {
	req, err := toBuildRequest(r.Form)
	if err != nil {
		return err
	}
	req.Auth = registryConfig(r)
	out := newProgressStream(w, r)
	quiet := boolQuery(r, "q")
	id, err := a.builder.Build(r.Context(), req, r.Body, func(e hull.BuildEvent) {
		if !quiet {
			out.send(toBuildLine(e))
		}
	})
	if quiet && err == nil {
		out.text(id + "\n")
	}
	return out.end(err)
}

func toBuildLine(e hull.BuildEvent) progressLine {
	var aux any
	l := progressLine{}
	switch {
	case e.Trace != nil:
		l.ID, aux = "moby.buildkit.trace", e.Trace
	case e.ImageID != "":
		aux = build.Result{ID: e.ImageID}
	default:
		l.Message = jsonstream.Message{Stream: e.Text}
		return l
	}
	if raw, err := json.Marshal(aux); err == nil {
		msg := json.RawMessage(raw)
		l.Aux = &msg
	}
	return l
}

// toBuildRequest reads the query of POST /build.
func toBuildRequest(q url.Values) (hull.BuildRequest, error) {
	b := hull.BuildRequest{
		ID: q.Get("buildid"), Session: q.Get("session"), Remote: q.Get("remote"), Dockerfile: q.Get("dockerfile"),
		Names: q["t"], Target: q.Get("target"), Platform: q.Get("platform"), Network: q.Get("networkmode"),
		ExtraHosts: q["extrahosts"], Cgroup: q.Get("cgroupparent"),
	}
	b.NoCache, b.Pull, b.Squash = truth(q.Get("nocache")), truth(q.Get("pull")), truth(q.Get("squash"))
	var err error
	if b.Isolation, err = hull.ParseIsolation(q.Get("isolation")); err != nil {
		return b, err
	}
	if q.Get("version") != "2" {
		b.Session = "" // the classic builder's context is in the body
	}
	if text := q.Get("shmsize"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return b, invalid("invalid shmsize %q", text)
		}
		b.ShmSize = n
	}
	var args map[string]*string
	for _, f := range []struct {
		key string
		to  any
	}{{"buildargs", &args}, {"labels", &b.Labels}, {"cachefrom", &b.CacheFrom}, {"ulimits", &b.Ulimits}} {
		if text := q.Get(f.key); text != "" && text != "null" {
			if err := json.Unmarshal([]byte(text), f.to); err != nil {
				return b, invalid("invalid %s: %v", f.key, err)
			}
		}
	}
	for k, v := range args {
		if v == nil {
			continue // the Dockerfile's own default
		}
		if b.Args == nil {
			b.Args = map[string]string{}
		}
		b.Args[k] = *v
	}
	return b, nil
}

// registryConfig decodes X-Registry-Config: credentials by registry. A malformed
// header counts as none, as with Docker.
func registryConfig(r *http.Request) map[string]hull.Auth {
	raw, err := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Config"))
	if err != nil || len(raw) == 0 {
		return nil
	}
	var all map[string]registry.AuthConfig
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	out := make(map[string]hull.Auth, len(all))
	for host, a := range all {
		out[host] = toAuth(a)
	}
	return out
}

// truth reads a flag as moby does.
func truth(text string) bool {
	return text != "" && text != "0" && text != "false" && text != "no" && text != "none"
}

// cancel is POST /build/cancel.
func (a *buildAPI) cancel(_ http.ResponseWriter, r *http.Request) error {
	id := r.Form.Get("id")
	if id == "" {
		return invalid("build ID not provided")
	}
	return a.builder.Cancel(r.Context(), id)
}

// prune is POST /build/prune.
func (a *buildAPI) prune(w http.ResponseWriter, r *http.Request) error {
	p := hull.BuildPrune{All: boolQuery(r, "all")}
	for _, f := range []struct {
		keys []string
		to   *int64
	}{{[]string{"reserved-space", "keep-storage"}, &p.Reserved}, {[]string{"max-used-space"}, &p.MaxUsed}, {[]string{"min-free-space"}, &p.MinFree}} {
		for _, k := range f.keys {
			text := r.Form.Get(k)
			if text == "" {
				continue
			}
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return invalid("%s is in bytes and expects an integer, got %v", k, text)
			}
			*f.to = n
			break
		}
	}
	known := []string{"until", "id", "parent", "type", "description", "inuse", "shared", "private", "unused-for"}
	fs, err := parseFilters(r.Form.Get("filters"), known)
	if err != nil {
		return err
	}
	for k, values := range fs {
		for v := range values {
			switch k {
			case "until", "unused-for":
				if p.KeepFor, err = time.ParseDuration(v); err != nil {
					return invalid("filter %q expects a duration (e.g., '24h')", k)
				}
			case "inuse", "shared", "private":
				p.Filters = append(p.Filters, k)
			default:
				p.Filters = append(p.Filters, k+"=="+v)
			}
		}
	}
	ids, bytes, err := a.builder.Prune(r.Context(), p)
	if err != nil {
		return err
	}
	if p.All && len(p.Filters) == 0 && p.Reserved == 0 && p.MaxUsed == 0 && p.MinFree == 0 {
		for _, c := range a.caches {
			more, n, err := c.Prune(r.Context(), p.KeepFor)
			if err != nil {
				return err
			}
			ids, bytes = append(ids, more...), bytes+n
		}
	}
	return reply(w, build.CachePruneReport{CachesDeleted: orEmpty(ids), SpaceReclaimed: uint64(max(0, bytes))}) //nolint:gosec // not negative
}
