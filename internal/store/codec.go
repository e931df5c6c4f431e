package store

import (
	"encoding/json"
	"fmt"
	"hull/internal/hull"
	"strings"
	"time"
)

// version of the records this build writes. A change that older records cannot
// be read by gets a new number and a conversion in decode.
const version = 1

// envelope is how every record lies on disk.
type envelope[T any] struct {
	V int `json:"v"`
	R T   `json:"r"`
}

func encode[T any](r T) ([]byte, error) {
	b, err := json.Marshal(envelope[T]{version, r})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return b, nil
}

func decode[T any](b []byte) (T, error) {
	var v struct {
		V int `json:"v"`
	}
	var e envelope[T]
	if err := json.Unmarshal(b, &v); err != nil {
		return e.R, fmt.Errorf("decode record: %w", err)
	}
	if v.V != version {
		return e.R, fmt.Errorf("decode record: version %d, this build reads %d", v.V, version)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e.R, fmt.Errorf("decode record: %w", err)
	}
	return e.R, nil
}

// decodeContainer reads a container's record; key is where it was found.
func decodeContainer(key string, b []byte) (hull.Container, error) {
	c, err := decode[hull.Container](b)
	if err != nil {
		return c, err
	}
	if c.ID != key {
		return c, fmt.Errorf("decode record: id %q under key %q", c.ID, key)
	}
	if err := checkID(c.PodID); err != nil {
		return c, err
	}
	return c, checkID(c.ID)
}

func decodePod(key string, b []byte) (hull.Pod, error) {
	p, err := decode[hull.Pod](b)
	if err != nil {
		return p, err
	}
	if p.ID != key {
		return p, fmt.Errorf("decode record: id %q under key %q", p.ID, key)
	}
	return p, checkID(p.ID)
}

// afterReboot is what is left of a status when the boot it belongs to is over:
// everything except this run's facts. The phase stays, so that a restart policy
// can see that the container was running. Restarting goes with the timer that
// it stood for.
func afterReboot(s hull.Status) hull.Status {
	s.Pid = 0
	s.Endpoint = hull.Endpoint{}
	s.Health = nil
	s.Restarting = false
	return s
}

// normalize makes a record as it will be after a restart of the engine, so that
// nothing depends on when it was read: times without monotonic clock.
func normalize(s *hull.Status) {
	for _, t := range []*time.Time{&s.StartedAt, &s.FinishedAt} {
		*t = t.Round(0)
	}
}

func trimSlash(name string) string { return strings.TrimPrefix(name, "/") }
