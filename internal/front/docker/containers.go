package docker

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

// containerAPI are the routes below /containers.
type containerAPI struct {
	engine  Containers
	images  Images
	maxBody int64
}

func (a *containerAPI) create(w http.ResponseWriter, r *http.Request) error {
	c, warnings, err := a.made(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, container.CreateResponse{ID: c.ID, Warnings: warnings})
	return nil
}

// made makes the container that a request describes; warnings is never nil.
func (a *containerAPI) made(r *http.Request) (_ hull.Container, warnings []string, err error) {
	name, err := checkName(r.FormValue("name"))
	if err != nil {
		return hull.Container{}, nil, err
	}
	var body createBody
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		if err.Error() == noJSON { // a create has its own words for it
			err = invalid("invalid JSON: EOF")
		}
		return hull.Container{}, nil, err
	}
	if err := checkCreate(versionOf(r), body); err != nil {
		return hull.Container{}, nil, err
	}
	spec, warnings, err := toSpec(createFor(versionOf(r), body), r.FormValue("platform"))
	if err != nil {
		return hull.Container{}, nil, err
	}
	c, more, err := a.engine.Create(r.Context(), name, spec)
	return c, orEmpty(append(warnings, more...)), nameTaken(err)
}

// nameTaken is Docker's text for a name that is in use.
func nameTaken(err error) error {
	if taken, ok := errors.AsType[*hull.NameTakenError](err); ok {
		return conflict("Conflict. The container name \"/%s\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", taken.Name, taken.ID)
	}
	return err
}

func (a *containerAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	c, err := a.engine.Container(r.Context(), ref(r))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	out := toInspect(c)
	if boolQuery(r, "size") {
		rw, root, err := a.engine.Size(r.Context(), c.ID)
		if err != nil {
			return fmt.Errorf("size of container %s: %w", c.Name, err)
		}
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return reply(w, inspectFor(versionOf(r), c, out))
}

func (a *containerAPI) list(w http.ResponseWriter, r *http.Request) error {
	limit, err := intQuery(r, "limit")
	if err != nil {
		return err
	}
	f, err := parseFilters(r.FormValue("filters"), containerFilters)
	if err != nil {
		return err
	}
	all, err := a.engine.List(r.Context())
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	pick, err := a.selector(r.Context(), f, all, boolQuery(r, "all"), limit)
	if err != nil {
		return err
	}
	now, image := time.Now(), a.imageColumn(r.Context())
	if minimal(r) && !boolQuery(r, "size") {
		w.Header().Set("Preference-Applied", "return=minimal")
		rows := []tableRow{}
		for _, c := range pick(all) {
			rows = append(rows, toTableRow(*c, image(*c), now))
		}
		return reply(w, rows)
	}
	out := []container.Summary{}
	for _, c := range pick(all) {
		s := toSummary(*c, image(*c), now)
		if boolQuery(r, "size") {
			if s.SizeRw, s.SizeRootFs, err = a.engine.Size(r.Context(), c.ID); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("size of container %s: %w", c.Name, err)
			}
		}
		out = append(out, s)
	}
	return reply(w, summariesFor(versionOf(r), out))
}

func (a *containerAPI) start(w http.ResponseWriter, r *http.Request) error {
	if err := checkCheckpoint(r.FormValue("checkpoint")); err != nil {
		return err
	}
	if err := a.engine.Start(r.Context(), ref(r)); err != nil {
		return startError(err)
	}
	return noContent(w)
}

// stopRequest reads t and signal; before 1.42 there was no signal.
func stopRequest(r *http.Request) (hull.StopRequest, error) {
	t, err := intQuery(r, "t")
	if err != nil {
		return hull.StopRequest{}, err
	}
	out := hull.StopRequest{Timeout: t}
	if versionOf(r) >= 42 {
		out.Signal = r.FormValue("signal")
	}
	return out, checkSignal(out.Signal)
}

func (a *containerAPI) stop(w http.ResponseWriter, r *http.Request) error {
	q, err := stopRequest(r)
	if err != nil {
		return err
	}
	if err := a.engine.Stop(r.Context(), ref(r), q); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return noContent(w)
}

func (a *containerAPI) restart(w http.ResponseWriter, r *http.Request) error {
	q, err := stopRequest(r)
	if err != nil {
		return err
	}
	if err := a.engine.Restart(r.Context(), ref(r), q); err != nil {
		return startError(err)
	}
	return noContent(w)
}

func (a *containerAPI) kill(w http.ResponseWriter, r *http.Request) error {
	sig := r.FormValue("signal")
	if err := checkSignal(sig); err != nil {
		return err
	}
	if err := a.engine.Kill(r.Context(), ref(r), sig); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return noContent(w)
}

func (a *containerAPI) pause(w http.ResponseWriter, r *http.Request) error {
	if err := a.engine.Pause(r.Context(), ref(r)); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return noContent(w)
}

