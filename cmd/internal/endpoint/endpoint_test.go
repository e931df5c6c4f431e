package endpoint

import "testing"

func TestResolve(t *testing.T) {
	t.Parallel()
	const own = "unix:///run/hull/hull.sock"
	for name, c := range map[string]struct {
		host, context, stored string
		env                   map[string]string
		uid                   int
		want                  Endpoint
	}{
		"root":             {want: Endpoint{Host: own, Socket: "/run/hull/hull.sock", Own: true, Run: "/run/hull"}},
		"user":             {uid: 7, env: map[string]string{"XDG_RUNTIME_DIR": "/x"}, want: Endpoint{Host: "unix:///x/hull/hull.sock", Socket: "/x/hull/hull.sock", Own: true, Run: "/x/hull"}},
		"user without XDG": {uid: 7, want: Endpoint{Host: "unix:///run/user/7/hull/hull.sock", Socket: "/run/user/7/hull/hull.sock", Own: true, Run: "/run/user/7/hull"}},
		"relative XDG":     {uid: 7, env: map[string]string{"XDG_RUNTIME_DIR": "x"}, want: Endpoint{Host: "unix:///run/user/7/hull/hull.sock", Socket: "/run/user/7/hull/hull.sock", Own: true, Run: "/run/user/7/hull"}},
		"HULL_RUN":         {env: map[string]string{EnvRun: "/r", EnvRoot: "/s"}, want: Endpoint{Host: "unix:///r/hull.sock", Socket: "/r/hull.sock", Own: true, Run: "/r", Root: "/s"}},
		"-H first":         {host: "unix:///a", context: "c", env: map[string]string{EnvHost: "unix:///b"}, want: Endpoint{Host: "unix:///a", Socket: "/a", Run: "/run/hull"}},
		"-H of our own":    {host: "unix:///run/hull//hull.sock", want: Endpoint{Host: "unix:///run/hull//hull.sock", Socket: "/run/hull//hull.sock", Own: true, Run: "/run/hull"}},
		"HULL_HOST":        {env: map[string]string{EnvHost: "tcp://b:1", EnvDockerHost: "unix:///c", EnvDockerContext: "d"}, stored: "e", want: Endpoint{Host: "tcp://b:1", Run: "/run/hull"}},
		"DOCKER_HOST":      {env: map[string]string{EnvDockerHost: "unix:///c", EnvDockerContext: "d"}, stored: "e", want: Endpoint{Host: "unix:///c", Socket: "/c", Run: "/run/hull"}},
		"-c beats hosts":   {context: "c", env: map[string]string{EnvHost: "unix:///b", EnvDockerHost: "unix:///c"}, want: Endpoint{Context: "c", Run: "/run/hull"}},
		"-c default":       {context: "default", env: map[string]string{EnvDockerContext: "d"}, stored: "e", want: Endpoint{Host: own, Socket: "/run/hull/hull.sock", Own: true, Run: "/run/hull"}},
		"DOCKER_CONTEXT":   {env: map[string]string{EnvDockerContext: "d"}, stored: "e", want: Endpoint{Context: "d", Run: "/run/hull"}},
		"stored context":   {stored: "e", want: Endpoint{Context: "e", Run: "/run/hull"}},
		"stored default":   {stored: "default", want: Endpoint{Host: own, Socket: "/run/hull/hull.sock", Own: true, Run: "/run/hull"}},
		"not absolute":     {host: "unix://a", want: Endpoint{Host: "unix://a", Run: "/run/hull"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Resolve(Choice{Host: c.host, Context: c.context, StoredContext: c.stored, UID: c.uid, Getenv: func(k string) string { return c.env[k] }})
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}
