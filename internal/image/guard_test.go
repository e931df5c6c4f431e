package image

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
	"hull/internal/trust"
	"hull/internal/trust/seal"
)

// signer is a pair of keys in files below the policy's directory.
type signer struct {
	format  string
	private []byte
	public  []byte
}

func newSigner(t testing.TB, format string) signer {
	t.Helper()
	r, err := seal.Answer(trust.Request{Generate: &trust.Generate{Format: format, Name: "release"}})
	if err != nil {
		t.Fatal(err)
	}
	return signer{format, r.Private, r.Public}
}

// sign makes a signature; with may change what is signed.
func (k signer) sign(t testing.TB, repo string, d ocispec.Descriptor, expiry time.Duration) hull.Signature {
	t.Helper()
	q := trust.Sign{
		Artifact: trust.Artifact{Repository: repo, MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size},
		Format:   k.format, Key: k.private, Expiry: expiry,
	}
	if k.format == trust.Notation {
		q.Certificates = k.public
	}
	r, err := seal.Answer(trust.Request{Sign: &q})
	if err != nil {
		t.Fatal(err)
	}
	return hull.Signature(*r.Signature)
}

// byTeam requires a signature by newTeam's key.
const byTeam = "require = \"cosign\"\nkeys = [\"team.pub\"]"

// newTeam makes a directory for a policy, with the public key of a pair in it.
func newTeam(t testing.TB) (dir string, k signer) {
	t.Helper()
	dir, k = t.TempDir(), newSigner(t, trust.Cosign)
	put(t, filepath.Join(dir, "team.pub"), k.public)
	return dir, k
}

// request asks for an image's document and signs it.
func (k signer) request(t testing.TB, s *Service, ref string) hull.SignRequest {
	t.Helper()
	what, err := s.Signable(t.Context(), hull.SignRequest{Ref: ref})
	if err != nil || !what.Local {
		t.Fatalf("signable: %+v, %v", what, err)
	}
	d := what.Documents[0]
	of := ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size}
	return hull.SignRequest{Ref: ref, Document: d, Signature: k.sign(t, what.Repository, of, 0)}
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// guarded opens a service under a policy, whose file is in dir.
func guarded(t testing.TB, dir, policy string, with ...func(*Config)) *Service {
	t.Helper()
	put(t, filepath.Join(dir, "trust.toml"), []byte(policy))
	return service(t, append(with, func(c *Config) {
		c.Trust, c.TrustMust = filepath.Join(dir, "trust.toml"), true
		c.Ask = func(_ context.Context, q trust.Request) (trust.Reply, error) {
			r, err := seal.Answer(q)
			if err != nil {
				return r, &trust.RefusedError{Reason: err.Error()}
			}
			return r, nil
		}
	})...)
}

// rule is a policy with one rule.
func rule(match, more string) string {
	return "default = \"reject\"\n[[rule]]\nmatch = \"" + match + "\"\n" + more + "\n"
}

func refused(t testing.TB, err error, words ...string) {
	t.Helper()
	if !errdefs.IsPermissionDenied(err) {
		t.Fatalf("not refused: %v", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("refusal lacks %q: %v", w, err)
		}
	}
}

// empty checks that nothing of an image came in.
func empty(t testing.TB, s *Service) {
	t.Helper()
	list, err := s.List(t.Context(), true)
	if err != nil || len(list) > 0 {
		t.Errorf("there are images: %v, %v", list, err)
	}
}

// other is an image with another content.
func other(t testing.TB) built {
	t.Helper()
	return build(t, nil, layerTar(t, file{name: "evil", body: "evil"}))
}

