package image

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"hull/internal/hull"
)

// Remove takes a name from an image, and deletes the image with its last one.
// The rules are Docker's: a name given takes only that name; an id takes all, if
// they are of one repository or force says so; an image with children, or one
// that a running container uses, stays. With prune, nameless parents that nobody
// needs any more go as well.
func (s *Service) Remove(ctx context.Context, ref string, force, prune bool, inUse func(imageID string) []hull.Container) ([]hull.ImageRemoved, error) {
	ctx = s.ns(ctx)
	r := &remover{s: s, inUse: inUse, force: force, prune: prune}
	err := func() error {
		leave := s.gate.enter()
		defer leave()
		return r.remove(ctx, ref)
	}()
	if len(r.done) > 0 {
		s.collect(ctx)
	}
	return r.done, err
}

type remover struct {
	s     *Service
	inUse func(string) []hull.Container
	force bool
	prune bool
	done  []hull.ImageRemoved
	bytes int64 // of layers that go
}

func (r *remover) remove(ctx context.Context, ref string) error {
	v := r.s.view.Load()
	entries, err := v.find(ref)
	if err != nil {
		return err
	}
	e, err := r.s.choose(entries, ref, "")
	if err != nil {
		return err
	}
	if isIDPrefix(e.img.ID, ref) {
		return r.byID(ctx, e)
	}
	return r.byName(ctx, e, ref)
}

// isIDPrefix says whether ref was meant as an id.
func isIDPrefix(id, ref string) bool {
	_, hex, _ := strings.Cut(id, ":")
	return strings.HasPrefix(id, ref) || strings.HasPrefix(hex, ref)
}

// byID removes an image with all its names, when they are of one repository.
func (r *remover) byID(ctx context.Context, e *entry) error {
	if oneRepository(e.img.Names) {
		checks := hard
		if !r.force {
			checks |= stopped
		}
		if c := r.conflict(e, checks); c != nil {
			return c.err
		}
		for _, n := range slices.Clone(e.img.Names) {
			if err := r.untag(ctx, e, n); err != nil {
				return err
			}
		}
	}
	return r.delete(ctx, e.img.ID, r.force, false)
}

// byName removes one name, and the image with the last one.
func (r *remover) byName(ctx context.Context, e *entry, ref string) error {
	if !r.force && oneRepository(e.img.Names) {
		if users := r.inUse(e.img.ID); len(users) > 0 {
			return say(errdefs.ErrConflict, "conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				ref, short(users[0].ID), shortID(e.img.ID))
		}
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return badReference(err)
	}
	name := tagName(reference.TagNameOnly(named))
	v := r.s.view.Load()
	if _, ok := v.names[name]; !ok {
		return noSuchImage(ref)
	}
	if err := r.untag(ctx, e, name); err != nil {
		return err
	}
	if _, ok := named.(reference.Canonical); !ok {
		if err := r.untagDigests(ctx, e.img.ID, named); err != nil {
			return err
		}
	}
	if e := r.s.view.Load().byID[digestOf(e.img.ID)]; e == nil || len(e.img.Names) > 0 {
		return nil
	}
	return r.delete(ctx, e.img.ID, r.force, true)
}

// untagDigests takes a repository's digests from an image that has no tag in it
// any more.
func (r *remover) untagDigests(ctx context.Context, id string, named reference.Named) error {
	e := r.s.view.Load().byID[digestOf(id)]
	if e == nil {
		return nil
	}
	var digests []string
	for _, n := range e.img.Names {
		if repo, isDigest := splitName(n); repo == named.Name() {
			if !isDigest {
				return nil
			}
			digests = append(digests, n)
		}
	}
	for _, n := range digests {
		if err := r.untag(ctx, e, n); err != nil {
			return err
		}
	}
	return nil
}

// splitName tells a full name's repository, and whether it names a digest.
func splitName(name string) (repo string, isDigest bool) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name, false
	}
	_, isDigest = n.(reference.Digested)
	return n.Name(), isDigest
}

// oneRepository says whether an image's names are at most one tag, and digests
// of the same repository.
func oneRepository(names []string) bool {
	if len(names) <= 1 {
		return true
	}
	tags, repos := 0, map[string]bool{}
	for _, n := range names {
		repo, isDigest := splitName(n)
		repos[repo] = true
		if !isDigest {
			tags++
		}
	}
	return tags <= 1 && len(repos) == 1
}

// untag removes one name. The image stays, nameless if it was the last, until
// delete takes it.
func (r *remover) untag(ctx context.Context, e *entry, name string) error {
	if len(e.img.Names) == 1 {
		if err := r.s.setName(ctx, danglingPrefix+e.img.Target, r.s.view.Load().names[name].target); err != nil {
			return err
		}
	}
	if err := r.s.dropName(ctx, name); err != nil {
		return err
	}
	if err := r.s.reload(ctx); err != nil {
		return err
	}
	if n := r.s.view.Load().byID[digestOf(e.img.ID)]; n != nil {
		*e = *n
	}
	shown := name
	if n, err := reference.ParseNormalizedNamed(name); err == nil {
		shown = reference.FamiliarString(n)
	}
	r.done = append(r.done, hull.ImageRemoved{Untagged: shown})
	r.s.publish("untag", e.img.ID, e.img.ID)
	return nil
}

// What can stand against deleting an image. Hard reasons cannot be forced.
type reasons int