func (a *containerAPI) unpause(w http.ResponseWriter, r *http.Request) error {
	if err := a.engine.Unpause(r.Context(), ref(r)); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return noContent(w)
}

func (a *containerAPI) rename(w http.ResponseWriter, r *http.Request) error {
	name, err := checkName(r.FormValue("name"))
	if err != nil {
		return err
	}
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if err := a.engine.Rename(r.Context(), ref(r), name); err != nil {
		return nameTaken(err)
	}
	return noContent(w)
}

func (a *containerAPI) update(w http.ResponseWriter, r *http.Request) error {
	var body container.UpdateConfig
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	if versionOf(r) < 40 {
		body.PidsLimit = nil // update did not know it
	}
	warnings, err := a.engine.Update(r.Context(), ref(r), toUpdate(body))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return reply(w, container.UpdateResponse{Warnings: orEmpty(warnings)})
}

func toUpdate(b container.UpdateConfig) hull.UpdateRequest {
	res := toResources(b.Resources, 0, 0)
	out := hull.UpdateRequest{Resources: &res}
	if b.RestartPolicy.Name != "" {
		out.Restart = &hull.RestartPolicy{Name: string(b.RestartPolicy.Name), MaxRetries: b.RestartPolicy.MaximumRetryCount}
	}
	return out
}

func (a *containerAPI) remove(w http.ResponseWriter, r *http.Request) error {
	if boolQuery(r, "link") {
		if err := a.engine.Unlink(r.Context(), ref(r)); err != nil {
			return err //nolint:wrapcheck // the engine names the object
		}
		return noContent(w)
	}
	q := hull.RemoveRequest{Force: boolQuery(r, "force"), Volumes: boolQuery(r, "v")}
	if err := a.engine.Remove(r.Context(), ref(r), q); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return noContent(w)
}

// wait sends its header as soon as the wait is registered: clients start the
// container only then.
func (a *containerAPI) wait(w http.ResponseWriter, r *http.Request) error {
	cond, err := waitCondition(r.FormValue("condition"))
	if err != nil {
		return err
	}
	wait, err := a.engine.Wait(r.Context(), ref(r), cond)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	return encode(w, waited(wait(r.Context())))
}

func waitCondition(text string) (hull.WaitCondition, error) {
	switch c := hull.WaitCondition(text); c {
	case "":
		return hull.WaitNotRunning, nil
	case hull.WaitNotRunning, hull.WaitNextExit, hull.WaitRemoved:
		return c, nil
	}
	return "", invalid("invalid condition: %q", text)
}

func (a *containerAPI) top(w http.ResponseWriter, r *http.Request) error {
	args := r.FormValue("ps_args")
	if args == "" {
		args = "-ef"
	}
	titles, rows, err := a.engine.Top(r.Context(), ref(r), args)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return reply(w, container.TopResponse{Titles: orEmpty(titles), Processes: orEmpty(rows)})
}

func (a *containerAPI) resize(w http.ResponseWriter, r *http.Request) error {
	rows, cols, err := sizeQuery(r)
	if err != nil {
		return err
	}
	if err := a.engine.Resize(r.Context(), ref(r), rows, cols); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *containerAPI) changes(w http.ResponseWriter, r *http.Request) error {
	changes, err := a.engine.Changes(r.Context(), ref(r))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	var out []container.FilesystemChange // null when nothing changed, as Docker
	for _, c := range changes {
		out = append(out, container.FilesystemChange{Kind: container.ChangeType(c.Kind), Path: c.Path}) //nolint:gosec // 0..2
	}
	return reply(w, out)
}

func (a *containerAPI) export(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.engine.Container(r.Context(), ref(r)); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return a.engine.Export(r.Context(), ref(r), w) //nolint:wrapcheck // the engine names the object
}

func (a *containerAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), pruneFilters)
	if err != nil {
		return err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return err
	}
	report, err := a.engine.Prune(r.Context(), func(c hull.Container) bool {
		return !until.IsZero() && !c.Created.Before(until) || !f.labels(c.Resolved.Labels)
	})
	if err != nil {
		return fmt.Errorf("prune containers: %w", err)
	}
	return reply(w, container.PruneReport{ContainersDeleted: orEmpty(report.Deleted), SpaceReclaimed: uint64(report.Reclaimed)}) //nolint:gosec // not negative
}

func (a *containerAPI) commit(w http.ResponseWriter, r *http.Request) error {
	var body commitBody
	if err := readJSON(r, a.maxBody, true, &body); err != nil {
		return err
	}
	q, err := toCommit(r, body)
	if err != nil {
		return err
	}
	id := strings.TrimPrefix(r.FormValue("container"), "/")
	image, err := a.engine.Commit(r.Context(), id, q)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	writeJSON(w, http.StatusCreated, container.CommitResponse{ID: image})
	return nil
}
