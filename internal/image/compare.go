package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/image/packed"
)

// Compare words the first difference between two images of this host's platform;
// "" = they are the same, byte for byte.
func (s *store) Compare(ctx context.Context, a, b string) (string, error) {
	ctx = s.ns(ctx)
	var both [2]*parsed
	var manifests [2]digest.Digest
	for i, ref := range []string{a, b} {
		entries, err := s.view.Load().find(ref)
		if err != nil {
			return "", err
		}
		e, err := s.choose(entries, ref, "")
		if err != nil {
			return "", err
		}
		if both[i], err = s.readImage(ctx, e.manifest); err != nil {
			return "", err
		}
		manifests[i] = e.manifest.Digest
	}
	if manifests[0] == manifests[1] {
		return "", nil
	}
	for i := range min(len(both[0].chains), len(both[1].chains)) {
		if both[0].config.RootFS.DiffIDs[i] == both[1].config.RootFS.DiffIDs[i] {
			continue
		}
		d, err := s.compareLayers(ctx, both[0].manifest.Layers[i], both[1].manifest.Layers[i])
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("layer %d: %s", i+1, d), nil
	}
	if m, n := len(both[0].chains), len(both[1].chains); m != n {
		return fmt.Sprintf("%d layers and %d", m, n), nil
	}
	if d, err := compareJSON(both[0].raw, both[1].raw); d != "" || err != nil {
		return "configuration: " + d, err
	}
	for i := range both[0].manifest.Layers {
		if x, y := both[0].manifest.Layers[i], both[1].manifest.Layers[i]; x.Digest != y.Digest {
			return fmt.Sprintf("layer %d has the same files, and is packed as %s (%d bytes) and %s (%d bytes)", i+1, x.MediaType, x.Size, y.MediaType, y.Size), nil
		}
	}
	return fmt.Sprintf("manifests %s and %s, which list the same content", manifests[0], manifests[1]), nil
}

// compareJSON names the first field in which two objects differ.
func compareJSON(a, b []byte) (string, error) {
	var x, y map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return "", badDocument("image configuration", err)
	}
	keys := slices.Concat(slices.Collect(maps.Keys(x)), slices.Collect(maps.Keys(y)))
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		if !bytes.Equal(x[k], y[k]) {
			return fmt.Sprintf("%s is %s and %s", k, excerpt(x[k]), excerpt(y[k])), nil
		}
	}
	return "", nil
}

// excerpt keeps a message on a screen.
func excerpt(b []byte) string {
	const most = 300
	if len(b) > most {
		return string(b[:most]) + "..."
	}
	return string(b)
}

// compareLayers finds the first file in which two layers differ.
func (s *store) compareLayers(ctx context.Context, a, b ocispec.Descriptor) (string, error) {
	x, err := s.openLayer(ctx, a)
	if err != nil {
		return "", err
	}
	defer x.Close() //nolint:errcheck // only read
	y, err := s.openLayer(ctx, b)
	if err != nil {
		return "", err
	}
	defer y.Close() //nolint:errcheck // only read
	for {
		f, err := x.next()
		if err != nil {
			return "", err
		}
		g, err := y.next()
		if err != nil {
			return "", err
		}
		switch {
		case f == nil && g == nil:
			return "the same files in different archives", nil
		case f == nil:
			return g.Name + " is only in the second", nil
		case g == nil:
			return f.Name + " is only in the first", nil
		case f.Name != g.Name:
			return fmt.Sprintf("%s where the other has %s", f.Name, g.Name), nil
		}
		if d := f.differs(g); d != "" {
			return f.Name + ": " + d, nil
		}
	}
}

// layerFile is a file of a layer with the digest of what is in it.
type layerFile struct {
	*tar.Header
	content digest.Digest
}

// differs says in what two files of one name differ.
func (f *layerFile) differs(g *layerFile) string {
	for _, x := range []struct {
		what string
		a, b any
	}{
		{"type", string(f.Typeflag), string(g.Typeflag)},
		{"link", f.Linkname, g.Linkname},
		{"size", f.Size, g.Size},
		{"content", f.content, g.content},
		{"mode", fmt.Sprintf("%o", f.Mode), fmt.Sprintf("%o", g.Mode)},
		{"owner", fmt.Sprintf("%d:%d", f.Uid, f.Gid), fmt.Sprintf("%d:%d", g.Uid, g.Gid)},
		{"time", f.ModTime.UTC().String(), g.ModTime.UTC().String()},
		{"attributes", fmt.Sprint(f.PAXRecords), fmt.Sprint(g.PAXRecords)},
	} {
		if x.a != x.b {
			return fmt.Sprintf("%s is %v and %v", x.what, x.a, x.b)
		}
	}
	return ""
}

// layerReader reads the files of a stored layer.
type layerReader struct {
	tar   *tar.Reader
	close func() error
}

// Close ends it.
func (r *layerReader) Close() error { return r.close() }

func (s *store) openLayer(ctx context.Context, d ocispec.Descriptor) (*layerReader, error) {
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: d.Digest})
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	plain, _, err := packed.Decompress(content.NewReader(ra))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read layer %s: %w", d.Digest, err), ra.Close())
	}
	return &layerReader{tar.NewReader(plain), func() error { return errors.Join(plain.Close(), ra.Close()) }}, nil
}

// next is the next file, nil at the end.
func (r *layerReader) next() (*layerFile, error) {
	h, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, badDocument("read layer", err)
	}
	f := &layerFile{Header: h}
	sum := digest.Canonical.Digester()
	if _, err := io.Copy(sum.Hash(), r.tar); err != nil {
		return nil, badDocument("read layer", err)
	}
	f.content = sum.Digest()
	return f, nil
}
