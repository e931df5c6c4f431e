package docker

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"hull/internal/hull"
)

// names lists containers through the API.
func (w *world) names(query string) ([]string, answer) {
	w.t.Helper()
	a := w.do("GET", "/v1.55/containers/json?"+query, "")
	var list []struct{ Names []string }
	_ = json.Unmarshal([]byte(a.body), &list) // an error body has none
	out := []string{}
	for _, c := range list {
		out = append(out, c.Names[0])
	}
	return out, a
}

func TestContainerFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("one", `{"Image":"busybox:1","Cmd":["hold"],"Labels":{"a":"1","b":"x"},"ExposedPorts":{"80/tcp":{},"53/udp":{}},"HostConfig":{"PortBindings":{"80/tcp":[{}]},"Annotations":{"n":"v"}}}`)
	w.create("two", `{"Image":"busybox:2","Cmd":["fail"],"Labels":{"a":"2"},"HostConfig":{"NetworkMode":"none","Isolation":"vm"}}`)
	w.create("three", `{"Image":"busybox:1","Cmd":["echo"]}`)
	wait := w.client("").ContainerWait(t.Context(), "two", client.ContainerWaitOptions{Condition: "next-exit"})
	w.do("POST", "/containers/one/start", "").want(t, 204, "")
	w.do("POST", "/containers/two/start", "").want(t, 204, "")
	<-wait.Result
	w.engine.mu.Lock()
	w.engine.all[0].rec.Mounts = []hull.MountPoint{{Type: hull.MountVolume, Name: "vol", Source: "/src", Target: "/data"}}
	w.engine.all[0].rec.Status.Health = &hull.Health{Status: "healthy"}
	w.engine.mu.Unlock()
	f := func(text string) string { return "all=1&filters=" + url.QueryEscape(text) }
	for _, c := range []struct {
		query string
		want  string
	}{
		{"", "/one"},
		{"all=1", "/three /two /one"},
		{"limit=2", "/three /two"},
		{"limit=-1", "/one"},
		{"filters=" + url.QueryEscape(`{"status":{"exited":true}}`), "/two"},
		{f(`{"status":{"created":true,"running":true}}`), "/three /one"},
		{f(`{"status":["exited"]}`), "/two"},
		{f(`{"label":{"a":true}}`), "/two /one"},
		{f(`{"label":{"a=1":true,"b":true}}`), "/one"},
		{f(`{"label":{"a":true,"b":true}}`), "/one"},
		{f(`{"label":{"a=":true}}`), ""},
		{f(`{"name":{"o":true}}`), "/two /one"},
		{f(`{"name":{"^/one$":true}}`), "/one"},
		{f(`{"name":{"(":true}}`), ""},
		{f(`{"id":{"` + fakeID(1)[:12] + `":true}}`), "/two"},
		{f(`{"ancestor":{"busybox:1":true}}`), "/three /two /one"}, // busybox:2 builds on busybox:1
		{f(`{"ancestor":{"busybox:2":true}}`), "/two"},
		{f(`{"ancestor":{"nothing":true}}`), ""},
		{f(`{"before":{"two":true}}`), "/one"},
		{f(`{"since":{"/two":true}}`), "/three"},
		{f(`{"volume":{"vol":true}}`), "/one"},
		{f(`{"volume":{"/data":true}}`), "/one"},
		{f(`{"network":{"none":true}}`), "/two"},
		{f(`{"network":{"net0":true}}`), "/one"}, // by id; two asked for none
		{f(`{"publish":{"8000-8080":true}}`), "/one"},
		{f(`{"publish":{"80":true}}`), ""}, // that is the container's
		{f(`{"publish":{"1":true},"expose":{"80":true}}`), "/one"},
		{f(`{"publish":{"53/udp":true}}`), ""},
		{f(`{"expose":{"50-60/udp":true}}`), "/one"},
		{f(`{"exited":{"3":true}}`), "/two"},
		{f(`{"exited":{"0":true}}`), ""},
		{f(`{"health":{"healthy":true}}`), "/one"},
		{f(`{"health":{"none":true}}`), "/three /two"},
		{f(`{"isolation":{"vm":true}}`), "/two"},
		{f(`{"annotation":{"n=v":true}}`), "/one"},
		{f(`{"is-task":{"true":true}}`), ""},
		{f(`{"is-task":{"false":true}}`), "/three /two /one"},
	} {
		got, a := w.names(c.query)
		if s := strings.Join(got, " "); s != c.want || a.status != 200 {
			t.Errorf("%s: %d %q, want %q", c.query, a.status, s, c.want)
		}
	}
	for text, want := range map[string]string{
		`{"nonsense":{"x":true}}`:        "invalid filter 'nonsense'",
		`{"status":`:                     "invalid filter",
		`{"status":{"sleeping":true}}`:   "invalid value for state (sleeping): must be one of created, running, paused, restarting, removing, exited, dead",
		`{"health":{"fine":true}}`:       "invalid value for health (fine): must be one of none, starting, healthy, unhealthy",
		`{"exited":{"x":true}}`:          `strconv.Atoi: parsing "x": invalid syntax`,
		`{"is-task":{"maybe":true}}`:     "invalid filter 'is-task=[maybe]'",
		`{"publish":{"x":true}}`:         "error while looking up for publish x: invalid start port 'x': invalid syntax",
		`{"before":{"a":true,"b":true}}`: "more than one before filter specified",
	} {
		_, a := w.names(f(text))
		a.want(t, 400, want)
	}
	_, a := w.names(f(`{"since":{"gone":true}}`))
	a.want(t, 404, "No such container: gone")
}

func TestImageFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for text, want := range map[string]string{
		`{}`:                                      "busybox:2 other/box:x | busybox:1 busybox:latest | ",
		`{"dangling":{"true":true}}`:              "",
		`{"dangling":{"0":true}}`:                 "busybox:2 other/box:x | busybox:1 busybox:latest",
		`{"label":{"v=2":true}}`:                  "busybox:2 other/box:x",
		`{"reference":{"busy*":true}}`:            "busybox:2 | busybox:1 busybox:latest",
		`{"reference":{"busybox:1":true}}`:        "busybox:1",
		`{"reference":{"*/box":true}}`:            "other/box:x",
		`{"since":{"busybox:1":true}}`:            "busybox:2 other/box:x",
		`{"before":{"busybox:1":true}}`:           "",
		`{"until":{"2026-11-21T12:30:00Z":true}}`: "busybox:1 busybox:latest | ",
	} {
		a := w.do("GET", "/v1.55/images/json?filters="+url.QueryEscape(text), "")
		var list []struct{ RepoTags []string }
		if err := json.Unmarshal([]byte(a.body), &list); err != nil {
			t.Fatalf("%s: %v %s", text, err, a.body)
		}
		var got []string
		for _, i := range list {
			got = append(got, strings.Join(i.RepoTags, " "))
		}
		if s := strings.Join(got, " | "); s != want {
			t.Errorf("%s: %q, want %q", text, s, want)
		}
	}
	w.do("GET", `/images/json?filters={"x":{"y":true}}`, "").want(t, 400, "invalid filter 'x'")
}

