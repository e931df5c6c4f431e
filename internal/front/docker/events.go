package docker

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"hull/internal/hull"
)

// eventTime reads a time, zero when absent. 0 is one, the beginning of all.
func eventTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return parseTime(text, now)
}

// stream is GET /events: follows until the client leaves or "until" is past.
func (a *systemAPI) events(w http.ResponseWriter, r *http.Request) error {
	now := time.Now()
	since, err := eventTime(r.FormValue("since"), now)
	if err != nil {
		return err
	}
	until, err := eventTime(r.FormValue("until"), now)
	if err != nil {
		return err
	}
	if !until.IsZero() && !since.IsZero() && until.Before(since) {
		return invalid("`since` time (%d) cannot be after `until` time (%d)", since.Unix(), until.Unix())
	}
	f, err := parseFilters(r.FormValue("filters"), nil)
	if err != nil {
		return err
	}
	ch, err := a.parts.Events.Subscribe(r.Context(), since, until)
	if err != nil {
		return fmt.Errorf("subscribe to events: %w", err)
	}
	contentType := eventsType(r)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	for e := range ch {
		if !f.event(e) {
			continue
		}
		b, err := json.Marshal(eventFor(versionOf(r), toEvent(e)))
		if err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
		if contentType == types.MediaTypeJSONSequence {
			b = append([]byte{0x1e}, b...) // RFC 7464: record separator first
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return nil //nolint:nilerr // the client left
		}
		if len(ch) == 0 {
			_ = rc.Flush()
		}
	}
	return nil
}

// eventsType negotiates the framing; clients before 1.52 get plain JSON.
func eventsType(r *http.Request) string {
	v := versionOf(r)
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		switch typ, _, _ := mime.ParseMediaType(part); {
		case typ == types.MediaTypeNDJSON && v >= 52, typ == types.MediaTypeJSONSequence && v >= 52, typ == types.MediaTypeJSONLines && v >= 53:
			return typ
		}
	}
	return types.MediaTypeJSON
}

func toEvent(e hull.Event) events.Message {
	return events.Message{
		Type: events.Type(e.Type), Action: events.Action(e.Action),
		Actor: events.Actor{ID: e.Actor, Attributes: orEmptyMap(e.Attrs)},
		Scope: firstOf(e.Scope, "local"), Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}

// event says whether e passes. As in moby the names of things are matched
// against id and name, and actions by prefix ("exec_create", "health_status").
func (f filters) event(e hull.Event) bool {
	if !f.exact("type", e.Type) || !f.exact("scope", firstOf(e.Scope, "local")) || !f.action(e.Action) {
		return false
	}
	for _, kind := range []string{"container", "network", "volume", "daemon", "plugin", "service", "node", "secret", "config"} {
		if len(f[kind]) > 0 && (e.Type != kind || !f.actor(kind, e)) {
			return false
		}
	}
	if len(f["image"]) > 0 && !f.eventImage(e) {
		return false
	}
	return f.labels(e.Attrs)
}

func (f filters) action(action string) bool {
	values := f.values("event")
	word, _, _ := strings.Cut(action, ":")
	return len(values) == 0 || slices.Contains(values, action) || slices.Contains(values, word)
}

func (f filters) actor(kind string, e hull.Event) bool {
	name := e.Attrs["name"]
	return slices.ContainsFunc(f.values(kind), func(v string) bool {
		return v == e.Actor || v == name || strings.HasPrefix(e.Actor, v)
	})
}

// eventImage matches the image of image and container events, with or without
// the tag.
func (f filters) eventImage(e hull.Event) bool {
	for _, name := range []string{e.Actor, e.Attrs["name"], e.Attrs["image"]} {
		if name == "" {
			continue
		}
		repo := name
		if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
			repo = repo[:i]
		}
		if f["image"][name] || f["image"][repo] {
			return e.Type == "image" || e.Type == "container"
		}
	}
	return false
}
