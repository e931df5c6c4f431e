package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Docker Hub's index, which is another host than its registry.
const (
	hubIndex    = "index.docker.io"
	maxSearch   = 100
	searchLimit = 25
)

// Search asks the index of a registry (Docker Hub's, if the term names none) for
// repositories. It is the old API of that name, which few registries have.
func (s *registries) Search(ctx context.Context, r hull.SearchRequest) ([]hull.SearchResult, error) {
	if r.Limit == 0 {
		r.Limit = searchLimit
	}
	if r.Limit < 1 || r.Limit > maxSearch {
		return nil, say(errdefs.ErrInvalidArgument, "limit %d is outside the range of [1, %d]", r.Limit, maxSearch)
	}
	host, term := "docker.io", r.Term
	if first, rest, ok := strings.Cut(r.Term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, term = first, rest
	}
	if strings.Contains(r.Term, "://") || term == "" {
		return nil, say(errdefs.ErrInvalidArgument, "invalid search term %q: use [REGISTRY/]WORDS", r.Term)
	}
	list, err := s.registry(ctx, host, r.Auth).hosts(host)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, say(errdefs.ErrNotFound, "no registry is configured for %s", host)
	}
	h := list[len(list)-1] // mirrors come first and have no index
	at := h.Host
	if host == "docker.io" && hostKey(at) == hubHost {
		at, term = hubIndex, strings.TrimPrefix(term, "library/")
	}
	u := url.URL{Scheme: h.Scheme, Host: at, Path: "/v1/search", RawQuery: url.Values{"q": {term}, "n": {strconv.Itoa(r.Limit)}}.Encode()}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Stall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("search %s: %w", at, err)
	}
	user, secret, err := s.credentials(at, r.Auth)
	if err != nil {
		return nil, err
	}
	if user != "" {
		req.SetBasicAuth(user, secret)
	}
	resp, err := h.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("search %s: %w", at, errors.Join(err, errdefs.ErrUnavailable))
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, say(errdefs.ErrNotFound, "registry %s cannot be searched: it has no index", at)
	default:
		return nil, say(errdefs.ErrUnavailable, "search %s: it answers %s", at, resp.Status)
	}
	var found struct {
		Results []hull.SearchResult `json:"results"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&found); err != nil {
		return nil, fmt.Errorf("search %s: read its answer: %w", at, err)
	}
	return found.Results[:min(len(found.Results), r.Limit)], nil
}
