package docker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/registry"

	"hull/internal/hull"
)

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		buf.Reset()
		status = http.StatusInternalServerError
		fmt.Fprintf(&buf, `{"message":%q}`+"\n", "encode response: "+err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(buf.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes())
}

// reply is writeJSON for handlers that end with it.
func reply(w http.ResponseWriter, v any) error {
	writeJSON(w, http.StatusOK, v)
	return nil
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// noJSON is what moby says to a request without the body it needs.
const noJSON = "invalid JSON: got EOF while reading request body"

// readJSON decodes a request body of at most limit bytes. Unknown fields are
// tolerated, as Docker does; an empty body leaves v alone when optional.
func readJSON(r *http.Request, limit int64, optional bool, v any) error {
	if err := checkJSON(r, optional); err != nil {
		return err
	}
	body := http.MaxBytesReader(nil, r.Body, limit)
	dec := json.NewDecoder(body)
	if err := dec.Decode(v); err != nil {
		var size *http.MaxBytesError
		switch {
		case errors.As(err, &size):
			return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("request body is larger than %d bytes", size.Limit)}
		case errors.Is(err, io.EOF) && optional:
			return nil
		case errors.Is(err, io.EOF):
			return invalid(noJSON)
		}
		return invalid("invalid JSON: %v", err)
	}
	if dec.More() {
		return invalid("unexpected content after JSON")
	}
	return nil
}

// checkJSON refuses what does not say that it is JSON. No type is fine only
// without a body.
func checkJSON(r *http.Request, optional bool) error {
	ct := r.Header.Get("Content-Type")
	if ct == "" && (r.ContentLength == 0 || optional) {
		return nil
	}
	typ, _, err := mime.ParseMediaType(ct)
	if err != nil {
		return invalid("malformed Content-Type header (%s): %v", ct, err)
	}
	if typ != "application/json" {
		return invalid("unsupported Content-Type header (%s): must be 'application/json'", ct)
	}
	return nil
}

// boolQuery reads a query parameter as Docker does: everything but "", 0, no,
// false and none is true.
func boolQuery(r *http.Request, key string) bool {
	switch strings.ToLower(strings.TrimSpace(r.FormValue(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

func boolQueryDefault(r *http.Request, key string, def bool) bool {
	if _, ok := r.Form[key]; !ok {
		return def
	}
	return boolQuery(r, key)
}

// intQuery is nil when the parameter is absent.
func intQuery(r *http.Request, key string) (*int, error) {
	text := r.FormValue(key)
	if text == "" {
		return nil, nil //nolint:nilnil // absent is an answer
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return &n, nil
}

// sizeQuery reads h and w of a resize.
func sizeQuery(r *http.Request) (rows, cols uint16, err error) {
	if rows, err = cells(r.FormValue("h")); err != nil {
		return 0, 0, invalid("invalid resize height %q: %v", r.FormValue("h"), cause(err))
	}
	if cols, err = cells(r.FormValue("w")); err != nil {
		return 0, 0, invalid("invalid resize width %q: %v", r.FormValue("w"), cause(err))
	}
	return rows, cols, nil
}

// cells reads one side of a terminal. A negative number is out of range rather
// than no number.
func cells(text string) (uint16, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err == nil && (n < 0 || n > math.MaxUint16) {
		err = strconv.ErrRange
	}
	return uint16(n), err //nolint:gosec // in range
}

func cause(err error) error {
	var n *strconv.NumError
	if errors.As(err, &n) {
		return n.Err
	}
	return err
}

// ref is a container reference from the path, without the slash that Docker
// puts before names.
func ref(r *http.Request) string { return strings.TrimPrefix(r.PathValue("id"), "/") }

// registryAuth decodes X-Registry-Auth. A malformed header counts as none, as
// with Docker: an anonymous pull may still work.
func registryAuth(r *http.Request) hull.Auth { return decodeAuth(r.Header.Get(registry.AuthHeader)) }

func decodeAuth(text string) hull.Auth {
	text = strings.TrimRight(text, "=")
	if text == "" {
		return hull.Auth{}
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		if raw, err = base64.RawStdEncoding.DecodeString(text); err != nil {
			return hull.Auth{}
		}
	}
	var a registry.AuthConfig
	if json.Unmarshal(raw, &a) != nil {
		return hull.Auth{}
	}
	return toAuth(a)
}

func toAuth(a registry.AuthConfig) hull.Auth {
	out := hull.Auth{
		Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken, ServerAddress: a.ServerAddress,
	}
	if out.Username == "" && a.Auth != "" {
		if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			out.Username, out.Password, _ = strings.Cut(string(raw), ":")
		}
	}
	return out
}

// flusher writes the first of a burst through to the client at once, and what
// follows it together, so that a follow is prompt and a bulk read is not cut into
// packets.
type flusher struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu     sync.Mutex // guards what follows and every use of w
	last   time.Time  // of a flush
	timer  *time.Timer
	armed  bool
	closed bool
}

// flushDelay is the least time between two flushes: short enough for a dialogue and
// long enough to gather lines.
const flushDelay = 200 * time.Microsecond

func newFlusher(w http.ResponseWriter) *flusher {
	return &flusher{w: w, rc: http.NewResponseController(w)}
}

func (f *flusher) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.w.Write(p)
	switch wait := flushDelay - time.Since(f.last); {
	case f.armed:
	case wait <= 0:
		f.through()
	default:
		f.armed = true
		if f.timer == nil {
			f.timer = time.AfterFunc(wait, f.flush)
		} else {
			f.timer.Reset(wait)
		}
	}
	return n, err //nolint:wrapcheck // transparent
}

func (f *flusher) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	if !f.closed {
		f.through()
	}
}

// through is called with mu held.
func (f *flusher) through() {
	f.last = time.Now()
	_ = f.rc.Flush() // the next write reports a dead client
}

// Close ends the flusher; it must be called before the handler returns.
func (f *flusher) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	return nil
}

// encode writes v as one line after the header is out.
func encode(w http.ResponseWriter, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}
