package docker

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types"

	"hull/internal/hull"
)

// logFormat is how a line is dressed.
type logFormat struct{ timestamps, details bool }

// logTime is RFC 3339 with all nine digits, so that columns line up.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (f logFormat) line(l hull.LogLine) []byte {
	if !f.timestamps && !f.details {
		return l.Data
	}
	var b []byte
	if f.timestamps {
		b = append(l.Time.UTC().AppendFormat(b, logTime), ' ')
	}
	if f.details {
		var kv []string
		for _, k := range slices.Sorted(maps.Keys(l.Attrs)) {
			kv = append(kv, k+"="+l.Attrs[k])
		}
		b = append(append(b, strings.Join(kv, ",")...), ' ')
	}
	return append(b, l.Data...)
}

func toLogs(r *http.Request) (hull.LogsRequest, logFormat, error) {
	q := hull.LogsRequest{Stdout: boolQuery(r, "stdout"), Stderr: boolQuery(r, "stderr"), Follow: boolQuery(r, "follow"), Tail: -1}
	if !q.Stdout && !q.Stderr {
		return q, logFormat{}, invalid("must specify at least one of 'stdout' or 'stderr'")
	}
	now := time.Now()
	var err error
	if q.Since, err = timeQuery(r.FormValue("since"), now); err != nil {
		return q, logFormat{}, err
	}
	if q.Until, err = timeQuery(r.FormValue("until"), now); err != nil {
		return q, logFormat{}, err
	}
	if n, err := strconv.Atoi(r.FormValue("tail")); err == nil && n >= 0 { // "all" and nonsense: everything
		q.Tail = n
	}
	return q, logFormat{timestamps: boolQuery(r, "timestamps"), details: boolQuery(r, "details")}, nil
}

func (a *containerAPI) logs(w http.ResponseWriter, r *http.Request) error {
	q, format, err := toLogs(r)
	if err != nil {
		return err
	}
	c, err := a.engine.Container(r.Context(), ref(r))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	reader, err := a.engine.Logs(r.Context(), c.ID, q)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	mux := !c.Spec.Process.TTY
	contentType := types.MediaTypeRawStream
	if mux && versionOf(r) >= 42 {
		contentType = types.MediaTypeMultiplexedStream
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	out := newFlusher(w)
	defer func() { _ = out.Close() }()
	if err := pump(r.Context(), reader, format, frames{out, mux}); err != nil && r.Context().Err() == nil {
		_, _ = frames{out, mux}.write("stderr", []byte("Error grabbing logs: "+messageOf(err)+"\n"))
		return err
	}
	return nil
}

func (a *containerAPI) copyLogs(ctx context.Context, id string, q hull.LogsRequest, format logFormat, to frames) error {
	reader, err := a.engine.Logs(ctx, id, q)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return pump(ctx, reader, format, to)
}

// pump writes lines until the log ends, the client leaves or ctx is done, and
// closes the reader.
func pump(ctx context.Context, reader hull.LogReader, format logFormat, to frames) error {
	stop := context.AfterFunc(ctx, func() { _ = reader.Close() }) // ends a blocked Next
	defer func() {
		if stop() {
			_ = reader.Close()
		}
	}()
	for {
		l, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err //nolint:wrapcheck // says which log
		}
		if _, err := to.write(l.Stream, format.line(l)); err != nil {
			return nil // the client left
		}
	}
}
