package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// errStalled ends an attempt that stands still.
var errStalled = errors.New("registry sent nothing for too long")

// download completes w from offset on, and commits it when its digest is right.
// A connection that breaks or stands still is opened again at the place reached.
// What comes is also written to tee.
func (p *puller) download(ctx context.Context, d ocispec.Descriptor, w content.Writer, offset int64, tee io.Writer, id string, report func(hull.Progress)) error {
	c := &copier{w: w, tee: tee, at: offset, size: d.Size, stall: p.s.cfg.Stall,
		pace: pace{report: report, id: id, status: "Downloading", total: d.Size, at: offset}}
	err := p.s.retry(ctx, func(ctx context.Context) (bool, error) {
		before := c.at
		err := c.attempt(ctx, p, d)
		return c.at > before, err
	})
	if err != nil {
		var local *localError
		if errors.As(err, &local) {
			// The disk is full, or the layer was refused: it is not to be gone on with.
			err = errors.Join(err, p.abort(ctx, d, w))
		}
		return fmt.Errorf("download layer %s: %w", d.Digest, err)
	}
	report(hull.Progress{ID: id, Status: "Verifying Checksum"})
	if err := w.Commit(ctx, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		if w.Digest() != d.Digest {
			err = &mismatchError{w.Digest()}
		}
		// What came is worthless: the next pull must not go on from it.
		return errors.Join(fmt.Errorf("verify layer %s: %w", d.Digest, err), p.abort(ctx, d, w))
	}
	if err := p.s.origin(ctx, d.Digest, p.ref); err != nil {
		return err
	}
	report(hull.Progress{ID: id, Status: "Download complete"})
	return nil
}

// abort drops a download.
func (p *puller) abort(ctx context.Context, d ocispec.Descriptor, w content.Writer) error {
	w.Close() //nolint:errcheck // it is thrown away
	if err := p.s.content.Abort(context.WithoutCancel(ctx), blobRef(d)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("drop download: %w", err)
	}
	return nil
}

// mismatchError: a blob is not what its digest says.
type mismatchError struct{ got digest.Digest }

func (e *mismatchError) Error() string {
	return fmt.Sprintf("digest mismatch: its content has the digest %s", e.got)
}

// Unwrap gives the kind.
func (*mismatchError) Unwrap() error { return errdefs.ErrDataLoss }

// watch ends what is done with the returned context when touch is not called for
// so long. stop is to be called in the end.
func watch(ctx context.Context, stall time.Duration) (_ context.Context, touch, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := time.AfterFunc(stall, func() { cancel(errStalled) })
	return ctx, func() { t.Reset(stall) }, func() { t.Stop(); cancel(nil) }
}

// copier carries a blob over several attempts.
type copier struct {
	w     content.Writer
	tee   io.Writer
	at    int64
	size  int64
	stall time.Duration
	pace  pace
	buf   []byte
}

// attempt fetches from the place reached to the end.
func (c *copier) attempt(ctx context.Context, p *puller, d ocispec.Descriptor) error {
	if c.at == c.size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.stall, func() { cancel(errStalled) })
	defer watch.Stop()
	rc, err := p.fetcher.Fetch(ctx, d)
	if err != nil {
		return cause(ctx, err)
	}
	defer rc.Close()
	if c.at > 0 {
		sk, ok := rc.(io.Seeker)
		if !ok {
			return &localError{errors.New("transfer cannot be resumed")}
		}
		if _, err := sk.Seek(c.at, io.SeekStart); err != nil {
			return fmt.Errorf("resume at byte %d: %w", c.at, err)
		}
	}
	if c.buf == nil {
		c.buf = make([]byte, 256<<10)
	}
	for c.at < c.size {
		n, err := rc.Read(c.buf[:min(int64(len(c.buf)), c.size-c.at)])
		if n > 0 {
			watch.Stop() // what we do with it is not the registry's fault
			if err := c.take(c.buf[:n]); err != nil {
				return err
			}
			watch.Reset(c.stall)
		}
		if errors.Is(err, io.EOF) && c.at < c.size {
			return fmt.Errorf("registry sent %d of %d bytes: %w", c.at, c.size, io.ErrUnexpectedEOF)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return cause(ctx, err)
		}
	}
	return nil
}

// take stores what came.
func (c *copier) take(b []byte) error {
	if _, err := c.w.Write(b); err != nil {
		return &localError{fmt.Errorf("write: %w", err)}
	}
	c.at += int64(len(b))
	c.pace.add(len(b))
	if c.tee != nil {
		if _, err := c.tee.Write(b); err != nil && !errors.Is(err, errUnpacked) {
			return &localError{err}
		}
	}
	return nil
}

// cause prefers why ctx was ended to the error that this led to.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}
