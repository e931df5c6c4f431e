package docker

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"hull/internal/hull"
)

// VolumeFiles are the engine's verbs on what is in a volume.
type VolumeFiles interface {
	VolumeStat(ctx context.Context, name, path string) (hull.PathStat, error)
	VolumeCopyFrom(ctx context.Context, name, path string) (io.ReadCloser, hull.PathStat, error) // a tar
	VolumeCopyTo(ctx context.Context, name string, r hull.CopyToRequest, tar io.Reader) error
}

// volumeVerb is a POST of hull's own that gives a volume.
func (a *volumeAPI) verb(do func(v Volumes, ctx context.Context, name, to string) (hull.Volume, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := do(a.volumes, r.Context(), r.PathValue("name"), r.FormValue("name"))
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusCreated, toVolume(v))
		return nil
	}
}

func (a *volumeAPI) statArchive(w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	st, err := a.files.VolumeStat(r.Context(), r.PathValue("name"), path)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return setPathStat(w, st)
}

func (a *volumeAPI) getArchive(w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	tar, st, err := a.files.VolumeCopyFrom(r.Context(), r.PathValue("name"), path)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	defer func() { _ = tar.Close() }()
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if _, err := io.Copy(w, tar); err != nil {
		return fmt.Errorf("copy %s from volume %s: %w", path, r.PathValue("name"), err)
	}
	return nil
}

func (a *volumeAPI) putArchive(w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	tar, err := decompress(r.Body)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }()
	err = a.files.VolumeCopyTo(r.Context(), r.PathValue("name"), hull.CopyToRequest{
		Path: path, NoOverwriteDirNonDir: boolQuery(r, "noOverwriteDirNonDir"), CopyUIDGID: boolQuery(r, "copyUIDGID"),
	}, tar)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
