package docker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"hull/internal/hull"
)

// BenchmarkList is docker ps -a with 1,000 containers, without the connection.
func BenchmarkList(b *testing.B) {
	images := newFakeImages()
	engine := newFakeEngine(images)
	for i := range 1000 {
		c := &fakeContainer{rec: hull.Container{
			ID: fakeID(i % 90), Name: "n", Created: epoch, Resolved: hull.Resolved{Path: "sh", Args: []string{"-c", "a b"}, Exposed: []string{"80/tcp"}},
			Status: hull.Status{Phase: hull.Running, StartedAt: epoch, Endpoint: hull.Endpoint{
				Networks: map[string]hull.NetworkEndpoint{"bridge": {NetworkID: "n", IPv4: "172.17.0.2", Gateway4: "172.17.0.1", MacAddress: "02:42:ac:11:00:02"}},
				Ports:    []hull.PublishedPort{{ContainerPort: 80, Proto: "tcp", HostPort: 8080}},
			}},
		}}
		engine.all = append(engine.all, c)
	}
	s := New(Config{}, Parts{Containers: engine, Images: images})
	for b.Loop() {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1.50/containers/json?all=1", http.NoBody))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}

// BenchmarkCreate is decoding and translating a large create request.
func BenchmarkCreate(b *testing.B) {
	raw, err := os.ReadFile("testdata/create/full.json")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var body createBody
		if err := json.Unmarshal(raw, &body); err != nil {
			b.Fatal(err)
		}
		if _, _, err := toSpec(createFor(maxVersion, body), ""); err != nil {
			b.Fatal(err)
		}
	}
}
