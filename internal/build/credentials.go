package build

import (
	"context"
	"strings"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"

	"hull/internal/hull"
)

// credentials are what the client sent along for registries, for BuildKit to ask
// for. Each is given to its own registry only.
func credentials(r hull.BuildRequest) []session.Attachable {
	if len(r.Auth) == 0 {
		return nil // the engine's own are used
	}
	byHost := map[string]hull.Auth{}
	for name, a := range r.Auth {
		byHost[registryHost(name)] = a
	}
	find := func(_ context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		a, ok := byHost[registryHost(host)]
		if !ok {
			return types.AuthConfig{}, nil
		}
		return types.AuthConfig{
			ServerAddress: host, Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
		}, nil
	}
	return []session.Attachable{authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{AuthConfigProvider: find})}
}

// registryHost brings the ways to write a registry's address to one.
func registryHost(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	name, _, _ = strings.Cut(name, "/")
	switch name {
	case "docker.io", "index.docker.io":
		return authprovider.DockerHubRegistryHost
	}
	return name
}