// signRemote puts an image and a signature of it into a registry, by our own code.
func signRemote(t testing.TB, host, repo, tag string, img built, k signer, expiry time.Duration) {
	t.Helper()
	s := service(t)
	ref := host + "/" + repo + ":" + tag
	r := hull.SignRequest{Ref: ref, Push: true, Document: documentOf(img.desc)}
	r.Signature = k.sign(t, host+"/"+repo, img.desc, expiry)
	if err := s.Sign(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestTrustPull(t *testing.T) {
	host := registryServer(t)
	for _, format := range []string{trust.Cosign, trust.Notation} {
		t.Run(format, func(t *testing.T) {
			dir, k := t.TempDir(), newSigner(t, format)
			put(t, filepath.Join(dir, "team.pub"), k.public)
			with := "require = \"" + format + "\"\n" + map[string]string{trust.Cosign: "keys", trust.Notation: "certificates"}[format] + " = [\"team.pub\"]"
			s := guarded(t, dir, rule(host+"/team", with))
			img, repo := simple(t), "team/"+format
			ref := host + "/" + repo + ":1"
			upload(t, host, repo, "1", img)
			_, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref})
			refused(t, err, ref, img.desc.Digest.String(), `rule "`+host+`/team"`, "team.pub", "there is none", "hull image sign")
			empty(t, s)

			signRemote(t, host, repo, "1", img, k, 0)
			got, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref})
			if err != nil {
				t.Fatal(err)
			}
			// The signature came along: a container is judged without the registry, by any of
			// the image's names.
			for i, r := range []string{ref, got.ID, host + "/" + repo + "@" + img.desc.Digest.String(), digest.Digest(got.ID).Encoded()[:12]} {
				s.guard.good = nil
				found, err := s.Resolve(t.Context(), r, "")
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Prepare(t.Context(), string(rune('a'+i)), found, nil); err != nil {
					t.Errorf("%s: %v", r, err)
				}
			}
			said, err := s.Signatures(t.Context(), hull.SignRequest{Ref: ref})
			if err != nil || len(said.Signatures) != 1 || said.Refused != "" || !strings.Contains(said.Accepted, format) {
				t.Errorf("signatures: %+v, %v", said, err)
			}
			// A second signature joins the first.
			k2 := newSigner(t, format)
			signRemote(t, host, repo, "1", img, k2, 0)
			put(t, filepath.Join(dir, "team.pub"), k2.public)
			if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref}); err != nil {
				t.Error(err)
			}
			put(t, filepath.Join(dir, "team.pub"), k.public)
			if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref}); err != nil {
				t.Error(err)
			}
			// A rule that names other keys holds at once, for what is here as well.
			put(t, filepath.Join(dir, "team.pub"), newSigner(t, format).public)
			if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref}); err == nil {
				t.Error("pulled with a signature by another key")
			}
			found, err := s.Resolve(t.Context(), ref, "")
			if err != nil {
				t.Fatal(err)
			}
			refused(t, s.Prepare(t.Context(), "z", found, nil), "team.pub")
		})
	}
}

