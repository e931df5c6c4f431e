// Package route asks an engine's API by its paths: for hull's own routes, which
// Docker's client does not know.
package route

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
)

// maxAnswer bounds an answer that says something about the engine, and a refusal,
// bytes. What is asked for a list of things may answer with as many.
const maxAnswer = 1 << 20

// Dialer connects to an engine.
type Dialer = func(ctx context.Context) (net.Conn, error)

// Refusal is what an engine says instead of doing as it was asked.
type Refusal struct {
	Code    int
	Status  string // "404 Not Found"
	Message string // the engine's words; Status where it has none
}

func (r *Refusal) Error() string { return r.Message }

// Unwrap gives errdefs.ErrNotFound for what is not there.
func (r *Refusal) Unwrap() error {
	if r.Code == http.StatusNotFound {
		return errdefs.ErrNotFound
	}
	return nil
}

// Do sends a request. The body of a good answer is the caller's to close; else the
// error is a *Refusal, or the connection's.
func Do(ctx context.Context, dial Dialer, method, path string, body io.Reader) (*http.Response, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	req, err := http.NewRequestWithContext(ctx, method, "http://hull"+path, body)
	if err != nil {
		return nil, err
	}
	if _, ok := body.(*jsonBody); ok {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var e struct {
		Message string `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&e); err != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return nil, &Refusal{Code: resp.StatusCode, Status: resp.Status, Message: strings.TrimSpace(e.Message)}
}

// jsonBody is a request's body that says that it is JSON.
type jsonBody struct{ *bytes.Reader }

// Body is a value as a request's body.
func Body(v any) (io.Reader, error) {
	b, err := json.Marshal(v)
	return &jsonBody{bytes.NewReader(b)}, err
}

// Get reads what a route says, at most a MiB, into out.
func Get(ctx context.Context, dial Dialer, path string, out any) error {
	resp, err := Do(ctx, dial, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	return Decode(io.LimitReader(resp.Body, maxAnswer), out)
}

// Post sends one value and reads the answer into another, nil = it does not matter.
func Post(ctx context.Context, dial Dialer, path string, in, out any) error {
	body, err := Body(in)
	if err != nil {
		return err
	}
	resp, err := Do(ctx, dial, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if out == nil {
		return nil
	}
	return Decode(resp.Body, out)
}

// Decode reads an answer of the engine.
func Decode(r io.Reader, out any) error {
	if err := json.NewDecoder(r).Decode(out); err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	return nil
}
