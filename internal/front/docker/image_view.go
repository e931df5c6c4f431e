package docker

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

func toImageInspect(i hull.Image, manifests bool) image.InspectResponse {
	out := image.InspectResponse{
		ID: i.ID, RepoTags: orEmpty(i.RepoTags), RepoDigests: orEmpty(i.RepoDigests),
		Comment: i.Comment, Author: i.Author, Architecture: i.Architecture, Variant: i.Variant, Os: i.OS, OsVersion: i.OSVersion,
		Size: i.Size, Config: imageConfig(i),
		RootFS:     image.RootFS{Type: "layers", Layers: i.Layers},
		Metadata:   image.Metadata{LastTagTime: i.LastTagged},
		Descriptor: target(i),
	}
	if !i.Created.IsZero() {
		out.Created = i.Created.UTC().Format(time.RFC3339Nano)
	}
	if manifests {
		out.Manifests = manifestSummaries(i)
	}
	return out
}

// imageConfig is the run configuration as the image's author wrote it.
func imageConfig(i hull.Image) *dockerspec.DockerOCIImageConfig {
	var raw dockerspec.DockerOCIImage
	if len(i.RawConfig) > 0 && json.Unmarshal(i.RawConfig, &raw) == nil {
		return &raw.Config
	}
	c := i.Config
	out := &dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
			Volumes: c.Volumes, WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
		},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{OnBuild: c.OnBuild, Shell: c.Shell},
	}
	if h := c.Healthcheck; h != nil {
		out.Healthcheck = &dockerspec.HealthcheckConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return out
}

func target(i hull.Image) *ocispec.Descriptor {
	if i.Target == "" {
		return nil
	}
	return &ocispec.Descriptor{MediaType: firstOf(i.TargetType, ocispec.MediaTypeImageManifest), Digest: digest.Digest(i.Target)}
}

func imagePlatform(i hull.Image) ocispec.Platform {
	return ocispec.Platform{OS: i.OS, Architecture: i.Architecture, Variant: i.Variant, OSVersion: i.OSVersion}
}

// manifestSummaries lists the one platform that is here.
func manifestSummaries(i hull.Image) []image.ManifestSummary {
	p := imagePlatform(i)
	m := image.ManifestSummary{
		ID: i.Manifest, Available: true, Kind: image.ManifestKindImage,
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(i.Manifest), Platform: &p},
		ImageData:  &image.ImageProperties{Platform: p, Containers: []string{}},
	}
	m.Size.Total = i.Size
	m.ImageData.Size.Unpacked = i.Size
	return []image.ManifestSummary{m}
}

func toImageSummary(i hull.Image, tags []string, users int, manifests bool) image.Summary {
	out := image.Summary{
		ID: i.ID, ParentID: i.Parent, RepoTags: orEmpty(tags), RepoDigests: orEmpty(i.RepoDigests),
		Created: unixOrZero(i.Created), Size: i.Size, SharedSize: -1, Labels: i.Config.Labels,
		Containers: int64(users), Descriptor: target(i),
	}
	if manifests {
		out.Manifests = manifestSummaries(i)
	}
	return out
}

// imageFilter gives the tags of an image that pass, and whether it is shown.
func (a *imageAPI) imageFilter(ctx context.Context, f filters) (func(hull.Image) ([]string, bool), error) {
	_, hasDangling := f["dangling"]
	dangling, err := f.flag("dangling", false)
	if err != nil {
		return nil, err
	}
	until, err := f.untils(time.Now())
	if err != nil {
		return nil, err
	}
	before, err := a.createdOf(ctx, f, "before")
	if err != nil {
		return nil, err
	}
	since, err := a.createdOf(ctx, f, "since")
	if err != nil {
		return nil, err
	}
	patterns := f.values("reference")
	return func(i hull.Image) ([]string, bool) {
		tags := i.RepoTags
		switch {
		case hasDangling && dangling != (len(tags) == 0),
			!f.labels(i.Config.Labels),
			!until.IsZero() && !i.Created.Before(until),
			!before.IsZero() && !i.Created.Before(before),
			!since.IsZero() && !i.Created.After(since):
			return nil, false
		case len(patterns) == 0:
			return tags, true
		}
		tags = slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return !matchesReference(t, patterns) })
		byDigest := slices.ContainsFunc(i.RepoDigests, func(d string) bool { return matchesReference(d, patterns) })
		return tags, len(tags) > 0 || byDigest
	}, nil
}

func (a *imageAPI) createdOf(ctx context.Context, f filters, term string) (time.Time, error) {
	name, err := f.single(term)
	if err != nil || name == "" {
		return time.Time{}, err
	}
	img, err := a.images.Resolve(ctx, name, "")
	if err != nil {
		return time.Time{}, err //nolint:wrapcheck // the service names the object
	}
	return img.Created, nil
}

// cutTag splits a name from its tag or digest.
func cutTag(name string) (repo, tag string, ok bool) {
	if repo, tag, ok = strings.Cut(name, "@"); ok {
		return repo, tag, ok
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:], true
	}
	return name, "", false
}

// canonical writes a familiar name out: busybox:1 is docker.io/library/busybox:1.
func canonical(name string) string {
	host, rest, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name
	case strings.ContainsAny(host, ".:") && rest != "" || host == "localhost":
		return name
	}
	return "docker.io/" + name
}

// matchesReference: a pattern is matched against the familiar and the whole name,
// and against either without tag or digest, as moby does with path.Match.
func matchesReference(name string, patterns []string) bool {
	repo, _, _ := cutTag(name)
	full := canonical(name)
	fullRepo, _, _ := cutTag(full)
	return slices.ContainsFunc(patterns, func(p string) bool {
		for _, s := range []string{name, repo, full, fullRepo} {
			if ok, err := path.Match(p, s); err == nil && ok {
				return true
			}
		}
		return false
	})
}

func toDistribution(d hull.Distribution) registry.DistributionInspect {
	out := registry.DistributionInspect{
		Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size},
		Platforms:  []ocispec.Platform{},
	}
	for _, p := range d.Platforms {
		if parsed := parsePlatform(p); parsed != nil {
			out.Platforms = append(out.Platforms, *parsed)
		}
	}
	return out
}
