package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	hosts "github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

const hubHost = "registry-1.docker.io"

// registries makes clients of registries.
type registries struct {
	cfg Config
	log *slog.Logger
}

// registry reaches the registry of one repository for one caller.
type registry struct {
	remotes.Resolver
	hosts docker.RegistryHosts
	of    *registries
}

// Resolve implements remotes.Resolver: it asks for the digest of a name.
func (r registry) Resolve(ctx context.Context, ref string) (name string, d ocispec.Descriptor, err error) {
	err = r.of.patient(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, r.of.cfg.Stall*time.Duration(r.of.cfg.Retries))
		defer cancel()
		var err error
		name, d, err = r.Resolver.Resolve(ctx, ref)
		return err
	})
	return name, d, err
}

// registry makes a client with the caller's credentials, or those of the
// configured config.json and its helpers when the caller sent none.
//
// domain is the registry's name in references: credentials that do not say where
// they belong belong there.
func (s *registries) registry(ctx context.Context, domain string, a hull.Auth, auth ...docker.AuthorizerOpt) registry {
	return s.reach(ctx, domain, a, false, auth...)
}

// reach is registry for a caller that has its own way to retry, or (wait) none.
func (s *registries) reach(ctx context.Context, domain string, a hull.Auth, wait bool, auth ...docker.AuthorizerOpt) registry {
	if a != (hull.Auth{}) && a.ServerAddress == "" {
		a.ServerAddress = domain
	}
	opts := hosts.HostOptions{
		AuthorizerOpts: auth,
		Credentials:    func(host string) (string, string, error) { return s.credentials(host, a) },
	}
	if s.cfg.HostsDir != "" {
		opts.HostDir = hosts.HostDirFromRoot(s.cfg.HostsDir)
	}
	base := hosts.ConfigureHosts(ctx, opts)
	loose := opts
	loose.DefaultScheme = "http"
	loose.DefaultTLS = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for: --insecure-registry
	insecure := hosts.ConfigureHosts(ctx, loose)
	all := func(host string) ([]docker.RegistryHost, error) {
		from := base
		if s.insecure(host) {
			from = insecure
		}
		list, err := from(host)
		if err != nil {
			return nil, fmt.Errorf("configuration of registry %s: %w", host, err)
		}
		if host == "docker.io" {
			list = append(s.mirrors(list), list...)
		}
		for i := range list {
			c := *list[i].Client
			c.Transport = throttle{next: userAgent{c.Transport}, in: wait}
			if a.RegistryToken != "" && hostKey(list[i].Host) == hostKey(a.ServerAddress) {
				list[i].Header = http.Header{"Authorization": {"Bearer " + a.RegistryToken}}
				list[i].Authorizer = nil
			}
			list[i].Client = &c
		}
		return list, nil
	}
	return registry{docker.NewResolver(docker.ResolverOptions{Hosts: all}), all, s}
}

type userAgent struct{ next http.RoundTripper }

func (u userAgent) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", "hull")
	return u.next.RoundTrip(r)
}

// insecure says whether plain HTTP and unverified certificates were allowed for
// host (with port). Loopback addresses are handled by the library: they may
// speak plain HTTP.
func (s *registries) insecure(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	for _, i := range s.cfg.Insecure {
		if i == host || i == name {
			return true
		}
		if _, n, err := net.ParseCIDR(i); err == nil {
			if ip := net.ParseIP(name); ip != nil && n.Contains(ip) {
				return true
			}
		}
	}
	return false
}

// mirrors are asked before the hub. like gives the client to use.
func (s *registries) mirrors(like []docker.RegistryHost) []docker.RegistryHost {
	var list []docker.RegistryHost
	for _, m := range s.cfg.Mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" || len(like) == 0 {
			continue
		}
		if u.Scheme == "http" && !docker.IsLocalhost(u.Hostname()) && !s.insecure(u.Host) {
			s.log.Warn("mirror is not used: plain HTTP is only for loopback and insecure registries", "mirror", m)
			continue
		}
		h := like[len(like)-1]
		h.Scheme, h.Host, h.Path = u.Scheme, u.Host, strings.TrimSuffix(u.Path, "/")+"/v2"
		h.Capabilities = docker.HostCapabilityPull | docker.HostCapabilityResolve
		list = append(list, h)
	}
	return list
}

// credentials for a host. What came with the request goes to the registry it was
// sent for only: a mirror, or a registry that redirects, must not see it.
func (s *registries) credentials(host string, a hull.Auth) (user, secret string, err error) {
	if a != (hull.Auth{}) {
		if hostKey(a.ServerAddress) != hostKey(host) {
			return "", "", nil
		}
		if a.IdentityToken != "" {
			return "", a.IdentityToken, nil
		}
		return a.Username, a.Password, nil
	}
	if s.cfg.DockerConfig == "" {
		return "", "", nil
	}
	f, err := config.Load(s.cfg.DockerConfig)
	if err != nil {
		return "", "", fmt.Errorf("read registry credentials: %w", err)
	}
	key := host
	if hostKey(host) == hubHost {
		key = "https://index.docker.io/v1/"
	}
	c, err := f.GetAuthConfig(key)
	if err != nil {
		return "", "", fmt.Errorf("read registry credentials for %s: %w", host, err)
	}
	if c.IdentityToken != "" {
		return "", c.IdentityToken, nil
	}
	return c.Username, c.Password, nil
}

// hostKey brings the ways to write a registry's address to one.
func hostKey(addr string) string {
	addr = strings.TrimPrefix(strings.TrimPrefix(addr, "https://"), "http://")
	addr, _, _ = strings.Cut(addr, "/")
	switch addr {
	case "docker.io", "index.docker.io", hubHost:
		return hubHost
	}
	return addr
}

// remoteError puts what a registry answered into Docker's words.
func remoteError(n reference.Named, err error) error {
	switch {
	case errdefs.IsNotFound(err):
		return say(errdefs.ErrNotFound, "manifest for %s not found: manifest unknown: manifest unknown", reference.FamiliarString(n))
	case denied(err):
		return say(errdefs.ErrNotFound, "pull access denied for %s, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", reference.FamiliarName(n))
	}
	return fmt.Errorf("ask registry for %s: %w", reference.FamiliarString(n), err)
}

// denied says whether a registry wants other credentials.
func denied(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	return errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) || errors.Is(err, docker.ErrInvalidAuthorization) ||
		errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden)
}
