package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Links of the default bridge (docker run --link) are names that one container has
// for another. A record keeps them as "id:alias", so that a rename breaks none; on
// users' networks they are names among names, which the network service looks up.

// resolveLinks replaces names in links by ids. A container that is not there is the
// request's fault, in Docker's words.
func (e *creation) resolveLinks(s hull.Spec) (hull.Spec, error) {
	if s.Network.Mode != "bridge" {
		return s, nil
	}
	var out []string
	for _, l := range s.Network.Links {
		ref, alias, ok := strings.Cut(l, ":")
		ref = strings.TrimPrefix(ref, "/")
		if !ok {
			alias = ref
		}
		alias = alias[strings.LastIndexByte(alias, '/')+1:]
		if ref == "" || alias == "" || strings.Contains(alias, ":") {
			return s, fmt.Errorf("bad format for links: %s: %w", l, errdefs.ErrInvalidArgument)
		}
		o, err := e.store.Container(ref)
		if err != nil {
			return s, fmt.Errorf("could not get container for %s: %w", ref, notImage(err))
		}
		if o.Spec.Network.Mode == "host" {
			return s, conflict("host type networking can't be used with links. This would result in undefined behavior")
		}
		out = append(out, o.ID+":"+alias)
	}
	s.Network.Links = out
	return s, nil
}

// linksOf are a container's links on the default bridge: their aliases by the id of
// whom they lead to, in the user's order.
func linksOf(c hull.Container) (ids, aliases []string) {
	if c.Spec.Network.Mode != "bridge" {
		return nil, nil
	}
	for _, l := range c.Spec.Network.Links {
		if id, alias, ok := strings.Cut(l, ":"); ok {
			ids, aliases = append(ids, id), append(aliases, alias)
		}
	}
	return ids, aliases
}

// checkLinks reports a linked container that does not run.
func (e *base) checkLinks(c hull.Container) error {
	ids, aliases := linksOf(c)
	for i, id := range ids {
		o, err := e.store.Container(id)
		if err != nil {
			return err
		}
		if !o.Status.Phase.Live() {
			return fmt.Errorf("Cannot link to a non running container: /%s AS /%s/%s: %w", o.Name, c.Name, aliases[i], errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's words
		}
	}
	return nil
}

// links are a container's links as Docker shows them: "/db:/web/alias".
func (e *views) links(c hull.Container) []string {
	var out []string
	ids, aliases := linksOf(c)
	for i, id := range ids {
		if o, err := e.store.Container(id); err == nil {
			out = append(out, fmt.Sprintf("/%s:/%s/%s", o.Name, c.Name, aliases[i]))
		}
	}
	return out
}

// nameLinked gives each container the names that others have for it.
func nameLinked(all []hull.Container) {
	names := map[string][]string{}
	for _, c := range all {
		ids, aliases := linksOf(c)
		for i, id := range ids {
			names[id] = append(names[id], "/"+c.Name+"/"+aliases[i])
		}
	}
	if len(names) == 0 {
		return
	}
	for i := range all {
		all[i].Linked = names[all[i].ID]
	}
}

// Unlink removes the link "parent/alias"; both containers stay.
func (e *creation) Unlink(ctx context.Context, name string) error {
	parent, alias, ok := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if !ok {
		return fmt.Errorf("cannot remove link %s: its name is CONTAINER/ALIAS: %w", name, errdefs.ErrInvalidArgument)
	}
	c, unlock, err := e.locked(ctx, parent)
	if err != nil {
		return err
	}
	defer unlock()
	return e.store.UpdateSpec(c.ID, func(s *hull.Spec) error {
		var left []string
		for _, l := range s.Network.Links {
			if !strings.HasSuffix(l, ":"+alias) {
				left = append(left, l)
			}
		}
		if len(left) == len(s.Network.Links) {
			return fmt.Errorf("cannot get parent %s for link %s: no such link: %w", parent, name, errdefs.ErrNotFound)
		}
		s.Network.Links = left
		return nil
	})
}