// The attacks: a registry, or whoever writes to it, shows something else than what
// was signed.
func TestTrustAttacks(t *testing.T) {
	k, stranger, ca := newSigner(t, trust.Cosign), newSigner(t, trust.Cosign), newSigner(t, trust.Notation)
	good, evil := simple(t), other(t)
	cosigned := func(t testing.TB, host string, img built, add trust.Signature) {
		t.Helper()
		one, err := cosignManifest(nil, add)
		if err != nil {
			t.Fatal(err)
		}
		uploadSigned(t, host, "team/app", signatureTag(img.desc.Digest), one)
	}
	// The good image's signature in a manifest that says to be about subject, on the evil one's list.
	notarized := func(t testing.TB, host string, subject built) {
		t.Helper()
		one, err := notationManifest(subject.desc, trust.Signature(ca.sign(t, host+"/team/app", good.desc, 0)))
		if err != nil {
			t.Fatal(err)
		}
		uploadSigned(t, host, "team/app", one.desc.Digest.String(), one)
		refer(t, host, "team/app", evil.desc.Digest, one.desc)
	}
	for name, a := range map[string]struct {
		attack func(t testing.TB, host string)
		rule   string
		words  string
	}{
		"wrong key": {func(t testing.TB, host string) {
			cosigned(t, host, evil, trust.Signature(stranger.sign(t, host+"/team/app", evil.desc, 0)))
		}, trust.Cosign, "not by a key of the rule"},
		"signature of another image": {func(t testing.TB, host string) {
			cosigned(t, host, evil, trust.Signature(k.sign(t, host+"/team/app", good.desc, 0)))
		}, trust.Cosign, "of another image"},
		"signed for another repository": {func(t testing.TB, host string) {
			cosigned(t, host, evil, trust.Signature(k.sign(t, host+"/team/other", evil.desc, 0)))
		}, trust.Cosign, "for the repository"},
		"changed payload": {func(t testing.TB, host string) {
			s := trust.Signature(k.sign(t, host+"/team/app", good.desc, 0))
			s.Payload = bytes.ReplaceAll(s.Payload, []byte(good.desc.Digest.Encoded()), []byte(evil.desc.Digest.Encoded()))
			cosigned(t, host, evil, s)
		}, trust.Cosign, "not by a key of the rule"},
		"a key signs what is no statement": {func(t testing.TB, host string) {
			s := trust.Signature(k.sign(t, host+"/team/app", good.desc, 0))
			s.Payload, s.Value = []byte(`null`), ""
			cosigned(t, host, evil, s)
		}, trust.Cosign, "not base64"},
		"huge manifest": {func(t testing.TB, host string) {
			one, err := cosignManifest(nil, trust.Signature(k.sign(t, host+"/team/app", evil.desc, 0)))
			if err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			if err := json.Unmarshal(one.bytes, &m); err != nil {
				t.Fatal(err)
			}
			m.Annotations = map[string]string{"x": strings.Repeat("x", 3<<20)}
			if err := one.finish(m); err != nil {
				t.Fatal(err)
			}
			uploadSigned(t, host, "team/app", signatureTag(evil.desc.Digest), one)
		}, trust.Cosign, "too large"},
		"an index as signature": {func(t testing.TB, host string) {
			idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{good.desc}}
			idx.SchemaVersion = 2
			putManifest(t, host, "team/app", signatureTag(evil.desc.Digest), idx.MediaType, mustJSON(t, idx))
		}, trust.Cosign, "no manifest"},
		"certificate of somebody else": {func(t testing.TB, host string) {
			signRemote(t, host, "team/app", "1", evil, newSigner(t, trust.Notation), 0)
		}, trust.Notation, "signature"},
		"notation's signature of another image": {func(t testing.TB, host string) {
			notarized(t, host, evil)
		}, trust.Notation, "mismatch"},
		"moved to another subject": {func(t testing.TB, host string) {
			notarized(t, host, good)
		}, trust.Notation, "refers to"},
		"only the other kind of signature": {func(t testing.TB, host string) {
			signRemote(t, host, "team/app", "1", evil, ca, 0)
		}, trust.Cosign, "there is none"},
	} {
		t.Run(name, func(t *testing.T) {
			host, dir := registryServer(t), t.TempDir()
			put(t, filepath.Join(dir, "team.pub"), k.public)
			put(t, filepath.Join(dir, "ca.crt"), ca.public)
			with := map[string]string{trust.Cosign: `keys = ["team.pub"]`, trust.Notation: `certificates = ["ca.crt"]`}[a.rule]
			s := guarded(t, dir, rule(host+"/team", "require = \""+a.rule+"\"\n"+with))
			// The good image and its signature are there as well, under another tag.
			upload(t, host, "team/app", "good", good)
			signRemote(t, host, "team/app", "good", good, k, 0)
			upload(t, host, "team/app", "1", evil)
			a.attack(t, host)
			_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/team/app:1"})
			refused(t, err, a.words)
			empty(t, s)
		})
	}
}

// uploadSigned puts a manifest of signatures into a registry with plain requests.
func uploadSigned(t testing.TB, host, repo, tag string, one signed) {
	t.Helper()
	img := built{manifest: one.bytes, desc: one.desc, blobs: map[digest.Digest][]byte{}}
	for _, p := range one.parts {
		img.blobs[p.Digest] = p.bytes
	}
	upload(t, host, repo, tag, img)
}

