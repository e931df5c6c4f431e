package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/term"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/internal/launch"
	"hull/cmd/internal/route"
	"hull/internal/trust"
)

// Where a key's password comes from when nobody is asked; the second is cosign's.
const (
	keyPassword    = "HULL_KEY_PASSWORD"
	cosignPassword = "COSIGN_PASSWORD"
)

// askTrust puts a question to hull-trust, which knows signatures.
func askTrust(ctx context.Context, q trust.Request) (trust.Reply, error) {
	program, err := launch.Program("hull-trust", "")
	if err != nil {
		return trust.Reply{}, err
	}
	return trust.Ask(ctx, program, q)
}

// trustCommand is "hull trust".
func (s sharing) trustCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "trust COMMAND", Short: "Manage keys that sign images", Args: cli.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	key := &cobra.Command{Use: "key COMMAND", Short: "Manage keys that sign images", Args: cli.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	key.AddCommand(s.generateCommand())
	cmd.AddCommand(key)
	return cmd
}

func (s sharing) generateCommand() *cobra.Command {
	var notation bool
	var dir string
	var life time.Duration
	cmd := &cobra.Command{
		Use: "generate [OPTIONS] NAME", Short: "Make a key pair: NAME.key signs, NAME.pub verifies", Args: cli.ExactArgs(1),
		Long: `Make a key pair: NAME.key signs, NAME.pub verifies.

The key is cosign's: "cosign sign --key NAME.key" uses it, too. With --notation it
is notation's, with a self-signed certificate NAME.crt instead of NAME.pub.
Its password is read from ` + keyPassword + ` or asked for.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.generate(cmd.Context(), filepath.Join(dir, args[0]), notation, life)
		},
	}
	cmd.Flags().BoolVar(&notation, "notation", false, "Make a key and a certificate for notation's signatures")
	cmd.Flags().StringVar(&dir, "dir", ".", "Directory of the files")
	cmd.Flags().DurationVar(&life, "valid", 365*24*time.Hour, "How long the certificate is valid (--notation)")
	return cmd
}

func (s sharing) generate(ctx context.Context, base string, notation bool, life time.Duration) error {
	g := trust.Generate{Format: trust.Cosign, Name: filepath.Base(base), Life: life}
	public := base + ".pub"
	if notation {
		g.Format, public = trust.Notation, base+".crt"
	}
	for _, p := range []string{base + ".key", public} {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("%s is there already: choose another name", p)
		}
	}
	var err error
	if g.Password, err = s.password("Password for the key (empty: none): "); err != nil {
		return err
	}
	if s.cli.In().IsTerminal() && len(g.Password) > 0 && os.Getenv(keyPassword) == "" && os.Getenv(cosignPassword) == "" {
		again, err := s.password("Again: ")
		if err != nil {
			return err
		}
		if !bytes.Equal(again, g.Password) {
			return errors.New("the two passwords differ")
		}
	}
	r, err := askTrust(ctx, trust.Request{Generate: &g})
	if err != nil {
		return err
	}
	if err := writeNew(base+".key", r.Private, 0o600); err != nil {
		return err
	}
	if err := writeNew(public, r.Public, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(s.cli.Out(), "%s.key signs (keep it), %s verifies (give it away)\n", base, public)
	return nil
}

// writeNew writes a file that is not there yet.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// password is the environment's, or what the user enters without an echo; none
// when there is no terminal.
func (s sharing) password(prompt string) ([]byte, error) {
	for _, name := range []string{keyPassword, cosignPassword} {
		if v, ok := os.LookupEnv(name); ok {
			return []byte(v), nil
		}
	}
	if !s.cli.In().IsTerminal() {
		return nil, nil
	}
	state, err := term.SaveState(s.cli.In().FD())
	if err != nil {
		return nil, fmt.Errorf("ask for the password: %w", err)
	}
	if err := term.DisableEcho(s.cli.In().FD(), state); err != nil {
		return nil, fmt.Errorf("ask for the password: %w", err)
	}
	fmt.Fprint(s.cli.Err(), prompt)
	line, err := bufio.NewReader(s.cli.In()).ReadBytes('\n')
	fmt.Fprintln(s.cli.Err())
	return bytes.TrimRight(line, "\r\n"), errors.Join(err, term.RestoreTerminal(s.cli.In().FD(), state))
}

// signing are the flags of sign and verify.
type signing struct {
	key, certificate, envelope string
	expires                    time.Duration
	push                       bool
	identities, signedAs       []string
}

func (s sharing) signCommand() *cobra.Command {
	var o signing
	cmd := &cobra.Command{
		Use: "sign [OPTIONS] --key FILE IMAGE", Short: "Sign an image", Args: cli.ExactArgs(1),
		Long: `Sign an image: as cosign does with a key pair, or, with --certificate, as notation does.

A signature of an image that is here is kept with it and goes along with 'hull push'.
With --push it is sent to the registry now; the image need not be here then.
The key's password is read from ` + keyPassword + ` or asked for.`,
		RunE: func(cmd *cobra.Command, args []string) error { return s.sign(cmd.Context(), args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.key, "key", "", "File of the private key")
	f.StringVar(&o.certificate, "certificate", "", "File of the key's certificate and those above it: sign as notation does")
	f.StringVar(&o.envelope, "envelope", "jws", `Form of notation's signature ("jws", "cose")`)
	f.DurationVar(&o.expires, "expires", 0, "How long the signature is good (notation's only; default: for ever)")
	f.BoolVar(&o.push, "push", false, "Send the signature to the image's registry")
	_ = cmd.MarkFlagRequired("key") // it is there
	return cmd
}

func (s sharing) sign(ctx context.Context, image string, o signing) error {
	in := api.ImageSigning{Image: image, Registry: o.push}
	q := trust.Sign{Format: trust.Cosign, Expiry: o.expires}
	var err error
	if q.Key, err = os.ReadFile(o.key); err != nil {
		return err
	}
	if o.certificate != "" {
		q.Format, q.Envelope = trust.Notation, o.envelope
		if q.Certificates, err = os.ReadFile(o.certificate); err != nil {
			return err
		}
	}
	if in.Auth, err = command.RetrieveAuthTokenFromImage(s.cli.ConfigFile(), image); err != nil {
		return err
	}
	var what api.ImageSignatures
	if err := route.Post(ctx, s.cli.Client().Dialer(), api.ImagesSignablePath, in, &what); err != nil {
		return err
	}
	if len(what.Documents) == 0 {
		return fmt.Errorf("image %s has nothing to sign", image)
	}
	d := what.Documents[0]
	if bytes.Contains(q.Key, []byte("ENCRYPTED ")) {
		if q.Password, err = s.password("Password of " + o.key + ": "); err != nil {
			return err
		}
	}
	q.Artifact = trust.Artifact{Repository: what.Repository, MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	r, err := askTrust(ctx, trust.Request{Sign: &q})
	if err != nil {
		return fmt.Errorf("sign %s: %w", image, err)
	}
	if r.Signature == nil {
		return errors.New("hull-trust gave no signature")
	}
	in.Document, in.Signature = &d, (*api.ImageSignature)(r.Signature)
	if err := route.Post(ctx, s.cli.Client().Dialer(), api.ImagesSignPath, in, nil); err != nil {
		return err
	}
	fmt.Fprintf(s.cli.Out(), "Signed %s@%s\n", what.Repository, d.Digest)
	return nil
}

func (s sharing) verifyCommand() *cobra.Command {
	var o signing
	cmd := &cobra.Command{
		Use: "verify [OPTIONS] IMAGE", Short: "Verify the signatures of an image", Args: cli.ExactArgs(1),
		Long: `Verify the signatures of an image: by a key (cosign's) or a certificate (notation's),
without either by the engine's trust policy. An image that is not here is looked up
in its registry, and with --registry any image is.`,
		RunE: func(cmd *cobra.Command, args []string) error { return s.verify(cmd.Context(), args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.key, "key", "", "File of a public key")
	f.StringVar(&o.certificate, "certificate", "", "File of an authority's certificate")
	f.StringArrayVar(&o.identities, "identity", nil, `Who must have signed, as in "x509.subject: C=DE,O=Acme,CN=release" (notation's)`)
	f.StringArrayVar(&o.signedAs, "signed-as", nil, `Repositories that a signature may be for (cosign's; default: the image's own, "*": any)`)
	f.BoolVar(&o.push, "registry", false, "Look at what the registry has, also when the image is here")
	cmd.MarkFlagsMutuallyExclusive("key", "certificate")
	return cmd
}

func (s sharing) verify(ctx context.Context, image string, o signing) error {
	in := api.ImageSigning{Image: image, Registry: o.push}
	var err error
	if in.Auth, err = command.RetrieveAuthTokenFromImage(s.cli.ConfigFile(), image); err != nil {
		return err
	}
	var got api.ImageSignatures
	if err := route.Post(ctx, s.cli.Client().Dialer(), api.ImagesSignaturesPath, in, &got); err != nil {
		return err
	}
	v := trust.Verify{}
	switch {
	case o.key != "":
		v.Rule = trust.Rule{Require: trust.Cosign, SignedAs: o.signedAs}
		v.Rule.Keys, err = readFiles(o.key)
	case o.certificate != "":
		v.Rule = trust.Rule{Require: trust.Notation, Identities: o.identities}
		v.Rule.Certificates, err = readFiles(o.certificate)
	case got.Refused != "":
		return errors.New(got.Refused)
	case got.Accepted == "":
		return fmt.Errorf("there is no trust policy, and no --key or --certificate: %s has %d signatures, which nothing says to believe", image, len(got.Signatures))
	default:
		fmt.Fprintf(s.cli.Out(), "%s is accepted: %s\n", image, got.Accepted)
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range got.Documents {
		v.Artifacts = append(v.Artifacts, trust.Artifact{Repository: got.Repository, MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	for _, g := range got.Signatures {
		v.Signatures = append(v.Signatures, trust.Signature(g))
	}
	r, err := askTrust(ctx, trust.Request{Verify: &v})
	if err != nil {
		return fmt.Errorf("%s is not verified: %w", image, err)
	}
	fmt.Fprintf(s.cli.Out(), "%s is signed by %s\n", image, strings.TrimSpace(r.By))
	return nil
}

func readFiles(path string) ([]trust.File, error) {
	b, err := os.ReadFile(path)
	return []trust.File{{Name: path, PEM: b}}, err
}
