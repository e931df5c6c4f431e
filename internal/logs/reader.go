package logs

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// pollInterval is how often a followed file is looked at without being told to.
const pollInterval = time.Second

// reader reads a log and follows it. It satisfies hull.LogReader.
//
//	files (oldest first) -> buffer -> decoder -> filter -> Next
//
// While it waits for more it holds no buffer: a thousand followers cost a
// thousand file descriptors and little memory.
type reader struct {
	ctx   context.Context //nolint:containedctx // one call of Read is one context; Next has none
	log   family
	req   hull.LogsRequest
	ended <-chan struct{} // nil = no run is on
	svc   *Service

	files []*source // still to be read; [0] is being read
	dec   decoder
	buf   []byte // from bufs, or nil
	data  []byte // the unread part of buf; while waiting, a copy
	skip  int    // matching records to pass over (tail)
	over  bool   // ended was seen: read to the end, then stop

	changed <-chan struct{}
	unwatch func()
	until   <-chan time.Time

	closing sync.Once
	closed  chan struct{}
	mu      sync.Mutex // held by Next, so that Close tears nothing away under it
}

var bufs = sync.Pool{New: func() any { b := make([]byte, blockSize); return &b }} //nolint:gochecknoglobals // a cache

func newReader(ctx context.Context, s *Service, log family, req hull.LogsRequest, ended <-chan struct{}) *reader {
	return &reader{ctx: ctx, svc: s, log: log, req: req, ended: ended, dec: log.decoder(), closed: make(chan struct{})}
}

// start opens the files and goes to where reading begins.
func (r *reader) start() (err error) {
	if r.req.Follow && r.ended == nil {
		r.req.Follow = false
	}
	if r.req.Follow {
		// Before the files are opened: what comes in between must not be missed.
		dir := filepath.Dir(r.log.path)
		if r.changed, r.unwatch, err = r.svc.watch.add(dir); err != nil {
			r.svc.log.Warn("log is polled", "err", err)
		}
	}
	if !r.req.Until.IsZero() && r.req.Follow {
		r.until = time.After(time.Until(r.req.Until))
	}
	if r.req.Tail > 0 && (!r.req.Until.IsZero() || !r.req.Stdout || !r.req.Stderr) {
		return r.startFiltered()
	}
	if r.files, err = r.log.open(); err != nil {
		return err
	}
	if r.req.Tail >= 0 {
		return r.tail(r.req.Tail)
	}
	return r.dropOld()
}

// tail goes to the last n records.
func (r *reader) tail(n int) error {
	for i := len(r.files) - 1; i >= 0; i-- {
		if n == 0 {
			// The file that is followed stays, at its end.
			if i == len(r.files)-1 {
				if _, err := r.files[i].f.Seek(0, io.SeekEnd); err != nil {
					return err
				}
				i--
			}
			return r.drop(i + 1)
		}
		got, err := r.files[i].tail(n, r.log)
		if err != nil {
			return err
		}
		n -= got
	}
	return nil
}

// drop closes the n oldest files.
func (r *reader) drop(n int) error {
	err := closeAll(r.files[:n])
	r.files = r.files[n:]
	return err
}

// dropOld passes over old files that were last written before since. A
// compressed one keeps the time of the original.
func (r *reader) dropOld() error {
	n := 0
	for n < len(r.files)-1 && r.files[n].info.ModTime().Before(r.req.Since) {
		n++
	}
	return r.drop(n)
}

// startFiltered is for a tail of records that must be read to know whether they
// count: all are counted first.
func (r *reader) startFiltered() error {
	all := r.req
	all.Tail, all.Follow = -1, false
	count := newReader(r.ctx, r.svc, r.log, all, nil)
	err := count.start()
	n := 0
	for err == nil {
		if _, err = count.Next(); err == nil {
			n++
		}
	}
	if !errors.Is(err, io.EOF) {
		return errors.Join(err, count.Close())
	}
	if err := count.Close(); err != nil {
		return err
	}
	r.skip = max(0, n-r.req.Tail)
	if r.files, err = r.log.open(); err != nil {
		return err
	}
	return r.dropOld()
}

// Next gives the next line, and io.EOF at the end: of the log, or of a follow
// (the run is over, until is past, the context is done, or Close was called).
func (r *reader) Next() (hull.LogLine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		line, ok, err := r.record()
		if err != nil {
			return hull.LogLine{}, err
		}
		if !ok {
			continue
		}
		if !r.req.Until.IsZero() && line.Time.After(r.req.Until) {
			return hull.LogLine{}, io.EOF
		}
		if !r.wanted(line) {
			continue
		}
		if r.skip > 0 {
			r.skip--
			continue
		}
		return line, nil
	}
}

