package docker

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/api"
	"hull/internal/hull"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var asked hull.PullRequest
	w.images.pull = func(r hull.PullRequest) error {
		asked = r
		r.Progress(hull.Progress{ID: "1", Status: "Pulling from library/busybox"})
		r.Progress(hull.Progress{ID: "aaaa", Status: "Downloading", Current: 512, Total: 1024})
		r.Progress(hull.Progress{Status: "Digest: x"})
		return nil
	}
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"p?>"}`))
	a := w.do("POST", "/v1.55/images/create?fromImage=busybox&tag=1&platform=linux/arm64", "", "X-Registry-Auth", auth)
	want := `{"status":"Pulling from library/busybox","progressDetail":{},"id":"1"}` + "\r\n" +
		`{"status":"Downloading","progressDetail":{"current":512,"total":1024},"id":"aaaa"}` + "\r\n" + `{"status":"Digest: x"}` + "\r\n"
	if d := cmp.Diff(want, a.body); d != "" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%v (-want +got):\n%s", a.header, d)
	}
	if asked.Ref != "busybox:1" || asked.All || asked.Platform != "linux/arm64" || asked.Auth != (hull.Auth{Username: "u", Password: "p?>"}) {
		t.Errorf("request %+v", asked)
	}
	if a := w.do("POST", "/v1.44/images/create?fromImage=busybox", ""); !strings.Contains(a.body, `"progress":"[=========================\u003e                        ]      512B/1.024kB"`) {
		t.Errorf("no bar for an old client: %s", a.body)
	}
	if !asked.All {
		t.Error("neither tag nor digest means all tags")
	}
	w.do("POST", "/images/create?fromImage=busybox&tag=sha256:"+strings.Repeat("a", 64), "")
	if asked.Ref != "busybox@"+digestOf("a") || asked.All {
		t.Errorf("by digest: %+v", asked)
	}

	// An error before the first message is a status, after it a message.
	w.images.pull = func(hull.PullRequest) error {
		return errdefs.ErrNotFound.WithMessage("manifest for busybox:9 not found: manifest unknown")
	}
	w.do("POST", "/images/create?fromImage=busybox&tag=9", "").want(t, 404, "manifest for busybox:9 not found: manifest unknown")
	w.images.pull = func(r hull.PullRequest) error {
		r.Progress(hull.Progress{Status: "begun"})
		return errors.New("connection reset")
	}
	a = w.do("POST", "/images/create?fromImage=busybox&tag=9", "")
	if want := `{"status":"begun"}` + "\r\n" + `{"errorDetail":{"message":"connection reset"},"error":"connection reset"}` + "\r\n"; a.status != 200 || a.body != want {
		t.Errorf("late error: %d %q", a.status, a.body)
	}
	w.do("POST", "/images/create", "").want(t, 400, "invalid reference format")
	// The client's own reading of it.
	r, err := w.client("").ImagePull(t.Context(), "busybox:9", client.ImagePullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(t.Context()); err == nil || err.Error() != "connection reset" {
		t.Errorf("client sees %v", err)
	}
}

func TestPushAndLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.do("POST", "/v1.55/images/127.0.0.1:5000/team/app/push?tag=1", "", "X-Registry-Auth", "not base64!")
	want := `{"status":"The push refers to repository [127.0.0.1:5000/team/app:1]"}` + "\r\n" + `{"aux":{"Digest":"` + digestOf("a") + `","Size":7,"Tag":"1"}}` + "\r\n"
	if a.body != want {
		t.Errorf("push: %s", a.body)
	}
	a = w.do("POST", "/v1.55/images/load?quiet=0", "the tar", "Content-Type", "application/x-tar")
	if want := `{"status":"Loading layer","progressDetail":{"current":1,"total":2},"id":"aaaaaaaaaaaa"}` + "\r\n" + `{"stream":"Loaded image: busybox:1\n"}` + "\r\n"; a.body != want || string(w.images.loaded) != "the tar" {
		t.Errorf("load: %s, %q", a.body, w.images.loaded)
	}
	// A body that calls itself a form is still the archive.
	w.do("POST", "/images/load", "a=b", "Content-Type", "application/x-www-form-urlencoded")
	if string(w.images.loaded) != "a=b" {
		t.Errorf("form: %q", w.images.loaded)
	}
	w.do("POST", "/images/load", "bad").want(t, 400, "open archive: unexpected EOF")
	a = w.do("POST", "/images/create?fromSrc=-&repo=imp&tag=v1&message=m&changes=CMD+x&changes=ENV+a=b", "tar", "Content-Type", "application/x-tar")
	if d := cmp.Diff(hull.ImportRequest{Ref: "imp:v1", Message: "m", Changes: []string{"CMD x", "ENV a=b"}}, w.images.asked); d != "" || a.body != `{"status":"`+digestOf("9")+"\"}\r\n" {
		t.Errorf("import: %s\n%s", a.body, d)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/y.tar" {
			http.NotFound(w, r)
		}
	}))
	defer site.Close()
	for _, scheme := range []string{site.URL, strings.TrimPrefix(site.URL, "http://")} {
		a = w.do("POST", "/images/create?repo=imp&fromSrc="+scheme+"/y.tar", "")
		if a.status != 200 || !strings.Contains(a.body, "Downloading from "+scheme) || w.images.asked.Message != "Imported from "+scheme+"/y.tar" {
			t.Errorf("import from %s: %d %s %+v", scheme, a.status, a.body, w.images.asked)
		}
		if a := w.do("POST", "/images/create?fromSrc="+scheme+"/no.tar", ""); a.status != 404 {
			t.Errorf("import of a file that is not there: %d %s", a.status, a.body)
		}
	}
	if a := w.do("POST", "/images/create?fromSrc=%252Fdata%252Ffile.tar", ""); a.status != 400 {
		t.Errorf("import of a path: %d %s", a.status, a.body)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, c := t.Context(), w.client("")
	w.do("GET", "/images/no/such/name:1/json", "").want(t, 404, "No such image: no/such/name:1")
	w.do("GET", "/images/busybox/what", "").want(t, 404, "page not found")
	in, err := c.ImageInspect(ctx, "busybox:1")
	if err != nil || in.ID != digestOf("1") || in.Config.Env[0] != "A=b" || in.RootFS.Type != "layers" {
		t.Errorf("inspect %+v, %v", in, err)
	}
	h, err := c.ImageHistory(ctx, "busybox:1")
	if err != nil || len(h.Items) != 1 || h.Items[0].CreatedBy != "CMD" {
		t.Errorf("history %+v, %v", h, err)
	}
	if _, err := c.ImageTag(ctx, client.ImageTagOptions{Source: "busybox:1", Target: "127.0.0.1:5000/a/b:v2"}); err != nil || w.images.tagged != [2]string{"busybox:1", "127.0.0.1:5000/a/b:v2"} {
		t.Errorf("tag %v, %v", w.images.tagged, err)
	}
	w.do("POST", "/images/busybox:1/tag", "").want(t, 400, "repo query parameter cannot be empty")
	if a := w.do("GET", "/images/busybox:1/get", ""); a.body != "tar of [busybox:1] []" || a.header.Get("Content-Type") != "application/x-tar" {
		t.Errorf("save %v %q", a.header, a.body)
	}
	r, err := c.ImageSave(ctx, []string{"busybox:1", "busybox:2"}, client.ImageSaveWithPlatforms(ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(r); string(b) != "tar of [busybox:1 busybox:2] [linux/arm64/v8]" {
		t.Errorf("save %q", b)
	}
	w.do("GET", "/images/get?names=busybox:1&names=none", "").want(t, 404, "No such image: none")
	w.create("cc", `{"Image":"busybox:1","Cmd":["echo"]}`)
	w.do("DELETE", "/images/busybox:1", "").want(t, 409, `conflict: unable to remove repository reference "busybox:1" (must force) - container `+fakeID(0)[:12]+` is using its referenced image 111111111111`)
	if a := w.do("DELETE", "/images/other/box:x", ""); strings.TrimSpace(a.body) != `[{"Untagged":"other/box:x"},{"Deleted":"`+digestOf("2")+`"}]` {
		t.Errorf("delete %s", a.body)
	}
	for query, want := range map[string][]string{
		"":                                   {"x", "other"},
		`&filters={"stars":{"3":true}}`:      {"x"},
		`&filters={"is-official":["false"]}`: {"other"},
		`&filters={"is-automated":["true"]}`: nil,
	} {
		var found []registry.SearchResult
		if err := json.Unmarshal([]byte(w.do("GET", "/images/search?term=x&limit=7"+query, "").body), &found); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range found {
			names = append(names, f.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("search%s: %q, want %q", query, names, want)
		}
	}
	w.do("GET", "/images/search?term=x&limit=many", "").want(t, 400, `invalid limit specified: "many"`)
	w.do("GET", `/images/search?term=x&filters={"stars":["many"]}`, "").want(t, 400, "invalid filter 'stars=many'")
	w.do("GET", "/distribution/private/x/json", "").want(t, 401, "access to private/x")
	d, err := c.DistributionInspect(ctx, "some/where:1", client.DistributionInspectOptions{})
	if err != nil || len(d.Platforms) != 2 || d.Platforms[1].Variant != "v8" || d.Descriptor.Digest.String() != digestOf("a") {
		t.Errorf("distribution %+v, %v", d, err)
	}
	w.do("GET", `/images/busybox:1/json?platform={"os":"linux"}`, "").want(t, 400, `failed to parse platform: "{\"os\":\"linux\"}"`)
	w.do("POST", "/auth", `{"username":"u","password":"wrong","serveraddress":"r"}`).want(t, 401, "log in to r: incorrect username or password")
	if a := w.do("POST", "/auth", `{"auth":"`+base64.StdEncoding.EncodeToString([]byte("u:right"))+`"}`); strings.TrimSpace(a.body) != `{"Status":"Login Succeeded"}` || w.images.login.Username != "u" {
		t.Errorf("auth %s", a.body)
	}
}

func TestArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, c := t.Context(), w.client("")
	w.create("cc", `{"Image":"busybox:1","Cmd":["echo"]}`)
	st, err := c.ContainerStatPath(ctx, "cc", client.ContainerStatPathOptions{Path: "/f"})
	if err != nil || st.Stat.Name != "f" || st.Stat.Size != 3 || !st.Stat.Mtime.Equal(epoch) {
		t.Errorf("stat %+v, %v", st, err)
	}
	from, err := c.CopyFromContainer(ctx, "cc", client.CopyFromContainerOptions{SourcePath: "/f"})
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(from.Content); string(b) != "a tar" || from.Stat.Name != "f" {
		t.Errorf("copy %q %+v", b, from.Stat)
	}
	w.do("GET", "/containers/cc/archive?path=/missing", "").want(t, 404, "Could not find the file /missing in container cc")
	w.do("GET", "/containers/no/archive?path=/missing", "").want(t, 404, "No such container: no")
	w.do("PUT", "/containers/cc/archive", "x").want(t, 400, "bad parameter: 'path' cannot be empty")
	var z bytes.Buffer
	gz := gzip.NewWriter(&z)
	_, _ = gz.Write([]byte("packed tar"))
	_ = gz.Close()
	w.do("PUT", "/containers/cc/archive?path=/d&noOverwriteDirNonDir=1&copyUIDGID=true", z.String(), "Content-Type", "application/x-tar").want(t, 200, "")
	if string(w.engine.last.tar) != "packed tar" || w.engine.last.copy != (hull.CopyToRequest{Path: "/d", NoOverwriteDirNonDir: true, CopyUIDGID: true}) {
		t.Errorf("put %q %+v", w.engine.last.tar, w.engine.last.copy)
	}
	w.do("PUT", "/containers/cc/archive?path=/d", "\xfd7zXZ\x00...").want(t, 400, "xz archives are not supported: send the tar plain, or as gzip, bzip2 or zstd")
}

func TestContainerVerbs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	w.do("POST", "/containers/cc/kill", "").want(t, 409, "cannot kill container: cc: container "+fakeID(0)+" is not running")
	w.do("POST", "/containers/cc/kill?signal=SIGWHAT", "").want(t, 400, "invalid signal: SIGWHAT")
	w.do("POST", "/containers/cc/rename?name=new_name", "").want(t, 204, "")
	w.do("POST", "/containers/new_name/rename?name=b@d", "").want(t, 400, "Invalid container name (b@d), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
	w.do("POST", "/containers//new_name/start", "").want(t, 204, "") // a name with its slash
	w.do("POST", "/containers/%2Fnew_name/start", "").want(t, 304, "")
	w.do("POST", "/containers/"+fakeID(0)[:6]+"/resize?h=10&w=20", "").want(t, 200, "")
	if w.engine.last.size != [2]uint16{10, 20} {
		t.Errorf("size %v", w.engine.last.size)
	}
	w.do("POST", "/containers/new_name/resize?h=70000&w=1", "").want(t, 400, `invalid resize height "70000": value out of range`)
	if a := w.do("GET", "/containers/new_name/top?ps_args=aux", ""); strings.TrimSpace(a.body) != `{"Processes":[["1","hold"]],"Titles":["PID","CMD"]}` {
		t.Errorf("top %s", a.body)
	}
	if a := w.do("GET", "/containers/new_name/changes", ""); strings.TrimSpace(a.body) != `[{"Kind":0,"Path":"/etc"},{"Kind":1,"Path":"/etc/new"},{"Kind":2,"Path":"/gone"}]` {
		t.Errorf("changes %s", a.body)
	}
	if a := w.do("GET", "/containers/new_name/export", ""); a.body != "a tar" {
		t.Errorf("export %q", a.body)
	}
	if a := w.do("GET", "/containers/new_name/json?size=1", ""); !strings.Contains(a.body, `"SizeRw":100,"SizeRootFs":2000`) {
		t.Errorf("inspect with size %s", a.body)
	}
	w.do("POST", "/containers/new_name/update", `{"Memory":7340032,"RestartPolicy":{"Name":"always"}}`).want(t, 200, "")
	if u := w.engine.last.update; u.Resources.Memory != 7<<20 || u.Restart == nil || u.Restart.Name != "always" {
		t.Errorf("update %+v", u)
	}
	w.do("POST", "/commit?container=new_name&repo=r&tag=t&author=me&comment=c&pause=0&changes=CMD+x", `{"Env":["A=1"]}`).want(t, 201, "")
	if q := w.engine.last.commit; q.Ref != "r:t" || q.Author != "me" || q.Pause || q.Changes[0] != "CMD x" || !strings.Contains(string(q.Config), `"A=1"`) {
		t.Errorf("commit %+v", q)
	}
	w.do("POST", "/commit?container=new_name", "").want(t, 201, "")
	if q := w.engine.last.commit; !q.Pause || q.Config != nil {
		t.Errorf("commit %+v", q)
	}
	w.do("DELETE", "/containers/new_name", "").want(t, 409, `cannot remove container "/new_name": container is running: stop the container before removing or force remove`)
	w.do("DELETE", "/containers/new_name?force=1&v=1", "").want(t, 204, "")
	if w.engine.last.remove != (hull.RemoveRequest{Force: true, Volumes: true}) {
		t.Errorf("remove %+v", w.engine.last.remove)
	}
	for _, path := range []string{"start", "stop", "restart", "kill", "pause", "unpause", "wait", "rename?name=xx", "resize?h=1&w=1"} {
		w.do("POST", "/containers/gone/"+path, "").want(t, 404, "No such container: gone")
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	type stats struct {
		Name     string
		Read     time.Time
		CPU      struct{ System_cpu_usage uint64 } `json:"cpu_stats"`
		PreCPU   struct{ System_cpu_usage uint64 } `json:"precpu_stats"`
		Memory   struct{ Usage, Limit uint64 }     `json:"memory_stats"`
		Networks map[string]struct{ Rx_bytes uint64 }
	}
	get := func(query string) (s stats) {
		a := w.do("GET", "/containers/cc/stats?"+query, "")
		if err := json.Unmarshal([]byte(a.body), &s); err != nil {
			t.Fatalf("%s: %v", a.body, err)
		}
		return s
	}
	if s := get("stream=0"); s.Name != "/cc" || !s.Read.IsZero() || s.Memory.Usage != 0 {
		t.Errorf("not running: %+v", s)
	}
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	if s := get("stream=0&one-shot=1"); s.CPU.System_cpu_usage == 0 || s.PreCPU.System_cpu_usage != 0 || s.Memory.Limit != 1<<30 || s.Networks["eth0"].Rx_bytes != 10 {
		t.Errorf("one shot: %+v", s)
	}
	if s := get("stream=0"); s.PreCPU.System_cpu_usage == 0 || s.CPU.System_cpu_usage <= s.PreCPU.System_cpu_usage {
		t.Errorf("two samples: %+v", s)
	}
	w.do("GET", "/containers/cc/stats?one-shot=1", "").want(t, 400, "cannot have stream=true and one-shot=true")
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.events.list = []hull.Event{
		{Type: "container", Action: "start", Actor: "c1", Attrs: map[string]string{"image": "busybox:1", "name": "web", "l": "1"}, Time: time.Unix(5, 7)},
		{Type: "container", Action: "health_status: healthy", Actor: "c1", Attrs: map[string]string{"name": "web"}, Time: time.Unix(6, 0)},
		{Type: "network", Action: "connect", Actor: "n1", Attrs: map[string]string{"name": "bridge", "container": "c1"}, Time: time.Unix(7, 0)},
	}
	get := func(version, filters string, header ...string) answer {
		return w.do("GET", "/"+version+"/events?since=1&until=9&filters="+filters, "", header...)
	}
	start := `{"Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox:1","l":"1","name":"web"}},"scope":"local","time":5,"timeNano":5000000007}` + "\n"
	for _, c := range []struct{ version, filters, want string }{
		{"v1.55", `{"event":{"start":true}}`, start},
		{"v1.55", `{"image":{"busybox":true}}`, start},
		{"v1.55", `{"label":{"l=1":true}}`, start},
		{"v1.55", `{"container":{"db":true}}`, ""},
		{"v1.51", `{"event":["start"]}`, `{"status":"start","id":"c1","from":"busybox:1",` + start[1:]},
		{"v1.55", `{"type":{"network":true}}`, `{"Type":"network","Action":"connect","Actor":{"ID":"n1","Attributes":{"container":"c1","name":"bridge"}},"scope":"local","time":7,"timeNano":7000000000}` + "\n"},
		{"v1.55", `{"event":{"health_status":true},"container":{"web":true}}`, `{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"c1","Attributes":{"name":"web"}},"scope":"local","time":6,"timeNano":6000000000}` + "\n"},
	} {
		if a := get(c.version, c.filters); a.body != c.want || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s:\n got %s\nwant %s", c.filters, a.body, c.want)
		}
	}
	a := get("v1.52", `{"event":{"start":true}}`, "Accept", "text/x, application/json-seq")
	if a.body != "\x1e"+start || a.header.Get("Content-Type") != "application/json-seq" {
		t.Errorf("sequence: %v %q", a.header, a.body)
	}
	w.do("GET", "/events?since=9&until=1", "").want(t, 400, "`since` time (9) cannot be after `until` time (1)")
}

func TestVolumesAndNetworks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, c := t.Context(), w.client("")
	v, err := c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil || v.Volume.Mountpoint != "/var/lib/hull/volumes/data/_data" || v.Volume.Scope != "local" {
		t.Errorf("create %+v, %v", v, err)
	}
	w.do("POST", "/volumes/create", `{"Name":"../x"}`).want(t, 400, `create ../x: "../x" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`)
	w.do("GET", "/volumes/none", "").want(t, 404, "get none: no such volume")
	w.do("DELETE", "/volumes/none", "").want(t, 404, "get none: no such volume")
	w.do("DELETE", "/volumes/none?force=1", "").want(t, 204, "")
	w.do("DELETE", "/volumes/busy", "").want(t, 409, "remove busy: volume is in use - [abc]")
	l, err := c.VolumeList(ctx, client.VolumeListOptions{Filters: client.Filters{}.Add("label", "a=b").Add("dangling", "true")})
	if err != nil || len(l.Items) != 1 {
		t.Errorf("list %+v, %v", l, err)
	}

	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	in, err := c.NetworkInspect(ctx, "bridge", client.NetworkInspectOptions{})
	if err != nil || in.Network.IPAM.Config[0].Subnet.String() != "172.17.0.0/16" || in.Network.Containers["c"].IPv4Address.String() != "172.17.0.2/16" {
		t.Errorf("inspect %+v, %v", in, err)
	}
	n, err := c.NetworkCreate(ctx, "mine", client.NetworkCreateOptions{Driver: "bridge", Internal: true})
	if err != nil || n.ID != "net3" || !w.networks.list[3].Internal || !w.networks.list[3].EnableIPv4 {
		t.Errorf("create %+v, %v", n, err)
	}
	w.do("POST", "/networks/create", `{"Name":"mine"}`).want(t, 409, "network with name mine already exists")
	w.do("POST", "/networks/create", `{"Name":"x","IPAM":{"Config":[{"Subnet":"nonsense"}]}}`).want(t, 400, "")
	w.do("POST", "/networks/create", `{"Name":"o","Driver":"overlay"}`).want(t, 503, "")
	w.do("DELETE", "/networks/bridge", "").want(t, 403, "bridge is a pre-defined network and cannot be removed")
	w.do("GET", "/networks/none2", "").want(t, 404, "network none2 not found")
	if _, err := c.NetworkConnect(ctx, "mine", client.NetworkConnectOptions{Container: "cc", EndpointConfig: &network.EndpointSettings{Aliases: []string{"al"}}}); err != nil {
		t.Error(err)
	}
	if _, err := c.NetworkDisconnect(ctx, "mine", client.NetworkDisconnectOptions{Container: "cc"}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"mine " + fakeID(0), "-mine " + fakeID(0)}, w.networks.connected); d != "" || w.networks.endpoint.Aliases[0] != "al" {
		t.Error(d)
	}
	if a := w.do("GET", `/networks?filters={"type":{"custom":true}}`, ""); strings.Count(a.body, `"Name"`) != 1 {
		t.Errorf("custom: %s", a.body)
	}
}

