package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// squashAttr is an exporter's attribute, and the name in its answer: the layers that
// a build has made become one.
const squashAttr = "squash"

// squashExporter is an exporter of images that can.
type squashExporter struct {
	exporter.Exporter
	worker *base.Worker
}

// Resolve implements exporter.Exporter.
func (e *squashExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	text, ok := attrs[squashAttr]
	if ok {
		attrs = maps.Clone(attrs)
		delete(attrs, squashAttr)
	}
	one, err := e.Exporter.Resolve(ctx, id, attrs)
	if err != nil || text == "" {
		return one, err
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s=%s: it is true or false", squashAttr, text))
	}
	if !on {
		return one, nil
	}
	return &squashed{one, e.worker}, nil
}

// squashed is one export of an image with one layer of its own.
type squashed struct {
	exporter.ExporterInstance
	worker *base.Worker
}

// Export implements exporter.ExporterInstance.
func (s *squashed) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	out, made := src.Clone(), cache.RefList{}
	release := func(ctx context.Context) error { return made.Release(context.WithoutCancel(ctx)) }
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, p := range ps.Platforms {
		ref, ok := src.FindRef(p.ID)
		if !ok || ref == nil {
			continue // an empty image
		}
		one, err := s.squash(ctx, ref, out, &p, session.NewGroup(info.SessionID))
		if err != nil {
			return nil, nil, nil, errors.Join(fmt.Errorf("squash layers: %w", err), release(ctx))
		}
		if one == nil {
			continue
		}
		made = append(made, one)
		if src.Ref != nil {
			out.Ref = one
		} else {
			out.Refs[p.ID] = one
		}
	}
	resp, finalize, desc, err := s.ExporterInstance.Export(ctx, out, info)
	if err := errors.Join(err, release(ctx)); err != nil {
		return nil, nil, nil, err
	}
	if resp == nil {
		resp = map[string]string{}
	}
	resp[squashAttr] = "true"
	return resp, finalize, desc, nil
}

// squash makes one layer of those above the base image, nil = there are not two.
func (s *squashed) squash(ctx context.Context, ref cache.ImmutableRef, to *exporter.Source, p *exptypes.Platform, g session.Group) (cache.ImmutableRef, error) {
	var from ocispec.Image
	if raw := exptypes.ParseKey(to.Metadata, exptypes.ExporterImageBaseConfigKey, p); raw != nil {
		if err := json.Unmarshal(raw, &from); err != nil {
			return nil, fmt.Errorf("read configuration of the base image: %w", err)
		}
	}
	chain := ref.LayerChain()
	defer chain.Release(context.WithoutCancel(ctx)) //nolint:errcheck // references only
	below := len(from.RootFS.DiffIDs)
	if len(chain)-below < 2 {
		return nil, nil //nolint:nilnil // documented
	}
	var parent cache.ImmutableRef
	var lower []mount.Mount
	var err error
	if below > 0 {
		parent = chain[below-1]
		var done func() error
		if lower, done, err = mounts(ctx, parent, g); err != nil {
			return nil, err
		}
		defer done() //nolint:errcheck // a view
	}
	upper, done, err := mounts(ctx, ref, g)
	if err != nil {
		return nil, err
	}
	defer done() //nolint:errcheck // a view
	d, err := s.worker.Differ.Compare(ctx, lower, upper, diff.WithMediaType(ocispec.MediaTypeImageLayer))
	if err != nil {
		return nil, fmt.Errorf("compare with the base image: %w", err)
	}
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations["containerd.io/uncompressed"] = d.Digest.String()
	one, err := s.worker.CacheMgr.GetByBlob(ctx, d, parent)
	if err != nil {
		return nil, err
	}
	if err := one.Extract(ctx, g); err != nil {
		return nil, errors.Join(err, one.Release(context.WithoutCancel(ctx)))
	}
	return one, rewrite(to, p, len(from.History))
}

func mounts(ctx context.Context, ref cache.ImmutableRef, g session.Group) ([]mount.Mount, func() error, error) {
	m, err := ref.Mount(ctx, true, g)
	if err != nil {
		return nil, nil, err
	}
	return m.Mount()
}

// rewrite makes the history say what the layers are: what was done is still there,
// and the one layer comes after it.
func rewrite(to *exporter.Source, p *exptypes.Platform, inherited int) error {
	key := exptypes.ExporterImageConfigKey
	if _, ok := to.Metadata[key+"/"+p.ID]; ok {
		key += "/" + p.ID
	}
	var all map[string]json.RawMessage
	var history []ocispec.History
	if err := json.Unmarshal(to.Metadata[key], &all); err != nil {
		return fmt.Errorf("read configuration of the image: %w", err)
	}
	if err := json.Unmarshal(all["history"], &history); err != nil {
		return fmt.Errorf("read history of the image: %w", err)
	}
	var last *time.Time
	for i := min(inherited, len(history)); i < len(history); i++ {
		history[i].EmptyLayer = true
		last = history[i].Created
	}
	history = append(history, ocispec.History{Created: last, Comment: "squashed", CreatedBy: "the layers of the steps before"})
	var err error
	if all["history"], err = json.Marshal(history); err != nil {
		return err
	}
	if to.Metadata[key], err = json.Marshal(all); err != nil {
		return err
	}
	return nil
}
