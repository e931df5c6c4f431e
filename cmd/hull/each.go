package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"hull/cmd/internal/wire"
)

// maxParallel is how many containers a verb works on at once, as docker does.
const maxParallel = 50

// eachRequest is a verb that does one request for each container named.
type eachRequest struct {
	method   string
	suffix   string // of the path
	query    url.Values
	serial   bool // one after the other, as docker does it
	optional bool // a missing container is no error
	summary  bool // "start" says in the end which ones failed
}

// simple is the table of those verbs. It returns nil for any other word.
func simple(verb string) (*eachRequest, []flag) {
	r := &eachRequest{method: "POST", suffix: "/" + verb, query: url.Values{}}
	set := func(key string) func(string) bool {
		return func(s string) bool {
			if s != "" {
				r.query.Set(key, s)
			}
			return true
		}
	}
	signal := valueFlag("signal", 's', set("signal"))
	timeout := valueFlag("timeout", 't', func(s string) bool {
		n, err := strconv.Atoi(s)
		r.query.Set("t", strconv.Itoa(n))
		return err == nil
	})
	yes := func(name string, short byte, key string) flag {
		return flag{name, short, true, func(s string) bool {
			on, err := strconv.ParseBool(s)
			if r.query.Del(key); on {
				r.query.Set(key, "1")
			}
			return err == nil
		}}
	}
	switch verb {
	case "start":
		r.serial, r.summary = true, true
		return r, nil
	case "stop":
		return r, []flag{signal, timeout}
	case "restart":
		r.serial = true
		return r, []flag{signal, timeout}
	case "kill":
		return r, []flag{signal}
	case "pause", "unpause":
		return r, nil
	case "rm":
		r.method, r.suffix = "DELETE", ""
		return r, []flag{yes("volumes", 'v', "v"), yes("link", 'l', "link"), yes("force", 'f', "force")}
	}
	return nil, nil
}

// each runs such a verb: it prints the name of every container that it worked for.
func (c *command) each(r *eachRequest, table []flag, args []string) (int, error) {
	names, ok := parseFlags(args, table, true)
	if !ok || len(names) == 0 {
		return 0, errHandOver
	}
	for _, n := range names {
		if !plainName(n) {
			return 0, errHandOver
		}
	}
	r.optional = r.suffix == "" && r.query.Has("force")
	conn, err := c.dial()
	if err != nil {
		return 1, err
	}
	results := c.ask(conn, r, names)
	var errs []error
	var failed []string
	for i, n := range names {
		err := <-results[i]
		var said *wire.Error
		switch {
		case err == nil:
			fmt.Fprintln(c.out, n)
		case r.optional && errors.As(err, &said) && said.Status == 404:
		case r.summary:
			fmt.Fprintln(c.err, err)
			failed = append(failed, n)
		default:
			errs = append(errs, err)
		}
	}
	if len(failed) > 0 {
		errs = append(errs, errors.New("failed to start containers: "+strings.Join(failed, ", ")))
	}
	if len(errs) > 0 {
		return 1, errors.Join(errs...)
	}
	return 0, nil
}

// ask sends the requests; each name's result arrives on its own channel. The first
// one uses conn.
func (c *command) ask(conn *wire.Conn, r *eachRequest, names []string) []chan error {
	results := make([]chan error, len(names))
	for i := range results {
		results[i] = make(chan error, 1)
	}
	one := func(conn *wire.Conn, i int) {
		path := apiVersion + "/containers/" + names[i] + r.suffix
		if q := r.query.Encode(); q != "" {
			path += "?" + q
		}
		results[i] <- call(conn, r.method, path, nil, nil)
	}
	if r.serial || len(names) == 1 {
		go func() {
			for i := range names {
				one(conn, i)
			}
		}()
		return results
	}
	var mu sync.Mutex
	next := 0
	for w := range min(len(names), maxParallel) {
		go func() {
			conn := conn
			if w > 0 {
				var err error
				if conn, err = wire.Dial(c.to.Socket); err != nil {
					return // the others do its work; the first one's connection is open
				}
			}
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(names) {
					return
				}
				one(conn, i)
			}
		}()
	}
	return results
}
