package docker

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

// pathStatHeader carries the stat of the path that an archive is of.
const pathStatHeader = "X-Docker-Container-Path-Stat"

func setPathStat(w http.ResponseWriter, s hull.PathStat) error {
	b, err := json.Marshal(container.PathStat{Name: s.Name, Size: s.Size, Mode: s.Mode, Mtime: s.Mtime, LinkTarget: s.LinkTarget})
	if err != nil {
		return fmt.Errorf("encode path stat: %w", err)
	}
	w.Header().Set(pathStatHeader, base64.StdEncoding.EncodeToString(b))
	return nil
}

// archivePath is the path parameter, which must not be empty.
func archivePath(r *http.Request) (string, error) {
	p := r.FormValue("path")
	if p == "" {
		return "", invalid("bad parameter: 'path' cannot be empty")
	}
	return p, nil
}

// missingFile words a missing file as Docker does. The container is there: the
// handlers look first.
func missingFile(ref, path string, err error) error {
	if errdefs.IsNotFound(err) {
		return notFound("Could not find the file %s in container %s", path, ref)
	}
	return err
}

// archiveOf is the container and the path that an archive request is about.
func (a *containerAPI) archiveOf(r *http.Request) (hull.Container, string, error) {
	path, err := archivePath(r)
	if err != nil {
		return hull.Container{}, "", err
	}
	c, err := a.engine.Container(r.Context(), ref(r))
	return c, path, err //nolint:wrapcheck // the engine names the object
}

func (a *containerAPI) statArchive(w http.ResponseWriter, r *http.Request) error {
	c, path, err := a.archiveOf(r)
	if err != nil {
		return err
	}
	st, err := a.engine.StatPath(r.Context(), c.ID, path)
	if err != nil {
		return missingFile(ref(r), path, err)
	}
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *containerAPI) getArchive(w http.ResponseWriter, r *http.Request) error {
	c, path, err := a.archiveOf(r)
	if err != nil {
		return err
	}
	tar, st, err := a.engine.CopyFrom(r.Context(), c.ID, path)
	if err != nil {
		return missingFile(ref(r), path, err)
	}
	defer func() { _ = tar.Close() }()
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if _, err := io.Copy(w, tar); err != nil {
		return fmt.Errorf("copy %s from container %s: %w", path, ref(r), err)
	}
	return nil
}

func (a *containerAPI) putArchive(w http.ResponseWriter, r *http.Request) error {
	c, path, err := a.archiveOf(r)
	if err != nil {
		return err
	}
	tar, err := decompress(r.Body)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }()
	err = a.engine.CopyTo(r.Context(), c.ID, hull.CopyToRequest{
		Path: path, NoOverwriteDirNonDir: boolQuery(r, "noOverwriteDirNonDir"), CopyUIDGID: boolQuery(r, "copyUIDGID"),
	}, tar)
	if err != nil {
		return missingFile(ref(r), path, err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
