package harness

import (
	"context"
	"io"
	"net/http"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/sirupsen/logrus"
)

// Registry serves an image registry on the engine's loopback until the test
// ends, and returns its address, which is the same on the loopback of others. The
// middleware, if any, sees every request.
func (e *Engine) Registry(htpasswd string, middleware func(http.Handler) http.Handler, others ...*Engine) string {
	e.t.Helper()
	handler := registryHandler(e.Dir("registry"), htpasswd)
	if middleware != nil {
		handler = middleware(handler)
	}
	address := e.Serve("127.0.0.1:0", handler)
	for _, o := range others {
		o.Serve(address, handler)
	}
	return address
}

// RegistryHandler is a registry for whoever serves it in another way.
func (e *Engine) RegistryHandler() http.Handler { return registryHandler(e.Dir("registry"), "") }

func registryHandler(dir, htpasswd string) http.Handler {
	conf := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": dir},
			"delete":     configuration.Parameters{"enabled": true},
		},
	}
	conf.Log.AccessLog.Disabled = true
	conf.Log.Level = "error"
	logrus.SetOutput(io.Discard) // to which the registry sends what conf.Log does not hold back
	conf.HTTP.Secret = "tests"
	if htpasswd != "" {
		conf.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "tests", "path": htpasswd}}
	}
	return handlers.NewApp(context.Background(), conf)
}
