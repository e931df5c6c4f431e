package image

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/linux"
)

// maxBusy is the longest time that a transfer waits because a registry asks for it:
// who is told to come back tomorrow should hear that at once.
const maxBusy = 5 * time.Minute

// busyError: a registry has had enough for now.
type busyError struct {
	host string
	wait time.Duration // what it asks for; 0 = it does not say
}

func (e *busyError) Error() string {
	if e.wait > maxBusy {
		return fmt.Sprintf("registry %s answers 429 Too Many Requests and asks to come back in %s; an account may have a higher limit ('hull login %[1]s')", e.host, e.wait)
	}
	return fmt.Sprintf("registry %s answers 429 Too Many Requests", e.host)
}

// Unwrap gives the kind.
func (*busyError) Unwrap() error { return errdefs.ErrUnavailable }

// throttle turns "too many requests" into an error, which retry waits for. The
// library would ask again at once, five times. in = wait here instead: for a
// caller that has no such retry.
type throttle struct {
	next http.RoundTripper
	in   bool
}

// RoundTrip implements http.RoundTripper.
func (t throttle) RoundTrip(r *http.Request) (*http.Response, error) {
	for tries := 0; ; tries++ {
		resp, err := t.next.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests {
			return resp, err
		}
		busy := &busyError{host: r.URL.Host, wait: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
		// A body that was sent cannot be sent again from here.
		if !t.in || tries == 5 || busy.wait > maxBusy || r.Body != nil && r.Body != http.NoBody {
			return nil, errors.Join(busy, resp.Body.Close())
		}
		if err := resp.Body.Close(); err != nil {
			return nil, err
		}
		if err := linux.Sleep(r.Context(), max(busy.wait, time.Second<<tries)); err != nil {
			return nil, err
		}
	}
}

// retryAfter reads the header of that name: seconds, or a date. 0 = it says nothing.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(v, 10, 32); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now).Round(time.Second)
	}
	return 0
}
