package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// The four workflows of the OCI distribution specification 1.1 (pull, push,
// content discovery, content management) against "hull registry serve", request by
// request. end-N are the endpoints' names there.

// client asks one registry.
type client struct {
	t    *testing.T
	base string
}

// answer is a response, read.
type answer struct {
	*http.Response
	body []byte
}

// served runs the registry until the test ends.
func served(t *testing.T, o options) client {
	t.Helper()
	o.root = t.TempDir()
	o.listen = "127.0.0.1:0"
	ctx, stop := context.WithCancel(t.Context())
	said, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- serve(ctx, o, func(s string) { said <- s }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	select {
	case s := <-said:
		_, at, ok := strings.Cut(s, " at ")
		if !ok {
			t.Fatalf("said %q", s)
		}
		return client{t, at}
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return client{}
}

// do sends a request. path may be a Location that the registry gave.
func (c client) do(method, path string, body []byte, header ...string) answer {
	c.t.Helper()
	u := path
	if strings.HasPrefix(path, "/") {
		u = c.base + path
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, u, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{resp, b}
}

// want checks the status.
func (c client) want(a answer, status ...int) answer {
	c.t.Helper()
	if !slices.Contains(status, a.StatusCode) {
		c.t.Errorf("%s %s: %s, want %v: %s", a.Request.Method, a.Request.URL.Path, a.Status, status, a.body)
	}
	return a
}

// fails checks a refusal: its status, and the code in its body.
func (c client) fails(a answer, code string, status ...int) {
	c.t.Helper()
	c.want(a, status...)
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if a.Request.Method == http.MethodHead {
		return
	}
	if err := json.Unmarshal(a.body, &e); err != nil || len(e.Errors) == 0 || e.Errors[0].Code != code {
		c.t.Errorf("%s %s: %s, want the code %s", a.Request.Method, a.Request.URL.Path, a.body, code)
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

// with adds a parameter to a Location.
func with(location, key, value string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + key + "=" + url.QueryEscape(value)
}

// where is the Location of an answer, in full.
func (c client) where(a answer) string {
	c.t.Helper()
	l, err := a.Location()
	if err != nil {
		c.t.Fatalf("%s %s: %v", a.Request.Method, a.Request.URL.Path, err)
	}
	return l.String()
}

// blob uploads by POST, then PUT (end-4a, end-6).
func (c client) blob(repo string, b []byte) string {
	c.t.Helper()
	at := c.where(c.want(c.do(http.MethodPost, "/v2/"+repo+"/blobs/uploads/", nil), 202))
	done := c.want(c.do(http.MethodPut, with(at, "digest", sum(b)), b, "Content-Type", "application/octet-stream"), 201)
	c.want(c.do(http.MethodGet, c.where(done), nil), 200)
	return sum(b)
}

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

// manifest uploads an image and returns its manifest.
func (c client) manifest(repo, ref, content string, subject *descriptor) []byte {
	c.t.Helper()
	conf, layer := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]},"x":"`+content+`"}`), []byte(content)
	c.blob(repo, conf)
	c.blob(repo, layer)
	m := map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest,
		"config": descriptor{"application/vnd.oci.image.config.v1+json", sum(conf), len(conf)},
		"layers": []descriptor{{"application/vnd.oci.image.layer.v1.tar", sum(layer), len(layer)}},
	}
	if subject != nil {
		m["subject"] = subject
	}
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	if ref == "" {
		ref = sum(b)
	}
	a := c.want(c.do(http.MethodPut, "/v2/"+repo+"/manifests/"+ref, b, "Content-Type", typeManifest), 201)
	if got := a.Header.Get("Docker-Content-Digest"); got != sum(b) {
		c.t.Errorf("manifest %s: digest %s, want %s", ref, got, sum(b))
	}
	c.want(c.do(http.MethodGet, c.where(a), nil, "Accept", typeManifest), 200)
	return b
}

func TestDistributionPull(t *testing.T) {
	t.Parallel()
	c := served(t, options{})
	c.want(c.do(http.MethodGet, "/v2/", nil), 200) // end-1
	b := []byte("a blob of some length")
	d := c.blob("conf/pull", b)
	m := c.manifest("conf/pull", "1", "one", nil)
	none := sum([]byte("nothing"))
	for _, method := range []string{http.MethodHead, http.MethodGet} { // end-2, end-3
		a := c.want(c.do(method, "/v2/conf/pull/blobs/"+d, nil), 200)
		if a.ContentLength != int64(len(b)) || method == http.MethodGet && !bytes.Equal(a.body, b) {
			t.Errorf("%s of a blob: %d bytes, %q", method, a.ContentLength, a.body)
		}
		c.fails(c.do(method, "/v2/conf/pull/blobs/"+none, nil), "BLOB_UNKNOWN", 404)
		for _, ref := range []string{"1", sum(m)} {
			a := c.want(c.do(method, "/v2/conf/pull/manifests/"+ref, nil, "Accept", typeManifest), 200)
			if a.Header.Get("Content-Type") != typeManifest || a.Header.Get("Docker-Content-Digest") != sum(m) || method == http.MethodGet && !bytes.Equal(a.body, m) {
				t.Errorf("%s of manifest %s: %v %s", method, ref, a.Header, a.body)
			}
		}
		c.fails(c.do(method, "/v2/conf/pull/manifests/nothing", nil), "MANIFEST_UNKNOWN", 404)
		c.fails(c.do(method, "/v2/conf/pull/manifests/"+none, nil), "MANIFEST_UNKNOWN", 404)
	}
	part := c.want(c.do(http.MethodGet, "/v2/conf/pull/blobs/"+d, nil, "Range", "bytes=2-5"), 206)
	if string(part.body) != "blob" || part.Header.Get("Content-Range") != fmt.Sprintf("bytes 2-5/%d", len(b)) {
		t.Errorf("a range: %q, %v", part.body, part.Header)
	}
	c.want(c.do(http.MethodGet, "/v2/conf/pull/blobs/"+d, nil, "Range", "bytes=100-"), 416)
	c.want(c.do(http.MethodGet, "/v2/conf/PULL/manifests/1", nil), 400, 404)
}

func TestDistributionPush(t *testing.T) {
	t.Parallel()
	c := served(t, options{})
	b := []byte("0123456789abcdefghij")
	// In one request (end-4b): done, or a session like any other.
	if a := c.want(c.do(http.MethodPost, with("/v2/conf/push/blobs/uploads/", "digest", sum(b)), b, "Content-Type", "application/octet-stream"), 201, 202); a.StatusCode == http.StatusAccepted {
		c.want(c.do(http.MethodPut, with(c.where(a), "digest", sum(b)), b, "Content-Type", "application/octet-stream"), 201)
	}
	c.want(c.do(http.MethodHead, "/v2/conf/push/blobs/"+sum(b), nil), 200)

	// In pieces (end-5), asked about in between (end-13), out of order, and finished.
	b = []byte("chunk one, chunk two")
	a := c.want(c.do(http.MethodPost, "/v2/conf/push/blobs/uploads/", nil, "Content-Length", "0"), 202)
	chunk := func(at string, from, to int) answer {
		t.Helper()
		return c.do(http.MethodPatch, at, b[from:to], "Content-Type", "application/octet-stream", "Content-Range", fmt.Sprintf("%d-%d", from, to-1))
	}
	c.want(chunk(c.where(a), 10, 20), 416)
	a = c.want(chunk(c.where(a), 0, 10), 202)
	if got := a.Header.Get("Range"); got != "0-9" {
		t.Errorf("after 10 bytes the range is %q", got)
	}
	if got := c.want(c.do(http.MethodGet, c.where(a), nil), 204).Header.Get("Range"); got != "0-9" {
		t.Errorf("an upload of 10 bytes says %q", got)
	}
	c.want(chunk(c.where(a), 0, 10), 416)
	a = c.want(chunk(c.where(a), 10, 20), 202)
	c.want(c.do(http.MethodPut, with(c.where(a), "digest", sum(b)), nil), 201)
	if got := c.want(c.do(http.MethodGet, "/v2/conf/push/blobs/"+sum(b), nil), 200); !bytes.Equal(got.body, b) {
		t.Errorf("put together: %q", got.body)
	}

	// What is not what its digest says, and a session that was given up.
	at := c.where(c.do(http.MethodPost, "/v2/conf/push/blobs/uploads/", nil))
	c.fails(c.do(http.MethodPut, with(at, "digest", sum([]byte("other"))), b, "Content-Type", "application/octet-stream"), "DIGEST_INVALID", 400)
	at = c.where(c.do(http.MethodPost, "/v2/conf/push/blobs/uploads/", nil))
	c.want(c.do(http.MethodDelete, at, nil), 204)
	c.fails(c.do(http.MethodGet, at, nil), "BLOB_UPLOAD_UNKNOWN", 404)

	// From another repository (end-11), and one that does not have it.
	a = c.want(c.do(http.MethodPost, "/v2/conf/mounted/blobs/uploads/?mount="+sum(b)+"&from=conf/push", nil), 201)
	c.want(c.do(http.MethodGet, c.where(a), nil), 200)
	c.want(c.do(http.MethodPost, "/v2/conf/mounted/blobs/uploads/?mount="+sum([]byte("x"))+"&from=conf/push", nil), 202)

	// Manifests (end-7): by tag, by digest, an index, and what is none.
	m := c.manifest("conf/push", "1", "one", nil)
	c.manifest("conf/push", "", "two", nil)
	idx, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{{typeManifest, sum(m), len(m)}}})
	if err != nil {
		t.Fatal(err)
	}
	c.want(c.do(http.MethodPut, "/v2/conf/push/manifests/all", idx, "Content-Type", typeIndex), 201)
	c.fails(c.do(http.MethodPut, "/v2/conf/push/manifests/bad", []byte("blablabla"), "Content-Type", typeManifest), "MANIFEST_INVALID", 400)
	c.fails(c.do(http.MethodPut, "/v2/conf/push/manifests/"+sum([]byte("x")), m, "Content-Type", typeManifest), "DIGEST_INVALID", 400)
	c.fails(c.do(http.MethodPut, "/v2/conf/elsewhere/manifests/1", m, "Content-Type", typeManifest), "MANIFEST_BLOB_UNKNOWN", 400, 404)
	// What refers to another is stored, also before that one is.
	later := descriptor{typeManifest, sum([]byte("later")), 5}
	c.manifest("conf/push", "", "about", &later)
}

func TestDistributionDiscovery(t *testing.T) {
	t.Parallel()
	c := served(t, options{})
	for _, tag := range []string{"b", "d", "a", "c"} {
		c.manifest("conf/tags", tag, "of "+tag, nil)
	}
	list := func(query string, want ...string) answer { // end-8
		t.Helper()
		a := c.want(c.do(http.MethodGet, "/v2/conf/tags/tags/list"+query, nil), 200)
		var got struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &got); err != nil || got.Name != "conf/tags" || !slices.Equal(got.Tags, want) {
			t.Errorf("tags%s: %s (%v), want %v", query, a.body, err, want)
		}
		return a
	}
	list("", "a", "b", "c", "d")
	a := list("?n=2", "a", "b")
	next, _, ok := strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	if !ok {
		t.Fatalf("two of four, and no link to the rest: %v", a.Header)
	}
	u, err := url.Parse(next)
	if err != nil {
		t.Fatal(err)
	}
	list("?"+u.RawQuery, "c", "d")
	list("?last=b", "c", "d")
	list("?n=1&last=a", "b")
	c.fails(c.do(http.MethodGet, "/v2/conf/nothing/tags/list", nil), "NAME_UNKNOWN", 404)
	// end-12: the API for what refers to a digest is not there, which a client is to
	// take for "look into the tag": not an error of any other kind.
	c.want(c.do(http.MethodGet, "/v2/conf/tags/referrers/"+sum([]byte("x")), nil), 404)
}

func TestDistributionManagement(t *testing.T) {
	t.Parallel()
	c := served(t, options{})
	m := c.manifest("conf/gone", "1", "one", nil)
	c.want(c.do(http.MethodDelete, "/v2/conf/gone/manifests/1", nil), 202) // end-9, a tag
	c.fails(c.do(http.MethodGet, "/v2/conf/gone/manifests/1", nil), "MANIFEST_UNKNOWN", 404)
	c.want(c.do(http.MethodGet, "/v2/conf/gone/manifests/"+sum(m), nil, "Accept", typeManifest), 200)
	c.want(c.do(http.MethodDelete, "/v2/conf/gone/manifests/"+sum(m), nil), 202)
	c.fails(c.do(http.MethodGet, "/v2/conf/gone/manifests/"+sum(m), nil), "MANIFEST_UNKNOWN", 404)
	c.fails(c.do(http.MethodDelete, "/v2/conf/gone/manifests/"+sum(m), nil), "MANIFEST_UNKNOWN", 404)
	d := c.blob("conf/gone", []byte("a blob")) // end-10
	c.want(c.do(http.MethodDelete, "/v2/conf/gone/blobs/"+d, nil), 202)
	c.fails(c.do(http.MethodGet, "/v2/conf/gone/blobs/"+d, nil), "BLOB_UNKNOWN", 404)
	c.fails(c.do(http.MethodDelete, "/v2/conf/gone/blobs/"+d, nil), "BLOB_UNKNOWN", 404)
	var tags struct{ Tags []string }
	if a := c.do(http.MethodGet, "/v2/conf/gone/tags/list", nil); a.StatusCode == http.StatusOK {
		if err := json.Unmarshal(a.body, &tags); err != nil || len(tags.Tags) > 0 {
			t.Errorf("tags of what was deleted: %s, %v", a.body, err)
		}
	}
}

func TestDistributionReadOnly(t *testing.T) {
	t.Parallel()
	c := served(t, options{readOnly: true})
	c.want(c.do(http.MethodPost, "/v2/conf/ro/blobs/uploads/", nil), 405)
	c.want(c.do(http.MethodPut, "/v2/conf/ro/manifests/1", []byte("{}"), "Content-Type", typeManifest), 405)
	c.want(c.do(http.MethodDelete, "/v2/conf/ro/manifests/"+sum(nil), nil), 405)
}
