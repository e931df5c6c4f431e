package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Signature is what somebody has signed, and how.
type Signature struct {
	Format      string            // Cosign or Notation
	MediaType   string            // of Payload
	Payload     []byte            // cosign: the signed document; its bundle and notation: the envelope, which holds it
	Value       string            `json:",omitempty"` // cosign: the signature itself, base64
	Annotations map[string]string `json:",omitempty"` // notation: what the manifest beside it says
}

// MediaTypeCosign is the media type of what cosign signs.
const MediaTypeCosign = "application/vnd.dev.cosign.simplesigning.v1+json"

// MediaTypeBundle is that of sigstore's bundle, which is what cosign makes from version
// 3 on, and PredicateCosign what a bundle says that signs an image: there are others,
// with statements about it.
const (
	MediaTypeBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
	PredicateCosign = "https://sigstore.dev/cosign/sign/v1"
)

// Artifact is the document that is signed: a manifest or an index.
type Artifact struct {
	Repository string // "registry.example.com/team/app"
	MediaType  string
	Digest     string
	Size       int64 // bytes
}

// Request is one question to hull-trust: one field is set.
type Request struct {
	Verify   *Verify   `json:",omitempty"`
	Sign     *Sign     `json:",omitempty"`
	Generate *Generate `json:",omitempty"`
}

// Verify asks whether one of the signatures is what a rule requires.
type Verify struct {
	Rule       Rule
	Artifacts  []Artifact // the same image in several manifests: one is enough
	Signatures []Signature
}

// Sign asks for a signature.
type Sign struct {
	Artifact     Artifact
	Format       string // Cosign or Notation
	Key          []byte // PEM
	Password     []byte // of the key
	Certificates []byte // notation: the key's certificate first, PEM
	Envelope     string // notation: "jws" (the default) or "cose"
	Expiry       time.Duration
}

// Generate asks for a key pair.
type Generate struct {
	Format   string // Cosign or Notation
	Password []byte // that encrypts a cosign key; empty = as cosign does with an empty password
	Name     string // notation: the common name of the certificate
	Life     time.Duration
}

// Reply is the answer.
type Reply struct {
	Error     string     `json:",omitempty"`
	Signature *Signature `json:",omitempty"` // of Sign
	By        string     `json:",omitempty"` // of Verify: the key or the subject that has signed
	Private   []byte     `json:",omitempty"` // of Generate, PEM
	Public    []byte     `json:",omitempty"` // of Generate, PEM: a key, or a certificate
}

// Limits of one question, so that no input can occupy a processor or memory.
const (
	maxReply  = 1 << 20
	askLimit  = 30 * time.Second
	stderrMax = 4 << 10
)

// RefusedError is hull-trust's "no", in its words.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Ask puts a question to hull-trust, the program at path. A *RefusedError is its
// answer; any other error means that there is none.
func Ask(ctx context.Context, path string, q Request) (Reply, error) {
	var r Reply
	in, err := json.Marshal(q)
	if err != nil {
		return r, fmt.Errorf("ask hull-trust: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"GOMAXPROCS=1"} // it reads nothing of the environment
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(in)
	var out, said capped
	out.left, said.left = maxReply, stderrMax
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return r, fmt.Errorf("signatures need the program hull-trust, which is not at %s", path)
		}
		return r, fmt.Errorf("ask hull-trust: %w: %s", err, strings.TrimSpace(said.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("read hull-trust's answer: %w", err)
	}
	if r.Error != "" {
		return Reply{}, &RefusedError{r.Error}
	}
	return r, nil
}

// capped keeps the beginning of what is written.
type capped struct {
	bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	_, err := c.Buffer.Write(p[:n])
	return len(p), err
}

// maxRequest bounds what hull-trust reads.
const maxRequest = 64 << 20

// Serve is hull-trust's main: one question from in, one answer to out.
func Serve(in io.Reader, out io.Writer, answer func(Request) (Reply, error)) error {
	var q Request
	dec := json.NewDecoder(io.LimitReader(in, maxRequest))
	if err := dec.Decode(&q); err != nil {
		return fmt.Errorf("read the question: %w", err)
	}
	r, err := answer(q)
	if err != nil {
		r = Reply{Error: err.Error()}
	}
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}