const (
	children reasons = 1 << iota
	running
	names
	stopped

	hard = children | running
	soft = names | stopped
)

// conflict is why an image cannot be deleted.
type conflict struct {
	err  error
	used bool // by a container
}

func (r *remover) conflict(e *entry, look reasons) *conflict {
	id := shortID(e.img.ID)
	fail := func(how, format string, args ...any) error {
		return say(errdefs.ErrConflict, "conflict: unable to delete "+id+" ("+how+") - "+format, args...)
	}
	v := r.s.view.Load()
	if look&children != 0 && slices.ContainsFunc(v.all, func(c *entry) bool { return c.img.Parent == e.img.ID }) {
		return &conflict{err: fail("cannot be forced", "image has dependent child images")}
	}
	users := r.inUse(e.img.ID)
	for _, c := range users {
		if look&running != 0 && c.Status.Phase.Live() {
			return &conflict{fail("cannot be forced", "image is being used by running container %s", short(c.ID)), true}
		}
	}
	if look&names != 0 && len(e.img.Names) > 0 {
		return &conflict{err: fail("must be forced", "image is referenced in multiple repositories")}
	}
	for _, c := range users {
		if look&stopped != 0 && !c.Status.Phase.Live() {
			return &conflict{fail("must be forced", "image is being used by stopped container %s", short(c.ID)), true}
		}
	}
	return nil
}

func shortID(id string) string {
	_, hex, _ := strings.Cut(id, ":")
	return short(hex)
}

// delete removes an image and all its names. quiet: its last name has just been
// taken, and a container that still uses it is no error then.
func (r *remover) delete(ctx context.Context, id string, force, quiet bool) error {
	v := r.s.view.Load()
	e := v.byID[digestOf(id)]
	if e == nil {
		return nil
	}
	look := hard
	if !force {
		look |= soft
	}
	if c := r.conflict(e, look); c != nil {
		if quiet && (len(e.img.Names) > 0 || c.used) {
			return nil
		}
		return c.err
	}
	gone := e.img
	only := r.ownLayers(v, e)
	for _, n := range slices.Clone(e.img.Names) {
		if err := r.untag(ctx, e, n); err != nil {
			return err
		}
	}
	for n, rec := range r.s.view.Load().names {
		if strings.HasPrefix(n, danglingPrefix) && slices.ContainsFunc(v.target[rec.target.Digest], func(o *entry) bool { return o.img.ID == id }) {
			if err := r.s.dropName(ctx, n); err != nil {
				return err
			}
		}
	}
	if err := r.s.reload(ctx); err != nil {
		return err
	}
	r.done = append(r.done, hull.ImageRemoved{Deleted: id})
	r.s.publish("delete", id, id)
	for _, l := range only {
		r.done = append(r.done, hull.ImageRemoved{Deleted: l.chain.String()})
		r.bytes += l.size
	}
	if !r.prune || gone.Parent == "" {
		return nil
	}
	if err := r.delete(ctx, gone.Parent, false, true); err != nil && !errdefs.IsConflict(err) {
		return err
	}
	return nil
}

type goneLayer struct {
	chain digest.Digest
	size  int64
}

// ownLayers lists the layers that go with an image, topmost first.
func (r *remover) ownLayers(v *view, e *entry) []goneLayer {
	needed := map[digest.Digest]bool{}
	for _, o := range v.all {
		if o.img.ID != e.img.ID {
			for _, c := range o.chains {
				needed[c] = true
			}
		}
	}
	for _, b := range r.s.boxList() {
		for _, c := range r.s.layers.Chain(b.chain) {
			needed[c] = true
		}
	}
	var list []goneLayer
	for _, c := range slices.Backward(e.chains) {
		if i, err := r.s.layers.Info(c); err == nil && !needed[c] {
			list = append(list, goneLayer{c, i.Size})
		}
	}
	return list
}

// Prune deletes every image that keep denies and nobody needs, least recently
// used first, and tells the bytes of the layers that went.
func (s *Service) Prune(ctx context.Context, keep func(hull.Image) bool) ([]hull.ImageRemoved, int64, error) {
	ctx = s.ns(ctx)
	r := &remover{s: s, force: true, prune: true, inUse: func(string) []hull.Container { return nil }}
	err := func() error {
		leave := s.gate.enter()
		defer leave()
		list := []hull.Image{}
		for _, e := range s.view.Load().all {
			list = append(list, e.snapshot(s.store))
		}
		slices.SortFunc(list, func(a, b hull.Image) int {
			return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.ID, b.ID))
		})
		used := map[digest.Digest]bool{}
		for _, b := range s.boxList() {
			used[b.manifest] = true
		}
		for _, i := range list {
			e := s.view.Load().byID[digestOf(i.ID)]
			if e == nil || keep(i) || slices.ContainsFunc(e.manifests, func(d digest.Digest) bool { return used[d] }) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := r.delete(ctx, i.ID, true, false); err != nil && !errdefs.IsConflict(err) {
				return err
			}
		}
		return nil
	}()
	s.collect(ctx)
	return r.done, r.bytes, err
}

// boxList copies what containers stand on.
func (s *boxStore) boxList() []box {
	s.boxMu.Lock()
	defer s.boxMu.Unlock()
	list := make([]box, 0, len(s.boxes))
	for _, b := range s.boxes {
		list = append(list, b)
	}
	return list
}