// refer enters d into what a registry without an API for it lists as referring to a digest.
func refer(t testing.TB, host, repo string, of digest.Digest, d ocispec.Descriptor) {
	t.Helper()
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}
	idx.SchemaVersion = 2
	putManifest(t, host, repo, referrersTag(of), idx.MediaType, mustJSON(t, idx))
}

// An expired signature is none. Its time is in the envelope, so that the test need
// not wait for it.
func TestTrustExpired(t *testing.T) {
	k := newSigner(t, trust.Notation)
	img := simple(t)
	s := trust.Signature(k.sign(t, "example.com/app", img.desc, time.Second))
	a := trust.Artifact{Repository: "example.com/app", MediaType: img.desc.MediaType, Digest: img.desc.Digest.String(), Size: img.desc.Size}
	q := trust.Request{Verify: &trust.Verify{
		Rule: trust.Rule{Require: trust.Notation, Certificates: []trust.File{{Name: "ca", PEM: k.public}}}, Artifacts: []trust.Artifact{a}, Signatures: []trust.Signature{s},
	}}
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := seal.Answer(q)
		if err != nil && strings.Contains(err.Error(), "expir") {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("a signature of one second is good after a minute")
		}
	}
}

// A tag that moves between judgement and fetching: what was judged is what comes.
func TestTrustTagMoves(t *testing.T) {
	host := registryServer(t)
	dir, k := newTeam(t)
	good, evil := simple(t), other(t)
	upload(t, host, "team/app", "1", good)
	signRemote(t, host, "team/app", "1", good, k, 0)
	s := guarded(t, dir, rule(host, byTeam))
	ask := s.guard.ask
	moved := false
	s.guard.ask = func(ctx context.Context, q trust.Request) (trust.Reply, error) {
		r, err := ask(ctx, q)
		upload(t, host, "team/app", "1", evil)
		moved = true
		return r, err
	}
	img, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/team/app:1"})
	if err != nil {
		t.Fatal(err)
	}
	if !moved || img.ID != good.id() {
		t.Errorf("pulled %s, judged %s (tag moved: %t)", img.ID, good.id(), moved)
	}
	_, err = s.Pull(t.Context(), hull.PullRequest{Ref: host + "/team/app:1"})
	refused(t, err, "there is none")
}

