package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

// imageAPI are the routes below /images.
type imageAPI struct {
	images Images
	engine Containers
}

// byName serves the routes whose middle part is an image name, which may hold
// slashes: the last segment is the verb.
func (a *imageAPI) byName(verbs map[string]func(w http.ResponseWriter, r *http.Request, name string) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		rest := r.PathValue("rest")
		i := strings.LastIndexByte(rest, '/')
		if i > 0 {
			if h, ok := verbs[rest[i+1:]]; ok {
				return h(w, r, rest[:i])
			}
		}
		return notFound("page not found")
	}
}

// create is POST /images/create.
func (a *imageAPI) create(w http.ResponseWriter, r *http.Request) error {
	if src := r.FormValue("fromSrc"); src != "" {
		return a.importTar(w, r, src)
	}
	name, all, err := pullName(r.FormValue("fromImage"), r.FormValue("tag"))
	if err != nil {
		return err
	}
	p := newProgressStream(w, r)
	_, err = a.images.Pull(r.Context(), hull.PullRequest{
		Ref: name, All: all, Platform: r.FormValue("platform"), Auth: registryAuth(r), Progress: p.step,
	})
	return p.end(err)
}

// pullName joins fromImage and tag; neither a tag nor a digest means all tags.
func pullName(image, tag string) (string, bool, error) {
	if image == "" {
		return "", false, invalid("invalid reference format")
	}
	switch {
	case strings.Contains(tag, ":"): // a digest
		return image + "@" + tag, false, nil
	case tag != "":
		return image + ":" + tag, false, nil
	}
	last := image[strings.LastIndexByte(image, '/')+1:]
	return image, !strings.ContainsAny(last, ":@"), nil
}

func (a *imageAPI) push(w http.ResponseWriter, r *http.Request, name string) error {
	platform, err := platformQuery(r)
	if err != nil {
		return err
	}
	all := r.FormValue("tag") == "" && !strings.ContainsAny(name[strings.LastIndexByte(name, '/')+1:], ":@")
	if tag := r.FormValue("tag"); tag != "" {
		name += ":" + tag
	}
	p := newProgressStream(w, r)
	return p.end(a.images.Push(r.Context(), hull.PushRequest{
		Ref: name, Platform: platform, All: all, Auth: registryAuth(r), Progress: p.step,
	}))
}

// platformQuery reads "platform" as JSON (what the API says) or "os/arch".
func platformQuery(r *http.Request) (string, error) {
	all, err := platformsQuery(r, "platform")
	if err != nil || len(all) == 0 {
		return "", err
	}
	if len(all) > 1 {
		return "", invalid("multiple platform parameters not supported")
	}
	return all[0], nil
}

func platformsQuery(r *http.Request, key string) ([]string, error) {
	var out []string
	for _, text := range r.Form[key] {
		if text == "" {
			continue
		}
		if !strings.HasPrefix(text, "{") {
			out = append(out, text)
			continue
		}
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.OS == "" || p.Architecture == "" {
			return nil, invalid("failed to parse platform: %q", text)
		}
		out = append(out, platformText(p))
	}
	return out, nil
}

func (a *imageAPI) tag(w http.ResponseWriter, r *http.Request, name string) error {
	repo, tag := r.FormValue("repo"), r.FormValue("tag")
	if repo == "" {
		return invalid("repo query parameter cannot be empty")
	}
	if tag != "" {
		repo += ":" + tag
	}
	if err := a.images.Tag(r.Context(), name, repo); err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (a *imageAPI) inspect(w http.ResponseWriter, r *http.Request, name string) error {
	platform, err := platformQuery(r)
	if err != nil {
		return err
	}
	if platform != "" && boolQuery(r, "manifests") {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	img, err := a.images.Resolve(r.Context(), name, platform)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, imageInspectFor(versionOf(r), img, toImageInspect(img, boolQuery(r, "manifests"))))
}

func (a *imageAPI) history(w http.ResponseWriter, r *http.Request, name string) error {
	platform, err := platformQuery(r)
	if err != nil {
		return err
	}
	items, err := a.images.History(r.Context(), name, platform)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	out := []image.HistoryResponseItem{}
	for _, h := range items {
		out = append(out, image.HistoryResponseItem{
			ID: h.ID, Created: unixOrZero(h.Created), CreatedBy: h.CreatedBy, Comment: h.Comment, Size: h.Size, Tags: h.Tags,
		})
	}
	return reply(w, out)
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (a *imageAPI) remove(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("rest")
	inUse, err := a.users(r.Context())
	if err != nil {
		return err
	}
	gone, err := a.images.Remove(r.Context(), name, boolQuery(r, "force"), !boolQuery(r, "noprune"), inUse)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, toDeleted(gone))
}

// users finds the containers of an image.
func (a *imageAPI) users(ctx context.Context) (func(imageID string) []hull.Container, error) {
	all, err := a.engine.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	by := map[string][]hull.Container{}
	for _, c := range all {
		by[c.Image.ID] = append(by[c.Image.ID], c)
		for _, m := range c.Mounts {
			if m.Type == hull.MountImage && m.Source != c.Image.ID {
				by[m.Source] = append(by[m.Source], c)
			}
		}
	}
	return func(id string) []hull.Container { return by[id] }, nil
}

func toDeleted(in []hull.ImageRemoved) []image.DeleteResponse {
	out := []image.DeleteResponse{}
	for _, g := range in {
		out = append(out, image.DeleteResponse{Untagged: g.Untagged, Deleted: g.Deleted})
	}
	return out
}

func (a *imageAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), imagePruneFilters)
	if err != nil {
		return err
	}
	dangling, err := f.flag("dangling", true)
	if err != nil {
		return err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return err
	}
	users, err := a.users(r.Context())
	if err != nil {
		return err
	}
	gone, bytes, err := a.images.Prune(r.Context(), func(i hull.Image) bool {
		return len(users(i.ID)) > 0 || dangling && len(i.RepoTags) > 0 ||
			!until.IsZero() && !i.Created.Before(until) || !f.labels(i.Config.Labels)
	})
	if err != nil {
		return fmt.Errorf("prune images: %w", err)
	}
	return reply(w, image.PruneReport{ImagesDeleted: toDeleted(gone), SpaceReclaimed: uint64(bytes)}) //nolint:gosec // not negative
}

