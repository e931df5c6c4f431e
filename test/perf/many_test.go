package perf

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

// many is what it costs to look at containers when there are many.
func many(b *bench) {
	e, hull, docker := b.engine([]string{"busybox"})
	own := connect(e.Host)
	const few, all = 200, 1000
	names := numbered("many", all)
	begin := time.Now().Unix()
	b.create(own, names[:few])
	defer b.removeMany(own, hull, names)

	type rival struct {
		c *cli
		a *api
	}
	rivals := []rival{{hull, own}, {docker, own}}
	for _, p := range b.dockers() {
		a := connect(p.at)
		mine := names[:few]
		defer func() { b.removeMany(a, &p.cli, mine) }()
		if err := createMany(a, mine); err != nil {
			b.missing(fmt.Sprintf("ps -a with %d containers", few), p.name, err.Error())
			continue
		}
		rivals = append(rivals, rival{&p.cli, a})
	}
	var ps, list, inspect []contender
	for _, r := range rivals {
		ps = append(ps, command(r.c, "ps", "-a"))
		if r.c != docker { // the same engine
			list = append(list, request(r.c.name, r.a, "/containers/json?all=1"))
			inspect = append(inspect, request(r.c.name, r.a, "/containers/"+names[few/2]+"/json"))
		}
	}
	with := fmt.Sprintf(" with %d containers", few)
	b.race(contest{what: "ps -a" + with, n: scale(30), limit: 15 * time.Second, note: "in turns"}, ps...)
	b.race(contest{what: "list through the API" + with, n: scale(30), limit: 15 * time.Second, note: "in turns"}, list...)
	b.race(contest{what: "inspect through the API" + with, n: scale(50), limit: 10 * time.Second, note: "in turns"}, inspect...)

	b.create(own, names[few:])
	with = fmt.Sprintf(" with %d containers", all)
	b.alone(contest{what: "ps -a" + with, n: scale(50), limit: 15 * time.Second, goal: atMost(30)}, command(hull, "ps", "-a"))
	b.alone(contest{what: "list through the API" + with, n: scale(50), limit: 15 * time.Second}, request("hull", own, "/containers/json?all=1"))
	b.alone(contest{what: "inspect through the API" + with, n: scale(100), limit: 10 * time.Second}, request("hull", own, "/containers/"+names[all/2]+"/json"))
	b.alone(contest{what: fmt.Sprintf("%d events of the past", all), n: scale(10), limit: 10 * time.Second}, timed("hull", func() error {
		got, err := own.raw(http.MethodGet, fmt.Sprintf("/events?since=%d&until=%d&filters=%s", begin-1, time.Now().Unix(), `{"event":{"create":true}}`), "")
		if n := bytes.Count(got, []byte("\n")); err == nil && n < all/2 {
			err = fmt.Errorf("%d events", n)
		}
		return err
	}))
}

func request(who string, a *api, path string) contender {
	return timed(who, func() error { _, err := a.raw(http.MethodGet, path, ""); return err })
}

func createMany(a *api, names []string) error {
	for _, name := range names {
		if _, err := a.call(http.MethodPost, "/containers/create?name="+name, `{"Image":"busybox","Cmd":["true"]}`); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) create(a *api, names []string) {
	b.t.Helper()
	if err := createMany(a, names); err != nil {
		b.t.Fatal(err)
	}
}

// removeMany removes what is there of names.
func (b *bench) removeMany(a *api, c *cli, names []string) {
	for _, name := range names {
		if _, err := a.raw(http.MethodDelete, "/containers/"+name+"?force=1", ""); err != nil {
			b.t.Logf("%s: %v", c.name, err)
			return
		}
	}
}
