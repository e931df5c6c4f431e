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

// missingFile words a missing file as Docker does.
func (a *containerAPI) missingFile(r *http.Request, path string, err error) error {
	err = a.missing(r.Context(), ref(r), err)
	if errdefs.IsNotFound(err) {
		return notFound("Could not find the file %s in container %s", path, ref(r))
	}
	return err
}

func (a *containerAPI) statArchive(w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	st, err := a.engine.StatPath(r.Context(), ref(r), path)
	if err != nil {
		return a.missingFile(r, path, err)
	}
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *containerAPI) getArchive(w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	tar, st, err := a.engine.CopyFrom(r.Context(), ref(r), path)
	if err != nil {
		return a.missingFile(r, path, err)
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
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	tar, err := decompress(r.Body)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }()
	err = a.engine.CopyTo(r.Context(), ref(r), hull.CopyToRequest{
		Path: path, NoOverwriteDirNonDir: boolQuery(r, "noOverwriteDirNonDir"), CopyUIDGID: boolQuery(r, "copyUIDGID"),
	}, tar)
	if err != nil {
		return a.missingFile(r, path, err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
