package layer

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteArchive writes layers (uncompressed tars, lowest first) and a
// configuration as one tar that is a docker-archive and an OCI layout at once.
func WriteArchive(file, ref string, conf imagespec.ImageConfig, layers []string) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		tmp.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	buf := bufio.NewWriterSize(tmp, 1<<20)
	tw := tar.NewWriter(buf)
	created := time.Now().UTC().Truncate(time.Second)
	image := imagespec.Image{
		Created:  &created,
		Platform: imagespec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   conf,
		RootFS:   imagespec.RootFS{Type: "layers"},
	}
	manifest := imagespec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest}
	var paths []string
	for _, l := range layers {
		d, err := addFile(tw, l)
		if err != nil {
			return err
		}
		d.MediaType = imagespec.MediaTypeImageLayer
		manifest.Layers = append(manifest.Layers, d)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, d.Digest)
		image.History = append(image.History, imagespec.History{Created: &created, CreatedBy: "test/images " + ref})
		paths = append(paths, blobPath(d.Digest))
	}
	if manifest.Config, err = addJSON(tw, image, imagespec.MediaTypeImageConfig); err != nil {
		return err
	}
	top, err := addJSON(tw, manifest, imagespec.MediaTypeImageManifest)
	if err != nil {
		return err
	}
	top.Annotations = map[string]string{
		"io.containerd.image.name":         "docker.io/library/" + ref,
		imagespec.AnnotationRefName:        ref[len(ref)-len("latest"):],
		"org.opencontainers.image.created": created.Format(time.RFC3339),
	}
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: []imagespec.Descriptor{top}}
	docker := []any{map[string]any{"Config": blobPath(manifest.Config.Digest), "RepoTags": []string{ref}, "Layers": paths}}
	for _, part := range []struct {
		name string
		v    any
	}{{"index.json", index}, {"manifest.json", docker}, {imagespec.ImageLayoutFile, imagespec.ImageLayout{Version: imagespec.ImageLayoutVersion}}} {
		b, err := json.Marshal(part.v)
		if err != nil {
			return err
		}
		if err := add(tw, part.name, b); err != nil {
			return err
		}
	}
	if err := errors.Join(tw.Close(), buf.Flush(), tmp.Chmod(0o644)); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

func blobPath(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func add(tw *tar.Writer, name string, b []byte) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := tw.Write(b)
	return err
}

func addJSON(tw *tar.Writer, v any, mediaType string) (imagespec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	d := imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, add(tw, blobPath(d.Digest), b)
}

func addFile(tw *tar.Writer, file string) (imagespec.Descriptor, error) {
	f, err := os.Open(file)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	defer f.Close()
	dig, err := digest.FromReader(f)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return imagespec.Descriptor{}, err
	}
	if err := tw.WriteHeader(&tar.Header{Name: blobPath(dig), Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return imagespec.Descriptor{}, err
	}
	_, err = io.Copy(tw, f)
	return imagespec.Descriptor{Digest: dig, Size: size}, err
}