func (a *imageAPI) save(w http.ResponseWriter, r *http.Request, name string) error {
	return a.saveAll(w, r, hull.SaveRequest{Refs: []string{name}})
}

func (a *imageAPI) saveMany(w http.ResponseWriter, r *http.Request) error {
	var names []string
	for _, n := range r.Form["names"] {
		for one := range strings.SplitSeq(n, ",") {
			if one != "" {
				names = append(names, one)
			}
		}
	}
	return a.saveAll(w, r, hull.SaveRequest{Refs: names})
}

// saveAll checks the names first: once the tar has begun there is no way to say
// that one is missing.
func (a *imageAPI) saveAll(w http.ResponseWriter, r *http.Request, req hull.SaveRequest) error {
	if req.Platforms == nil {
		var err error
		if req.Platforms, err = platformsQuery(r, "platform"); err != nil {
			return err
		}
	}
	for _, n := range slices.Concat(req.Refs, req.Since) {
		if err := a.known(r.Context(), n); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return a.images.Save(r.Context(), req, w) //nolint:wrapcheck // the service names the object
}

// known says whether name is an image, or a repository that has some.
func (a *imageAPI) known(ctx context.Context, name string) error {
	_, err := a.images.Resolve(ctx, name, "")
	if !errdefs.IsNotFound(err) {
		return err //nolint:wrapcheck // the service names the object
	}
	all, lerr := a.images.List(ctx, false)
	if lerr != nil {
		return fmt.Errorf("list images: %w", lerr)
	}
	for _, i := range all {
		for _, t := range i.RepoTags {
			if repo, _, _ := cutTag(t); repo == name {
				return nil
			}
		}
	}
	return err //nolint:wrapcheck // the service names the object
}

func (a *imageAPI) load(w http.ResponseWriter, r *http.Request) error {
	platforms, err := platformsQuery(r, "platform")
	if err != nil {
		return err
	}
	p := newProgressStream(w, r)
	p.quiet = boolQueryDefault(r, "quiet", true)
	names, err := a.images.Load(r.Context(), r.Body, platforms, p.step)
	for _, n := range names {
		if strings.HasPrefix(n, "sha256:") {
			p.text("Loaded image ID: " + n + "\n")
		} else {
			p.text("Loaded image: " + n + "\n")
		}
	}
	return p.end(err)
}

func (a *imageAPI) distribution(w http.ResponseWriter, r *http.Request, name string) error {
	d, err := a.images.Distribution(r.Context(), name, registryAuth(r))
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, toDistribution(d))
}

func (a *imageAPI) attestations(w http.ResponseWriter, r *http.Request, name string) error {
	platform, err := platformQuery(r)
	if err != nil {
		return err
	}
	if _, err := a.images.Resolve(r.Context(), name, platform); err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, []image.AttestationStatement{}) // the store keeps no attestations
}

func (a *imageAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), imageFilters)
	if err != nil {
		return err
	}
	if boolQuery(r, "identity") && !boolQuery(r, "manifests") {
		return invalid("identity requires manifests=1")
	}
	all, err := a.images.List(r.Context(), boolQuery(r, "all"))
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	keep, err := a.imageFilter(r.Context(), f)
	if err != nil {
		return err
	}
	users, err := a.users(r.Context())
	if err != nil {
		return err
	}
	shared, err := a.shared(r)
	if err != nil {
		return err
	}
	out := []image.Summary{}
	for _, i := range all {
		if names, ok := keep(i); ok {
			s := toImageSummary(i, names, len(users(i.ID)), boolQuery(r, "manifests"))
			if n, ok := shared[i.ID]; ok {
				s.SharedSize = n
			}
			out = append(out, s)
		}
	}
	return reply(w, imageSummariesFor(versionOf(r), out))
}

func (a *imageAPI) shared(r *http.Request) (map[string]int64, error) {
	if !boolQuery(r, "shared-size") {
		return nil, nil
	}
	u, err := a.images.Usage(r.Context())
	if err != nil {
		return nil, fmt.Errorf("size of images: %w", err)
	}
	return u.Shared, nil
}