func TestPrune(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("one", `{"Image":"busybox:1","Cmd":["echo"],"Labels":{"keep":"1"}}`)
	w.create("two", `{"Image":"busybox:1","Cmd":["echo"]}`)
	w.volumes.list = []hull.Volume{{Name: "named"}, {Name: "anon", Anonymous: true}, {Name: "anon2", Anonymous: true, Labels: map[string]string{"k": ""}}}
	for _, c := range []struct{ path, want string }{
		{`/containers/prune?filters={"label!":{"keep":true}}`, `{"ContainersDeleted":["` + fakeID(1) + `"],"SpaceReclaimed":100}`},
		{`/containers/prune?filters={"until":{"2020-01-01":true}}`, `{"ContainersDeleted":[],"SpaceReclaimed":0}`},
		{`/images/prune`, `{"ImagesDeleted":[{"Deleted":"` + digestOf("3") + `"}],"SpaceReclaimed":1}`},
		{`/images/prune?filters={"dangling":{"false":true}}`, `{"ImagesDeleted":[{"Deleted":"` + digestOf("2") + `"},{"Deleted":"` + digestOf("3") + `"}],"SpaceReclaimed":2}`}, // busybox:1 is in use
		{`/v1.55/volumes/prune`, `{"VolumesDeleted":["anon","anon2"],"SpaceReclaimed":0}`},
		{`/v1.41/volumes/prune?filters={"label!":{"k":true}}`, `{"VolumesDeleted":["named","anon"],"SpaceReclaimed":0}`},
		{`/v1.55/volumes/prune?filters={"all":["1"]}`, `{"VolumesDeleted":["named","anon","anon2"],"SpaceReclaimed":0}`},
		{`/networks/prune`, `{"NetworksDeleted":[]}`},
	} {
		if a := w.do("POST", c.path, ""); a.status != 200 || strings.TrimSpace(a.body) != c.want {
			t.Errorf("%s:\n got %d %s\nwant %s", c.path, a.status, a.body, c.want)
		}
	}
	w.do("POST", `/containers/prune?filters={"until":{"yesterday":true}}`, "").want(t, 400, `failed to parse value as time or duration: "yesterday"`)
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for text, want := range map[string]int64{
		"10s": 990e9, "0": 0, "5": 5e9, "5.000000001": 5e9 + 1, "5.5": 5.5e9, "1970-01-01T00:00:07Z": 7e9, "1970-01-01T00:00:07.25Z": 7.25e9,
	} {
		if got, err := parseTime(text, now); err != nil || got.UnixNano() != want {
			t.Errorf("%s: %v, %v", text, got.UnixNano(), err)
		}
	}
	for _, text := range []string{"", "x", "5.0000000001", "5.x", "99999999999999999999", "1970-13-01"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q: no error, %v", text, got)
		}
	}
}

// FuzzFilters: no filter text panics, and what is accepted answers.
func FuzzFilters(f *testing.F) {
	for _, s := range []string{`{"label":{"a=b":true}}`, `{"name":["("]}`, `{"status":{"exited":false}}`, `{"publish":{"1-70000":true}}`, `{"exited":{"9999999999999":true}}`, `null`, `[]`, `{"until":{"1h":true}}`} {
		f.Add(s)
	}
	c := hull.Container{ID: fakeID(1), Name: "n", Resolved: hull.Resolved{Labels: map[string]string{"a": "b"}, Exposed: []string{"80/tcp"}}}
	f.Fuzz(func(t *testing.T, text string) {
		fs, err := parseFilters(text, slices.Concat(containerFilters, pruneFilters))
		if err != nil {
			return
		}
		if keep, err := containerFilter(fs); err == nil {
			keep(c)
		} else if statusOf(err) != 400 {
			t.Errorf("%q: status %d", text, statusOf(err))
		}
		if _, err := fs.until(epoch); err != nil && statusOf(err) != 400 {
			t.Errorf("%q: %v", text, err)
		}
		fs.event(hull.Event{Type: "container", Action: "start", Actor: "x"})
	})
}

func TestReferencePatterns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, pattern string
		want          bool
	}{
		{"utest:tag1", "utest", true},
		{"utest:tag1", "utest*", true},
		{"utest:tag1", "docker.io/library/utest", true},
		{"utest:tag1", "docker.io/library/utest:*", true},
		{"utest/docker:tag2", "docker.io/utest/docker", true},
		{"utest/docker:tag2", "utest", false},
		{"utest:5000/docker:tag3", "*5000*/*", true},
		{"utest:5000/docker:tag3", "docker.io/*/*", false},
		{"localhost/a:1", "localhost/a", true},
		{"a@sha256:1", "docker.io/library/a", true},
	} {
		if got := matchesReference(tc.name, []string{tc.pattern}); got != tc.want {
			t.Errorf("%s against %s: %v", tc.name, tc.pattern, got)
		}
	}
}
