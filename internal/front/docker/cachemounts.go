package docker

import (
	"net/http"

	"hull/api"
)

// cacheMounts is GET /hull/v1/builder/cache.
func (a *buildAPI) cacheMounts(w http.ResponseWriter, r *http.Request) error {
	list, err := a.builder.CacheMounts(r.Context())
	if err != nil {
		return err
	}
	out := make([]api.CacheMount, 0, len(list))
	for _, m := range list {
		out = append(out, api.CacheMount(m))
	}
	return reply(w, out)
}

// exportCacheMount is GET /hull/v1/builder/cache/archive.
func (a *buildAPI) exportCacheMount(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-tar")
	return a.builder.ExportCacheMount(r.Context(), r.Form.Get("name"), w)
}

// importCacheMount is PUT /hull/v1/builder/cache/archive.
func (a *buildAPI) importCacheMount(w http.ResponseWriter, r *http.Request) error {
	if err := a.builder.ImportCacheMount(r.Context(), r.Form.Get("name"), r.Body); err != nil {
		return err
	}
	return noContent(w)
}