// What came by load, import or build is judged by its names.
func TestTrustLocal(t *testing.T) {
	dir, k := newTeam(t)
	s := guarded(t, dir, rule("example.com/team", byTeam))
	img := simple(t)
	for _, n := range []string{"example.com/team/app:1", "docker.io/library/thing:1"} {
		if _, err := s.Load(t.Context(), bytes.NewReader(img.layout(t, n)), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	start := func(ref string) error {
		t.Helper()
		found, err := s.Resolve(t.Context(), ref, "")
		if err != nil {
			t.Fatal(err)
		}
		err = s.Prepare(t.Context(), "c", found, nil)
		if derr := s.Discard(t.Context(), "c"); derr != nil {
			t.Fatal(derr)
		}
		return err
	}
	refused(t, start("example.com/team/app:1"), "hull pull example.com/team/app:1", "hull image sign")
	refused(t, start("thing:1"), "its default", "no image is used")
	refused(t, start(img.id()), "refused")

	if err := s.Sign(t.Context(), k.request(t, s, "example.com/team/app:1")); err != nil {
		t.Fatal(err)
	}
	if err := start("example.com/team/app:1"); err != nil {
		t.Error(err)
	}
	if err := start(img.id()); err != nil {
		t.Errorf("by its id: %v", err)
	}
	refused(t, start("thing:1"), "its default")
	// Nothing of a signature is garbage while its image is there.
	s.collect(t.Context())
	s.guard.good = nil
	if err := start("example.com/team/app:1"); err != nil {
		t.Error(err)
	}
}

// A signature of an image that is here goes along with its push, also when the
// push compresses the layers.
func TestTrustSignedPush(t *testing.T) {
	host := registryServer(t)
	dir, k := newTeam(t)
	img, ref := simple(t), host+"/team/app:1"
	from := service(t)
	if _, err := from.Load(t.Context(), bytes.NewReader(img.oldArchive(t, ref)), nil, nil); err != nil {
		t.Fatal(err)
	}
	r := k.request(t, from, ref)
	early := r
	early.Push = true
	if err := from.Sign(t.Context(), early); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "push the image first") {
		t.Errorf("signed in a registry that has nothing: %v", err)
	}
	if err := from.Sign(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := from.Push(t.Context(), hull.PushRequest{Ref: ref}); err != nil {
		t.Fatal(err)
	}
	s := guarded(t, dir, rule(host, byTeam))
	got, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != img.id() {
		t.Errorf("id %s, want %s", got.ID, img.id())
	}
}

// A copy takes signatures of both kinds along; the rule says that they may be for
// the repository that the image came from.
func TestTrustCopied(t *testing.T) {
	source, target := registryServer(t), registryServer(t)
	dir, k := newTeam(t)
	ca := newSigner(t, trust.Notation)
	put(t, filepath.Join(dir, "ca.crt"), ca.public)
	img := simple(t)
	upload(t, source, "team/app", "1", img)
	signRemote(t, source, "team/app", "1", img, k, 0)
	signRemote(t, source, "team/app", "1", img, ca, 0)
	var said []string
	c := hull.CopyRequest{Source: source + "/team/app:1", Target: target + "/mirror/app:1", Progress: func(p hull.Progress) { said = append(said, p.Status) }}
	for range 2 { // again: nothing is doubled
		if err := service(t).Copy(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(strings.Join(said, "\n"), "Signatures and the like: 2") {
		t.Errorf("said %q", said)
	}
	ref := target + "/mirror/app:1"
	s := guarded(t, dir, rule(target, byTeam))
	_, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref})
	refused(t, err, "for the repository "+source+"/team/app", "signed-as")
	for _, with := range []string{
		byTeam + "\nsigned-as = [\"" + source + "/team\"]",
		byTeam + "\nsigned-as = [\"*\"]",
		"require = \"notation\"\ncertificates = [\"ca.crt\"]",
	} {
		put(t, filepath.Join(dir, "trust.toml"), []byte(rule(target, with)))
		if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref}); err != nil {
			t.Errorf("%s: %v", with, err)
		}
	}
}

// What can be wrong with a policy: everything is refused, and the error says where.
func TestTrustBrokenPolicy(t *testing.T) {
	host := registryServer(t)
	upload(t, host, "app", "1", simple(t))
	for name, c := range map[string]struct{ text, words string }{
		"syntax":        {"default = \"accept\"\n[[rule]\n", "line 2"},
		"unknown field": {"default = \"accept\"\nrules = 1\n", `line 2: "rules" is not known here`},
		"no default":    {"[[rule]]\nmatch = \"docker.io\"\nrequire = \"accept\"\n", "say what holds"},
		"no such key":   {rule("docker.io", "require = \"cosign\"\nkeys = [\"gone.pub\"]"), "gone.pub is not there"},
		"no keys":       {rule("docker.io", "require = \"cosign\""), "needs keys"},
		"bad key":       {rule("docker.io", "require = \"cosign\"\nkeys = [\"bad.pub\"]"), "no PEM file"},
		"no registry":   {rule("busybox", "require = \"accept\""), "begin with the registry"},
		"a tag":         {rule("docker.io/library/busybox:1", "require = \"accept\""), "without tag"},
		"twice":         {rule("docker.io", "require = \"accept\"") + "[[rule]]\nmatch = \"docker.io/\"\nrequire = \"reject\"\n", "already"},
		"bad digest":    {rule("docker.io", "require = \"digest\"\ndigests = [\"sha256:12\"]"), "sha256:12"},
		"mixed":         {rule("docker.io", "require = \"reject\"\ndigests = [\"sha256:12\"]"), "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "bad.pub"), []byte("no key\n"))
			s := guarded(t, dir, c.text)
			_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"})
			refused(t, err, "trust.toml", c.words, "no image is pulled")
			empty(t, s)
		})
	}
	t.Run("written by others", func(t *testing.T) {
		dir := t.TempDir()
		s := guarded(t, dir, "default = \"accept\"\n")
		if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "trust.toml"), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"})
		refused(t, err, "can be written by others")
	})
	t.Run("gone", func(t *testing.T) {
		dir := t.TempDir()
		s := guarded(t, dir, "")
		if err := os.Remove(filepath.Join(dir, "trust.toml")); err != nil {
			t.Fatal(err)
		}
		_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"})
		refused(t, err, "trust.toml", "no such file")
	})
	t.Run("no hull-trust", func(t *testing.T) {
		dir, k := newTeam(t)
		signRemote(t, host, "app", "1", simple(t), k, 0)
		s := guarded(t, dir, rule(host, byTeam))
		s.guard.ask = func(ctx context.Context, q trust.Request) (trust.Reply, error) {
			return trust.Ask(ctx, filepath.Join(dir, "hull-trust"), q)
		}
		_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"})
		refused(t, err, "signatures need the program hull-trust")
	})
}

