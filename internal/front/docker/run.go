package docker

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"hull/api"
	"hull/internal/hull"
)

// runAPI is api.RunPath: what create, attach, wait and start do, one after the other.
type runAPI struct {
	*containerAPI
	lobby lobby
}

// streams leaves the connection for the request that names the same key.
func (a *runAPI) streams(w http.ResponseWriter, r *http.Request) error {
	key := r.FormValue("key")
	if key == "" {
		return invalid("no key")
	}
	s, err := hijack(w, r, false)
	if err != nil {
		return err
	}
	if err := s.answer(); err != nil {
		s.close()
		return err
	}
	if !a.lobby.leave(key, s) {
		s.close()
	}
	return nil
}

func (a *runAPI) run(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	c, warnings, err := a.made(r)
	s, lerr := a.lobby.meet(ctx, r.FormValue("key")) // also to close what nobody will use
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return err
	}
	w.Header().Set(api.ContainerHeader, c.ID)
	if lerr != nil {
		return lerr
	}
	q, err := toAttach(r)
	if err != nil {
		return err
	}
	wait, err := a.engine.Wait(ctx, c.ID, endOf(c))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	if err := a.join(ctx, c, q, s, !c.Spec.Process.TTY); err != nil {
		return err
	}
	if err := a.engine.Start(ctx, c.ID); err != nil {
		return startError(err)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := encode(w, api.Running{ID: c.ID, Warnings: warnings}); err != nil {
		return err
	}
	_ = http.NewResponseController(w).Flush() // the client may be gone
	return encode(w, waited(wait(ctx)))
}

// endOf is what a client that runs c waits for.
func endOf(c hull.Container) hull.WaitCondition {
	if c.Spec.AutoRemove {
		return hull.WaitRemoved
	}
	return hull.WaitNextExit
}

// waited is a wait's outcome as the API has it.
func waited(exit hull.Exit, err error) container.WaitResponse {
	out := container.WaitResponse{StatusCode: int64(exit.Code)}
	if err != nil {
		exit.Error, out.StatusCode = messageOf(err), 125
	}
	if exit.Error != "" {
		out.Error = &container.WaitExitError{Message: exit.Error}
	}
	return out
}

// lobbyPatience is how long one of two requests waits for the other. A client sends
// them together, but a machine may be busy.
const lobbyPatience = time.Minute

// lobby is where two requests with one key meet.
type lobby struct {
	mu    sync.Mutex
	byKey map[string]chan *stream
}

// place is where those with this key meet.
func (l *lobby) place(key string) chan *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey == nil {
		l.byKey = map[string]chan *stream{}
	}
	if l.byKey[key] == nil {
		l.byKey[key] = make(chan *stream)
	}
	return l.byKey[key]
}

func (l *lobby) clear(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byKey, key)
}

// leave gives s to meet; false: nobody came.
func (l *lobby) leave(key string, s *stream) bool {
	timer := time.NewTimer(lobbyPatience)
	defer timer.Stop()
	select {
	case l.place(key) <- s:
		return true
	case <-timer.C:
		l.clear(key)
		return false
	}
}

// meet waits for the stream with this key, which is the caller's from then on.
func (l *lobby) meet(ctx context.Context, key string) (*stream, error) {
	timer := time.NewTimer(lobbyPatience)
	defer timer.Stop()
	defer l.clear(key)
	select {
	case s := <-l.place(key):
		return s, nil
	case <-timer.C:
		return nil, invalid("no streams came with the key of this run")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
