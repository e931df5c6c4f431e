package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"hull/internal/hull"
)

// TestTellSteps shows a base image as the Dockerfile has it, not as BuildKit
// spells it out.
func TestTellSteps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const file = "ARG X=1\nFROM alpine\nFROM --platform=linux/amd64 reg.example/a:2 AS b\nfrom alpine@sha256:e2e16842c9b54d985bf1ef9242a313f36b856181f188de21313820e177002501\nFROM $X\nRUN true\n"
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := bases(files, "missing"); got != nil {
		t.Errorf("bases of a file that is not there: %v", got)
	}
	var got string
	tell := teller{
		event: func(e hull.BuildEvent) { got += e.Text }, seen: map[string]bool{}, bases: bases(files, "other"),
	}
	now := time.Now()
	const sum = "@sha256:e2e16842c9b54d985bf1ef9242a313f36b856181f188de21313820e177002501"
	for _, name := range []string{
		"[internal] load build definition from other", "[a 1/2] FROM docker.io/library/alpine:latest" + sum,
		"[b 1/2] FROM reg.example/a:2" + sum, "[c 1/1] FROM docker.io/library/alpine" + sum,
		"[d 1/1] FROM docker.io/library/unknown:1", "[a 2/2] RUN true",
	} {
		v := &client.Vertex{Name: name, Digest: digest.FromString(name), Started: &now}
		tell.tell(&client.SolveStatus{Vertexes: []*client.Vertex{v, v}})
	}
	want := `Step 1/2 : FROM alpine
Step 1/2 : FROM --platform=linux/amd64 reg.example/a:2 AS b
Step 1/1 : from alpine@sha256:e2e16842c9b54d985bf1ef9242a313f36b856181f188de21313820e177002501
Step 1/1 : FROM docker.io/library/unknown:1
Step 2/2 : RUN true
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
