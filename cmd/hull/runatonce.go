package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"hull/api"
	"hull/cmd/internal/wire"
)

// errOlder: the engine does not know api.RunPath, and has done nothing.
var errOlder = errors.New("an older engine")

// runAtOnce is "run" by api.RunPath: nothing is asked for that has to wait for the
// answer to something else. main is the connection of the request.
func (c *command) runAtOnce(main *wire.Conn, r *runRequest, keys []byte) (int, error) {
	stdio, err := wire.Dial(c.to.Socket)
	if err != nil {
		return codeEngine, err
	}
	s, err := c.session(stdio, r, keys)
	if err != nil {
		return codeEngine, err
	}
	if err := askToRun(main, stdio, r); err != nil {
		s.restore()
		return codeEngine, err
	}
	running := c.proxySignals(s) // while the engine makes the container
	answer, err := runAnswer(main, stdio)
	if err != nil {
		s.restore()
		if answer != nil { // the container was made
			return startFailure(err)
		}
		return codeEngine, err
	}
	dec := json.NewDecoder(answer.Body)
	var made api.Running
	if err := dec.Decode(&made); err != nil || !plainName(made.ID) {
		s.restore()
		return codeEngine, errors.Join(fmt.Errorf("%w: running container %q", wire.ErrProtocol, made.ID), lost(err))
	}
	c.warn(made.Warnings)
	path := apiVersion + "/containers/" + made.ID
	running(path)
	return c.follow(s, path, c.waiting(io.MultiReader(dec.Buffered(), answer.Body), path+waitQuery(r)))
}

// askToRun sends both requests.
func askToRun(main, stdio *wire.Conn, r *runRequest) error {
	body, err := json.Marshal(&r.body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	var random [16]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	key := fmt.Sprintf("%x", random)
	path := api.RunPath + "?key=" + key + "&" + attachQuery(r)
	if q := createQuery(r); len(q) > 0 {
		path += "&" + q.Encode()
	}
	return lost(errors.Join(
		stdio.Send("POST", api.RunStreamsPath+"?key="+key, nil, true),
		main.Send("POST", path, body, false)))
}

// runAnswer waits until the container runs. An answer beside an error says that the
// container was made, but did not start.
func runAnswer(main, stdio *wire.Conn) (*wire.Response, error) {
	streams, err := stdio.Receive()
	if err != nil {
		return nil, lost(err)
	}
	answer, err := main.Receive()
	switch {
	case err != nil:
		return nil, lost(err)
	case streams.Status == 404:
		_, err = io.Copy(io.Discard, answer.Body) // the connection serves the other way
		return nil, errors.Join(errOlder, err)
	case answer.Status < 400:
		return answer, nil
	case answer.Container == "": // hull-cli pulls a missing image, and words what else may be
		return nil, errHandOver
	}
	return answer, answer.Check(api.RunPath)
}
