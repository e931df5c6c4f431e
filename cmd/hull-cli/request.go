package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
)

// dialer connects to an engine.
type dialer = func(ctx context.Context) (net.Conn, error)

// request asks an engine's API, hull's own routes included. The body of a good
// answer is the caller's to close; what the engine refuses is an error in its
// words, errdefs.ErrNotFound for what is not there.
func request(ctx context.Context, dial dialer, method, path string, body io.Reader) (*http.Response, error) {
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
	var e common.ErrorResponse
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil || e.Message == "" {
		e.Message = resp.Status
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, errdefs.ErrNotFound.WithMessage(strings.TrimSpace(e.Message))
	}
	return nil, errors.New(strings.TrimSpace(e.Message))
}

// jsonBody is a request's body that says that it is JSON.
type jsonBody struct{ *bytes.Reader }

func encodeBody(v any) (*jsonBody, error) {
	b, err := json.Marshal(v)
	return &jsonBody{bytes.NewReader(b)}, err
}

// ask sends one value and reads the answer into another.
func ask(ctx context.Context, dial dialer, path string, in, out any) error {
	body, err := encodeBody(in)
	if err != nil {
		return err
	}
	resp, err := request(ctx, dial, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	return nil
}
