package docker

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"hull/internal/hull"
)

// diskUsage is GET /system/df.
func (a *systemAPI) diskUsage(w http.ResponseWriter, r *http.Request) error {
	kinds := r.Form["type"]
	for _, k := range kinds {
		switch system.DiskUsageObject(k) {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject:
		default:
			return invalid("unknown object type: %s", k)
		}
	}
	want := func(k system.DiskUsageObject) bool { return len(kinds) == 0 || slices.Contains(kinds, string(k)) }
	out, layers, err := a.usage(r.Context(), want)
	if err != nil {
		return err
	}
	return reply(w, diskUsageFor(versionOf(r), out, layers, boolQuery(r, "verbose")))
}

// usage gathers everything asked for, with all items. layers is the size of all
// image layers, each once.
func (a *systemAPI) usage(ctx context.Context, want func(system.DiskUsageObject) bool) (out system.DiskUsage, layers int64, err error) {
	all, err := a.parts.Containers.List(ctx)
	if err != nil {
		return out, 0, fmt.Errorf("list containers: %w", err)
	}
	if want(system.ContainerObject) {
		if out.ContainerUsage, err = a.containerUsage(ctx, all); err != nil {
			return out, 0, err
		}
	}
	if want(system.ImageObject) {
		if out.ImageUsage, layers, err = a.imageUsage(ctx, all); err != nil {
			return out, 0, err
		}
	}
	if want(system.VolumeObject) {
		if out.VolumeUsage, err = a.volumeUsage(ctx); err != nil {
			return out, 0, err
		}
	}
	if want(system.BuildCacheObject) {
		if out.BuildCacheUsage, err = a.buildUsage(ctx); err != nil {
			return out, 0, err
		}
	}
	return out, layers, nil
}

func (a *systemAPI) containerUsage(ctx context.Context, all []hull.Container) (*container.DiskUsage, error) {
	out := &container.DiskUsage{Items: []container.Summary{}, TotalCount: int64(len(all))}
	now := time.Now()
	for _, c := range all {
		rw, root, err := a.parts.Containers.Size(ctx, c.ID)
		if err != nil {
			if _, gone := a.parts.Containers.Container(ctx, c.ID); gone != nil {
				continue
			}
			return nil, fmt.Errorf("size of container %s: %w", c.Name, err)
		}
		s := toSummary(c, imageText(c), now)
		s.SizeRw, s.SizeRootFs = rw, root
		out.Items = append(out.Items, s)
		out.TotalSize += rw
		if c.Status.Phase.Live() || c.Status.Restarting {
			out.ActiveCount++
		} else {
			out.Reclaimable += rw
		}
	}
	return out, nil
}

func (a *systemAPI) imageUsage(ctx context.Context, all []hull.Container) (*image.DiskUsage, int64, error) {
	images, err := a.parts.Images.List(ctx, true)
	if err != nil {
		return nil, 0, fmt.Errorf("list images: %w", err)
	}
	u, err := a.parts.Images.Usage(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("size of images: %w", err)
	}
	users := map[string]int{}
	for _, c := range all {
		users[c.Image.ID]++
	}
	out := &image.DiskUsage{Items: []image.Summary{}, TotalCount: int64(len(images)), TotalSize: u.LayersSize}
	var used int64
	for _, i := range images {
		s := toImageSummary(i, i.RepoTags, users[i.ID], false)
		s.SharedSize = u.Shared[i.ID]
		if n, ok := u.Size[i.ID]; ok {
			s.Size = n
		}
		if users[i.ID] > 0 {
			out.ActiveCount++
			used += s.Size - s.SharedSize
		}
		out.Items = append(out.Items, s)
	}
	out.Reclaimable = max(0, u.LayersSize-used)
	return out, u.LayersSize, nil
}

func (a *systemAPI) volumeUsage(ctx context.Context) (*volume.DiskUsage, error) {
	all, err := a.parts.Volumes.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	out := &volume.DiskUsage{Items: []volume.Volume{}, TotalCount: int64(len(all))}
	for _, v := range all {
		size, refs, err := a.parts.Volumes.Usage(ctx, v.Name)
		if err != nil {
			continue // removed in between
		}
		item := toVolume(v)
		item.UsageData = &volume.UsageData{RefCount: int64(refs), Size: size}
		out.Items = append(out.Items, item)
		out.TotalSize += size
		if refs > 0 {
			out.ActiveCount++
		} else {
			out.Reclaimable += size
		}
	}
	return out, nil
}

func (a *systemAPI) buildUsage(ctx context.Context) (*build.DiskUsage, error) {
	out := &build.DiskUsage{Items: []build.CacheRecord{}}
	var list []hull.BuildCache
	if a.parts.Builder != nil {
		var err error
		if list, err = a.parts.Builder.Usage(ctx); err != nil {
			return nil, fmt.Errorf("size of the build cache: %w", err)
		}
	}
	for _, c := range a.parts.Caches {
		more, err := c.Usage(ctx)
		if err != nil {
			return nil, fmt.Errorf("size of what can be made again: %w", err)
		}
		list = append(list, more...)
	}
	for _, c := range list {
		out.Items = append(out.Items, build.CacheRecord{
			ID: c.ID, Parents: c.Parents, Type: c.Type, Description: c.Description, InUse: c.InUse, Shared: c.Shared,
			Size: c.Size, CreatedAt: c.CreatedAt, LastUsedAt: c.LastUsedAt, UsageCount: c.UsageCount,
		})
		out.TotalCount++
		if c.InUse {
			out.ActiveCount++
		}
		if !c.Shared {
			out.TotalSize += c.Size
			if !c.InUse {
				out.Reclaimable += c.Size
			}
		}
	}
	return out, nil
}