func (r *reader) wanted(l hull.LogLine) bool {
	if l.Stream == "stderr" && !r.req.Stderr || l.Stream == "stdout" && !r.req.Stdout {
		return false
	}
	return !l.Time.Before(r.req.Since)
}

// record decodes the next record; ok is false when there was none this time.
func (r *reader) record() (hull.LogLine, bool, error) {
	if len(r.data) > 0 {
		line, n, ok, err := r.dec.next(r.data)
		if err != nil {
			return line, false, r.giveUp(err)
		}
		if n > 0 {
			r.data = r.data[n:]
			if ok && r.files[0].skip > 0 {
				r.files[0].skip--
				ok = false
			}
			return line, ok, nil
		}
	}
	return hull.LogLine{}, false, r.fill()
}

// giveUp passes over the rest of a damaged file.
func (r *reader) giveUp(err error) error {
	r.svc.log.Warn("rest of log file is skipped", "path", r.log.path, "err", err)
	r.data = nil
	if _, err := r.files[0].f.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	if len(r.files) > 1 {
		return r.drop(1)
	}
	return nil
}

// fill reads more, goes to the next file, or waits.
func (r *reader) fill() error {
	select {
	case <-r.closed:
		return io.EOF
	default:
	}
	if err := context.Cause(r.ctx); err != nil {
		return io.EOF
	}
	if len(r.files) == 0 {
		return r.first()
	}
	r.room()
	n, err := r.files[0].Read(r.buf[len(r.data):])
	r.data = r.buf[:len(r.data)+n]
	if n > 0 || err == nil {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read log: %w", err)
	}
	if len(r.files) > 1 {
		r.data = nil // a torn record at the end of an old file
		return r.drop(1)
	}
	if !r.req.Follow {
		return io.EOF
	}
	return r.more()
}

// room makes room in buf behind data.
func (r *reader) room() {
	if r.buf == nil {
		r.buf = *bufs.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
	}
	if len(r.data) < len(r.buf) {
		copy(r.buf, r.data)
	} else { // a long record
		long := make([]byte, 2*len(r.data))
		copy(long, r.data)
		r.release()
		r.buf = long
	}
	r.data = r.buf[:len(r.data)]
}

// release gives the buffer back. data must not be a part of it any more.
func (r *reader) release() {
	if b := r.buf; len(b) == blockSize {
		bufs.Put(&b)
	}
	r.buf = nil
}

// first waits for a log that does not exist yet.
func (r *reader) first() error {
	var err error
	if r.files, err = r.log.open(); err != nil || len(r.files) > 0 {
		return err
	}
	if !r.req.Follow || r.over {
		return io.EOF
	}
	return r.wait()
}

// more is called at the end of the present file of a followed log.
func (r *reader) more() error {
	rotated, err := r.successors()
	if err != nil || rotated {
		return err
	}
	if r.over {
		return io.EOF
	}
	return r.wait()
}

// successors appends the files that came after the one being read, when that is
// not the present one any more.
func (r *reader) successors() (bool, error) {
	if st, err := os.Stat(r.log.path); err == nil && os.SameFile(st, r.files[0].info) {
		return false, nil
	}
	all, err := r.log.open()
	if err != nil {
		return false, err
	}
	at := -1
	for i, s := range all {
		// A compressed file has another inode, but its original's time.
		if os.SameFile(s.info, r.files[0].info) || s.z != nil && r.lastWrite().Equal(s.info.ModTime()) {
			at = i
		}
	}
	if at == len(all)-1 && at >= 0 || len(all) == 0 {
		return false, closeAll(all)
	}
	// Not found = it was deleted: all that are left are newer.
	err = closeAll(all[:at+1])
	r.files = append(r.files, all[at+1:]...)
	return true, err
}

func (r *reader) lastWrite() time.Time {
	st, err := r.files[0].f.Stat()
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// wait returns nil when there may be more to read, io.EOF at the end of the follow.
func (r *reader) wait() error {
	r.data = slices.Clone(r.data) // a record that is being written, mostly none
	r.release()
	t := time.NewTimer(pollInterval)
	defer t.Stop()
	select {
	case <-r.changed:
	case <-t.C:
	case <-r.ended:
		r.over, r.ended = true, nil // once more, to the end
	case <-r.until:
		r.over, r.until = true, nil
	case <-r.ctx.Done():
		return io.EOF
	case <-r.closed:
		return io.EOF
	}
	return nil
}

// Close ends the reading. It may be called while another goroutine is in Next,
// which then returns io.EOF.
func (r *reader) Close() error {
	var err error
	r.closing.Do(func() {
		close(r.closed)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.unwatch != nil {
			r.unwatch()
		}
		err = closeAll(r.files)
		r.files, r.data = nil, nil
		r.release()
	})
	return err
}
