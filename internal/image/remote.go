package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

// Distribution asks the registry about a reference.
func (s *Service) Distribution(ctx context.Context, ref string, a hull.Auth) (hull.Distribution, error) {
	ctx = s.ns(ctx)
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return hull.Distribution{}, badReference(err)
	}
	named = reference.TagNameOnly(named)
	reg := s.registry(ctx, reference.Domain(named), a)
	rctx, cancel := context.WithTimeout(ctx, s.cfg.Stall*time.Duration(s.cfg.Retries))
	defer cancel()
	_, d, err := reg.Resolve(rctx, named.String())
	if err != nil {
		return hull.Distribution{}, remoteError(named, err)
	}
	fetcher, err := reg.Fetcher(rctx, named.String())
	if err != nil {
		return hull.Distribution{}, remoteError(named, err)
	}
	p := &puller{s: s, named: named, ref: named.String(), fetcher: fetcher, tell: &teller{}}
	b, err := p.document(rctx, d, maxManifest)
	if err != nil {
		return hull.Distribution{}, err
	}
	out := hull.Distribution{MediaType: d.MediaType, Digest: d.Digest.String(), Size: int64(len(b))}
	list, err := p.platforms(rctx, d, b)
	if err != nil {
		return hull.Distribution{}, err
	}
	for _, pl := range list {
		out.Platforms = append(out.Platforms, platforms.FormatAll(pl))
	}
	return out, nil
}

// platforms lists the platforms behind a document.
func (p *puller) platforms(ctx context.Context, d ocispec.Descriptor, b []byte) ([]ocispec.Platform, error) {
	if isIndex(d.MediaType) {
		idx, err := parseIndex(b, d.MediaType)
		if err != nil {
			return nil, err
		}
		var list []ocispec.Platform
		for _, m := range idx.Manifests {
			if m.Platform != nil {
				list = append(list, *m.Platform)
			}
		}
		return list, nil
	}
	m, err := parseManifest(b, d.MediaType)
	if err != nil {
		return nil, err
	}
	raw, err := p.document(ctx, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	return []ocispec.Platform{c.Platform}, nil
}

// tags lists a repository's tags.
func (s *Service) tags(ctx context.Context, n reference.Named, a hull.Auth) ([]string, error) {
	var list struct{ Tags []string }
	reg := s.registry(s.ns(ctx), reference.Domain(n), a)
	hosts, err := reg.hosts(reference.Domain(n))
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("no registry is configured for %s: %w", n, errdefs.ErrNotFound)
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(n)+":pull")
	for _, h := range hosts {
		err = s.patient(ctx, func(ctx context.Context) error {
			return ask(ctx, h, "/"+reference.Path(n)+"/tags/list", &list)
		})
		if err == nil {
			return list.Tags, nil
		}
	}
	return nil, remoteError(n, err)
}

// Login checks credentials with a registry.
func (s *Service) Login(ctx context.Context, a hull.Auth) (status, token string, err error) {
	host := hostKey(a.ServerAddress)
	if host == "" {
		host = hubHost
	}
	domain := host
	if host == hubHost {
		domain = "docker.io"
	}
	reg := s.registry(s.ns(ctx), domain, a, docker.WithFetchRefreshToken(func(_ context.Context, t string, _ *http.Request) { token = t }))
	hosts, err := reg.hosts(domain)
	if err != nil {
		return "", "", err
	}
	if len(hosts) == 0 {
		return "", "", say(errdefs.ErrNotFound, "no registry is configured for %s", domain)
	}
	h := hosts[len(hosts)-1] // mirrors come first and know nothing of accounts
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Stall)
	defer cancel()
	if err := ask(ctx, h, "/", nil); err != nil {
		if denied(err) {
			return "", "", say(errdefs.ErrUnauthenticated, "Get %q: unauthorized: incorrect username or password", h.Scheme+"://"+h.Host+h.Path+"/")
		}
		return "", "", fmt.Errorf("log in to %s: %w", host, err)
	}
	return "Login Succeeded", token, nil
}

// ask gets a JSON document from one host, with the authorization it demands.
// into may be nil.
func ask(ctx context.Context, h docker.RegistryHost, path string, into any) error {
	u := url.URL{Scheme: h.Scheme, Host: h.Host, Path: h.Path + path}
	var asked []*http.Response
	for range 2 {
		resp, err := askOnce(ctx, h, u.String())
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusOK && into == nil:
			return nil
		case resp.StatusCode == http.StatusOK:
			if err := json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(into); err != nil {
				return badDocument(u.String(), err)
			}
			return nil
		case resp.StatusCode == http.StatusNotFound:
			return fmt.Errorf("%s: %w", u.String(), errdefs.ErrNotFound)
		case resp.StatusCode != http.StatusUnauthorized:
			return fmt.Errorf("%s answers %s: %w", u.String(), resp.Status, errdefs.ErrUnavailable)
		case h.Authorizer == nil || len(asked) > 0:
			return fmt.Errorf("%s: %w", u.String(), errdefs.ErrUnauthenticated)
		}
		asked = append(asked, resp)
		if err := h.Authorizer.AddResponses(ctx, asked); err != nil {
			return fmt.Errorf("%s: %w", u.String(), errors.Join(err, errdefs.ErrUnauthenticated))
		}
	}
	return fmt.Errorf("%s: %w", u.String(), errdefs.ErrUnauthenticated)
}

func askOnce(ctx context.Context, h docker.RegistryHost, u string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u, err)
	}
	if h.Authorizer != nil {
		if err := h.Authorizer.Authorize(ctx, req); err != nil {
			return nil, fmt.Errorf("authorize for %s: %w", u, err)
		}
	}
	resp, err := h.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask registry: %w", err)
	}
	return resp, nil
}