func TestHullDoctor(t *testing.T) {
	t.Parallel()
	var found []api.Finding
	a := newWorld(t).do("GET", api.DoctorPath, "")
	if err := json.Unmarshal([]byte(a.body), &found); err != nil || len(found) != 2 || found[0].Verdict != "ok" ||
		found[1] != (api.Finding{Subject: "nftables", Verdict: "broken", Says: "no", Means: "no networks", Next: "modprobe"}) {
		t.Errorf("%v: %s", err, a.body)
	}
}

func TestHullInfo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var i hull.EngineInfo
	if a := w.do("GET", "/hull/v1/info", ""); json.Unmarshal([]byte(a.body), &i) != nil || i.Isolations["vm"].Reason != "no kernel" {
		t.Errorf("%s", a.body)
	}
	if d, err := w.client("").Info(t.Context(), client.InfoOptions{}); err != nil || d.Info.Images != len(w.engine.images.list) || i.Images != d.Info.Images || d.Info.Images == 0 {
		t.Errorf("%d images, %d for hull, %v", d.Info.Images, i.Images, err)
	}
	v, err := w.client("").ServerVersion(t.Context(), client.ServerVersionOptions{})
	if err != nil || v.APIVersion != "1.55" || v.MinAPIVersion != "1.40" || v.Components[0].Name != "Engine" {
		t.Errorf("version %+v, %v", v, err)
	}
	w.engine.fail["info"] = errors.New("broken")
	w.do("GET", "/info", "").want(t, http.StatusInternalServerError, "describe engine: broken")
}
