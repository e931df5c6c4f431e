package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"

	"hull/internal/hull"
)

// progressLine is one JSON message of a pull, push, load or import. The two
// outer fields are long deprecated and still read by clients.
type progressLine struct {
	jsonstream.Message
	ErrorText string `json:"error,omitempty"`
	Bar       string `json:"progress,omitempty"`
}

// progressStream sends messages as they come. Nothing is sent before the first,
// so that an early failure is still a status code.
type progressStream struct {
	w       http.ResponseWriter
	version apiVersion

	mu    sync.Mutex // guards out and the order of messages
	out   *flusher
	quiet bool
}

func newProgressStream(w http.ResponseWriter, r *http.Request) *progressStream {
	return &progressStream{w: w, version: versionOf(r)}
}

// begin sends the header.
func (p *progressStream) begin() {
	if p.out == nil {
		p.w.Header().Set("Content-Type", "application/json")
		p.w.WriteHeader(http.StatusOK)
		p.out = newFlusher(p.w)
	}
}

func (p *progressStream) send(l progressLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	b, err := json.Marshal(l)
	if err != nil {
		return // nothing of ours fails to encode
	}
	_, _ = p.out.Write(append(b, '\r', '\n')) // a dead client shows in the request's context
}

// step is the callback of a transfer.
func (p *progressStream) step(s hull.Progress) {
	if !p.quiet {
		p.send(toProgress(s, p.version))
	}
}

// text sends a line of "stream" output, as load does.
func (p *progressStream) text(s string) {
	p.send(progressLine{Message: jsonstream.Message{Stream: s}})
}

// end closes the stream. An error before the first message is returned to
// become a status code; after it, it is a message.
func (p *progressStream) end(err error) error {
	p.mu.Lock()
	began := p.out != nil
	p.mu.Unlock()
	if err != nil && !began {
		return err
	}
	if err != nil {
		p.send(toProgressError(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	_ = p.out.Close()
	return err
}

func toProgress(s hull.Progress, v apiVersion) progressLine {
	m := jsonstream.Message{ID: s.ID, Status: s.Status}
	l := progressLine{Message: m}
	if s.ID != "" || s.Total > 0 {
		l.Progress = &jsonstream.Progress{Current: s.Current, Total: s.Total}
		if v < 52 {
			l.Bar = bar(s.Current, s.Total)
		}
	}
	if s.Aux != nil {
		if raw, err := json.Marshal(s.Aux); err == nil {
			msg := json.RawMessage(raw)
			l.Aux, l.Progress, l.Bar = &msg, nil, ""
		}
	}
	return l
}

func toProgressError(err error) progressLine {
	text := messageOf(err)
	e := &jsonstream.Error{Message: text}
	var se *statusError
	if errors.As(err, &se) {
		e.Code = se.status
	}
	var step *hull.BuildStepError
	if errors.As(err, &step) {
		e.Code = step.Code // the classic client's own exit code
	}
	return progressLine{Message: jsonstream.Message{Error: e}, ErrorText: text}
}

// bar draws "[====>     ]  1.2MB/3MB".
func bar(current, total int64) string {
	switch {
	case current <= 0 && total <= 0:
		return ""
	case total <= 0 || current > total:
		return fmt.Sprintf("%8v", units.HumanSize(float64(current)))
	}
	const width = 50
	done := int(current * width / total)
	arrow := ""
	if done < width {
		arrow = ">"
	}
	return fmt.Sprintf("[%s%s%s]  %8v/%v", strings.Repeat("=", done), arrow, strings.Repeat(" ", max(0, width-done-1)),
		units.HumanSize(float64(current)), units.HumanSize(float64(total)))
}
