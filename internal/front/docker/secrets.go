package docker

import (
	"context"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"hull/api"
	"hull/internal/hull"
)

// Secrets is the secret service. It tells nobody a value.
type Secrets interface {
	Create(ctx context.Context, s hull.Secret, value []byte) (hull.Secret, error)
	Get(ctx context.Context, name string) (hull.Secret, error)
	List(ctx context.Context) ([]hull.Secret, error)
	Remove(ctx context.Context, name string) error // errdefs.ErrConflict when in use
}

// secretAPI are the routes below /hull/v1/secrets; Docker's own (/secrets) are those of
// a swarm.
type secretAPI struct {
	secrets Secrets
	maxBody int64
}

func toSecret(s hull.Secret) api.Secret {
	return api.Secret{Name: s.Name, Created: s.Created, Labels: s.Labels}
}

func (a *secretAPI) list(w http.ResponseWriter, r *http.Request) error {
	all, err := a.secrets.List(r.Context())
	if err != nil {
		return err //nolint:wrapcheck // the service says what
	}
	out := make([]api.Secret, len(all))
	for i, s := range all {
		out[i] = toSecret(s)
	}
	return reply(w, out)
}

func (a *secretAPI) create(w http.ResponseWriter, r *http.Request) error {
	var body api.NewSecret
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return invalid("the request for a secret cannot be read") // the decoder's words may have the value in them
	}
	s, err := a.secrets.Create(r.Context(), hull.Secret{Name: body.Name, Labels: body.Labels}, body.Value)
	if err != nil {
		return err //nolint:wrapcheck // the service names the secret
	}
	writeJSON(w, http.StatusCreated, toSecret(s))
	return nil
}

func (a *secretAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	s, err := a.secrets.Get(r.Context(), r.PathValue("name"))
	if err != nil {
		return err //nolint:wrapcheck // the service names the secret
	}
	return reply(w, toSecret(s))
}

func (a *secretAPI) remove(w http.ResponseWriter, r *http.Request) error {
	if err := a.secrets.Remove(r.Context(), r.PathValue("name")); err != nil {
		return err //nolint:wrapcheck // the service names the secret
	}
	return noContent(w)
}

// secretDir is where secrets are in a container.
const secretDir = "/run/secrets"

// secretMount reads a mount of type secret; see api.SecretMount.
func secretMount(in mount.Mount) (hull.Mount, error) {
	bad := func(format string, a ...any) error {
		return invalid("invalid mount config for type \"secret\": "+format, a...)
	}
	name, options, _ := strings.Cut(in.Source, ",")
	if !volumeName.MatchString(name) {
		return hull.Mount{}, bad("field Source must begin with a secret's name, not %q", name)
	}
	m := hull.Mount{Type: hull.MountSecret, Source: name, ReadOnly: true, Secret: hull.SecretFile{Mode: 0o444}}
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		var n uint64
		var err error
		switch key {
		case "":
			if options == "" {
				continue
			}
			return m, bad("empty option in %q", in.Source)
		case "uid":
			n, err = strconv.ParseUint(value, 10, 31)
			m.Secret.UID = int(n) //nolint:gosec // 31 bits
		case "gid":
			n, err = strconv.ParseUint(value, 10, 31)
			m.Secret.GID = int(n) //nolint:gosec // 31 bits
		case "mode":
			n, err = strconv.ParseUint(value, 8, 32)
			if n > 0o777 {
				return m, bad("mode %s has more than permission bits", value)
			}
			m.Secret.Mode = uint32(n)
		default:
			return m, bad("unknown option %q; use uid, gid or mode", o)
		}
		if err != nil {
			return m, bad("%q is not a number", o)
		}
	}
	target := in.Target
	if target == "" {
		target = name
	}
	if !path.IsAbs(target) {
		target = path.Join(secretDir, path.Join("/", target))
	}
	var err error
	if m.Target, err = mountTarget(target); err != nil {
		return m, bad("%s", err.Error())
	}
	if text := foreignOption(in); text != "" {
		return m, bad("field %s must not be specified", text)
	}
	return m, nil
}
