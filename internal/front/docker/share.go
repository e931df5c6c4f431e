package docker

import (
	"net/http"

	"hull/api"
	"hull/internal/hull"
)

// maxShare bounds the body of the routes that move images, in bytes: lists of
// digests.
const maxShare = 4 << 20

// copyImage is POST /hull/v1/images/copy.
func (a *imageAPI) copyImage(w http.ResponseWriter, r *http.Request) error {
	var c api.ImageCopy
	if err := readJSON(r, maxShare, false, &c); err != nil {
		return err
	}
	p := newProgressStream(w, r)
	return p.end(a.images.Copy(r.Context(), hull.CopyRequest{
		Source: c.Source, Target: c.Target, Platform: c.Platform,
		SourceAuth: decodeAuth(c.SourceAuth), TargetAuth: decodeAuth(c.TargetAuth), Progress: p.step,
	}))
}

// layers is POST /hull/v1/images/layers.
func (a *imageAPI) layers(w http.ResponseWriter, r *http.Request) error {
	var n api.ImageNames
	if err := readJSON(r, maxShare, false, &n); err != nil {
		return err
	}
	list, err := a.images.Layers(r.Context(), n.Names, n.Platforms)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	out := api.ImageLayers{Layers: make([]api.ImageLayer, 0, len(list))}
	for _, b := range list {
		out.Layers = append(out.Layers, api.ImageLayer{Digest: b.Digest, Size: b.Size})
	}
	return reply(w, out)
}

// lacking is POST /hull/v1/images/lacking.
func (a *imageAPI) lacking(w http.ResponseWriter, r *http.Request) error {
	var d api.Digests
	if err := readJSON(r, maxShare, false, &d); err != nil {
		return err
	}
	out, err := a.images.Lacking(r.Context(), d.Digests)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, api.Digests{Digests: orEmpty(out)})
}

// archive is POST /hull/v1/images/archive.
func (a *imageAPI) archive(w http.ResponseWriter, r *http.Request) error {
	var s api.ImageArchive
	if err := readJSON(r, maxShare, false, &s); err != nil {
		return err
	}
	if len(s.Names) == 0 {
		return invalid("an archive needs the name of an image")
	}
	return a.saveAll(w, r, hull.SaveRequest{Refs: s.Names, Platforms: orEmpty(s.Platforms), Since: s.Since, Omit: s.Omit})
}

// compare is POST /hull/v1/images/compare.
func (a *imageAPI) compare(w http.ResponseWriter, r *http.Request) error {
	var p api.ImagePair
	if err := readJSON(r, maxShare, false, &p); err != nil {
		return err
	}
	d, err := a.images.Compare(r.Context(), p.A, p.B)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return reply(w, api.ImageDifference{Difference: d})
}
