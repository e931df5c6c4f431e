package route

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// engine answers as handler does; the dialer leads to it.
func engine(t *testing.T, handler http.HandlerFunc) Dialer {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
}

func TestPost(t *testing.T) {
	dial := engine(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if got := r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(b); got != `POST /x application/json {"A":1}` {
			t.Error(got)
		}
		_, _ = io.WriteString(w, `{"B":2}`)
	})
	var out struct{ B int }
	if err := Post(t.Context(), dial, "/x", struct{ A int }{1}, &out); err != nil || out.B != 2 {
		t.Errorf("%+v %v", out, err)
	}
	if err := Post(t.Context(), dial, "/x", struct{ A int }{1}, nil); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	for _, x := range []struct {
		code          int
		body, message string
	}{
		{404, `{"message":"no such thing\n"}`, "no such thing"},
		{409, `{"message":"taken"}`, "taken"},
		{500, `oops`, "500 Internal Server Error"},
		{500, `{}`, "500 Internal Server Error"},
	} {
		dial := engine(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(x.code)
			_, _ = io.WriteString(w, x.body)
		})
		err := Get(t.Context(), dial, "/x", nil)
		var no *Refusal
		if !errors.As(err, &no) || no.Message != x.message || no.Code != x.code || errdefs.IsNotFound(err) != (x.code == 404) {
			t.Errorf("%d %s: %v", x.code, x.body, err)
		}
	}
}

// What is no answer is no refusal either.
func TestBroken(t *testing.T) {
	var out struct{}
	var no *Refusal
	dial := engine(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"a":"`+strings.Repeat("x", 2*maxAnswer)+`"}`)
	})
	if err := Get(t.Context(), dial, "/x", &out); err == nil || errors.As(err, &no) {
		t.Errorf("an answer without an end: %v", err)
	}
	gone := errors.New("gone")
	if err := Get(t.Context(), func(context.Context) (net.Conn, error) { return nil, gone }, "/x", &out); !errors.Is(err, gone) {
		t.Error(err)
	}
}
