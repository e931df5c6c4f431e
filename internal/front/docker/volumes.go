package docker

import (
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"hull/internal/hull"
)

// volumeAPI are the routes below /volumes.
type volumeAPI struct {
	volumes Volumes
	files   VolumeFiles
	maxBody int64
}

func (a *volumeAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), volumeFilters)
	if err != nil {
		return err
	}
	_, hasDangling := f["dangling"]
	dangling, err := f.flag("dangling", false)
	if err != nil {
		return err
	}
	all, err := a.volumes.List(r.Context())
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	name := f.matcher("name")
	out := volume.ListResponse{Volumes: []volume.Volume{}}
	for _, v := range all {
		if !name(v.Name) || !f.exact("driver", v.Driver) || !f.labels(v.Labels) {
			continue
		}
		if hasDangling {
			_, refs, err := a.volumes.Usage(r.Context(), v.Name)
			if err != nil || dangling != (refs == 0) {
				continue
			}
		}
		out.Volumes = append(out.Volumes, toVolume(v))
	}
	return reply(w, out)
}

func toVolume(v hull.Volume) volume.Volume {
	return volume.Volume{
		Name: v.Name, Driver: firstOf(v.Driver, "local"), Mountpoint: v.Mountpoint, CreatedAt: v.Created.Format("2006-01-02T15:04:05Z07:00"),
		Labels: v.Labels, Options: v.Options, Scope: firstOf(v.Scope, "local"),
	}
}

func (a *volumeAPI) create(w http.ResponseWriter, r *http.Request) error {
	var body volume.CreateRequest
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	if body.ClusterVolumeSpec != nil {
		return errNotManager()
	}
	if body.Name != "" && !volumeName.MatchString(body.Name) {
		return invalid("create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", body.Name, body.Name)
	}
	v, err := a.volumes.Create(r.Context(), hull.Volume{
		Name: body.Name, Driver: firstOf(body.Driver, "local"), Labels: body.Labels, Options: body.DriverOpts, Anonymous: body.Name == "",
	})
	if err != nil {
		return err //nolint:wrapcheck // the service names the volume
	}
	writeJSON(w, http.StatusCreated, toVolume(v))
	return nil
}

func (a *volumeAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	v, err := a.volumes.Get(r.Context(), name)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, toVolume(v))
}

func (a *volumeAPI) remove(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	force := boolQuery(r, "force")
	err := a.volumes.Remove(r.Context(), name, force)
	if err != nil && !(force && errdefs.IsNotFound(err)) {
		return err //nolint:wrapcheck // the service names the object
	}
	return noContent(w)
}

func (a *volumeAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), volumePruneFilters)
	if err != nil {
		return err
	}
	// Since 1.42 only anonymous volumes go unless all is said.
	all, err := f.flag("all", versionOf(r) < 42)
	if err != nil {
		return err
	}
	report, err := a.volumes.Prune(r.Context(), func(v hull.Volume) bool {
		return !all && !v.Anonymous || !f.labels(v.Labels)
	})
	if err != nil {
		return fmt.Errorf("prune volumes: %w", err)
	}
	return reply(w, volume.PruneReport{VolumesDeleted: orEmpty(report.Deleted), SpaceReclaimed: uint64(report.Reclaimed)}) //nolint:gosec // not negative
}