func TestTrustDigest(t *testing.T) {
	host, dir := registryServer(t), t.TempDir()
	img := simple(t)
	upload(t, host, "app", "1", img)
	upload(t, host, "listed", "1", img)
	upload(t, host, "open/app", "1", other(t))
	s := guarded(t, dir, rule(host, "require = \"digest\"")+
		"[[rule]]\nmatch = \""+host+"/listed\"\nrequire = \"digest\"\ndigests = [\""+img.desc.Digest.String()+"\"]\n"+
		"[[rule]]\nmatch = \""+host+"/open\"\nrequire = \"accept\"\n")
	pinned := host + "/app@" + img.desc.Digest.String()
	_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"})
	refused(t, err, "name it by its digest: "+pinned)
	for _, ref := range []string{pinned, host + "/listed:1", host + "/open/app:1"} {
		if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref}); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	upload(t, host, "listed", "2", other(t))
	_, err = s.Pull(t.Context(), hull.PullRequest{Ref: host + "/listed:2"})
	refused(t, err, "digests that are listed")
	_, err = s.Pull(t.Context(), hull.PullRequest{Ref: host + "/openly:1"}) // no part of "open"
	if err == nil || errdefs.IsPermissionDenied(err) && !strings.Contains(err.Error(), "manifest") && !strings.Contains(err.Error(), "digest") {
		t.Errorf("a rule for open holds for openly: %v", err)
	}
	// An engine without a policy has the same answer as before.
	if err := os.WriteFile(filepath.Join(dir, "trust.toml"), []byte("default = \"accept\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"}); err != nil {
		t.Error(err)
	}
}

// A registry that fails while it is asked for signatures has none to show.
func TestTrustRegistryFails(t *testing.T) {
	dir, _ := newTeam(t)
	img := simple(t)
	files := &fileRegistry{img: img}
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".sig") || strings.Contains(r.URL.Path, "/referrers/") {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		files.ServeHTTP(w, r)
	}))
	s := guarded(t, dir, rule(host, byTeam), func(c *Config) { c.Retries = 1 })
	_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/app:1"})
	refused(t, err, "signatures cannot be had")
	empty(t, s)
}

// What cosign and notation write down is what others read: the shape of both.
func TestSignatureManifests(t *testing.T) {
	k, img := newSigner(t, trust.Cosign), simple(t)
	g := trust.Signature(k.sign(t, "example.com/app", img.desc, 0))
	one, err := cosignManifest(nil, g)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(one.bytes, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != trust.MediaTypeCosign || m.Layers[0].Annotations[annotationCosign] != g.Value || m.Config.MediaType != ocispec.MediaTypeImageConfig {
		t.Errorf("manifest %s", one.bytes)
	}
	var p struct {
		Critical struct {
			Identity struct {
				Ref string `json:"docker-reference"`
			}
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
			Type string
		}
	}
	if err := json.Unmarshal(g.Payload, &p); err != nil {
		t.Fatal(err)
	}
	if p.Critical.Type != "cosign container image signature" || p.Critical.Image.Digest != img.desc.Digest.String() || p.Critical.Identity.Ref != "example.com/app" {
		t.Errorf("payload %s", g.Payload)
	}
}
