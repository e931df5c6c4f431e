package image

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/trust"
)

// FuzzManifest: what is accepted as a manifest has valid digests and is no index
// at the same time.
func FuzzManifest(f *testing.F) {
	f.Add(simple(f).manifest)
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"sha256:x"}]}`))
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[{}]}`))
	f.Add([]byte(`{"schemaVersion":2,"layers":[],"manifests":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, ierr := parseIndex(b, ocispec.MediaTypeImageIndex)
		m, merr := parseManifest(b, ocispec.MediaTypeImageManifest)
		var both struct {
			Manifests []json.RawMessage
			Layers    []json.RawMessage
		}
		if ierr == nil && merr == nil && json.Unmarshal(b, &both) == nil && len(both.Manifests) > 0 && len(both.Layers) > 0 {
			t.Error("accepted as both an index and a manifest")
		}
		if merr != nil {
			return
		}
		for _, d := range append(m.Layers, m.Config) {
			if d.Digest.Validate() != nil || d.Size < 0 || len(d.URLs) > 0 {
				t.Errorf("accepted %+v", d)
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(simple(f).config)
	f.Add([]byte(`{"config":{"Cmd":"one string","Healthcheck":{"Interval":-1}},"rootfs":{"diff_ids":["sha256:1"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err != nil {
			return
		}
		for _, d := range c.RootFS.DiffIDs {
			if d.Validate() != nil {
				t.Errorf("accepted layer %q", d)
			}
		}
		_ = c.Config.domain()
	})
}

// FuzzReference: no string makes the look-up do anything but find nothing.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"a", "a:b", "sha256:", "sha256:" + strings.Repeat("a", 64), "x@sha256:" + strings.Repeat("a", 64), strings.Repeat("f", 64), "../..", "A/b", "localhost:5000/x:y@z"} {
		f.Add(s)
	}
	v := &view{}
	f.Fuzz(func(t *testing.T, s string) {
		if list, err := v.find(s); err == nil || len(list) > 0 {
			t.Errorf("%q was found", s)
		}
		if n, err := reference.ParseNormalizedNamed(s); err == nil {
			repo, _ := splitName(reference.TagNameOnly(n).String())
			if repo != n.Name() {
				t.Errorf("repository of %q is %q and not %q", s, repo, n.Name())
			}
		}
	})
}

// FuzzChanges: an instruction is applied or refused.
func FuzzChanges(f *testing.F) {
	for _, s := range []string{`ENV a="b c" d='e'`, "EXPOSE 1-65535/tcp 99999", "HEALTHCHECK --interval=x CMD y", `CMD ["a"`, "LABEL a", "ONBUILD"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		_, _ = applyChanges(runConfig{}, []string{s}) //nolint:errcheck // any answer is fine
	})
}

// FuzzSignature: what claims to be a manifest of signatures is read or refused.
func FuzzSignature(f *testing.F) {
	one, err := cosignManifest(nil, trust.Signature{Format: trust.Cosign, Payload: []byte("{}"), Value: "eA=="})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one.bytes)
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"digest":"sha256:12"}],"subject":{}}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		read := func(_ context.Context, d ocispec.Descriptor, _ int64) ([]byte, error) {
			if d.Digest == "" {
				return b, nil
			}
			return []byte("{}"), nil
		}
		_, _ = readSigned(context.Background(), read, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, "") //nolint:errcheck // any answer is fine
	})
}
