package docker

import (
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/registry"

	"hull/internal/hull"
)

// search is GET /images/search.
func (a *imageAPI) search(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), []string{"is-automated", "is-official", "stars"})
	if err != nil {
		return err
	}
	keep, err := searchFilter(f)
	if err != nil {
		return err
	}
	in := hull.SearchRequest{Term: r.FormValue("term"), Auth: registryAuth(r)}
	if n := r.FormValue("limit"); n != "" {
		if in.Limit, err = strconv.Atoi(n); err != nil {
			return invalid("invalid limit specified: %q", n)
		}
	}
	list, err := a.images.Search(r.Context(), in)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	out := []registry.SearchResult{}
	for _, s := range list {
		if keep(s) {
			out = append(out, registry.SearchResult{Name: s.Name, Description: s.Description, StarCount: s.Stars, IsOfficial: s.Official})
		}
	}
	return reply(w, out)
}

// searchFilter makes a predicate of the filters of a search.
func searchFilter(f filters) (func(hull.SearchResult) bool, error) {
	official := map[bool]bool{}
	for v := range f["is-official"] {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return nil, invalid("invalid filter 'is-official=%s'", v)
		}
		official[b] = true
	}
	automated := false // nothing is, any more
	for v := range f["is-automated"] {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return nil, invalid("invalid filter 'is-automated=%s'", v)
		}
		automated = automated || b
	}
	stars := 0
	for v := range f["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'stars=%s'", v)
		}
		stars = max(stars, n)
	}
	return func(s hull.SearchResult) bool {
		return !automated && s.Stars >= stars && (len(official) == 0 || official[s.Official])
	}, nil
}
