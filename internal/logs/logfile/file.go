package logfile

import (
	"errors"
	"fmt"
	"hull/internal/hull"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// batchSize is how many bytes of records are gathered before they are written
// in the middle of a chunk; from asideSize on a batch is written by a goroutine of
// its own, so that a flood is encoded and written at the same time. Bytes.
const (
	batchSize = 128 << 10
	asideSize = batchSize / 2
)

// fileWriter is a log in files: PATH is the present one, PATH.1 the one before
// it, and so on, the older ones with .gz behind when they have been compressed.
type fileWriter struct {
	t      hull.LogTarget
	repair func(*os.File) error
	gz     *compressor // nil = do not compress
	limit  int         // flush above this many bytes

	// fileMu is held while the files change: taken after mu, where both are.
	fileMu sync.Mutex
	f      *os.File // nil after a failed rotation: opened again at the next write
	size   int64

	mu    sync.Mutex
	enc   encoder
	split [2]splitter // by Stream-1
	buf   []byte
	lost  int64 // bytes of records dropped since the last successful write
	why   error // first error of that loss

	// A batch that is being written aside, at most one. While it is, buf is another.
	aside []byte     // nil = none
	spare []byte     // the buffer that is not in use
	done  chan error // how it went; made with the first
}

func openFile(t hull.LogTarget, enc encoder, repair func(*os.File) error) (*fileWriter, error) {
	w := &fileWriter{t: t, repair: repair, enc: enc, limit: batchSize}
	if t.MaxSize > 0 {
		w.limit = int(min(t.MaxSize, batchSize))
	}
	if err := w.open(0); err != nil {
		return nil, err
	}
	if t.Compress && t.MaxFiles > 1 {
		w.gz = newCompressor(w)
		w.gz.later() // a container's last run may have left some
	}
	return w, nil
}

// open opens the present file. The caller holds fileMu or is the only user.
func (w *fileWriter) open(flags int) error {
	f, err := os.OpenFile(w.t.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW|flags, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if flags&os.O_TRUNC == 0 {
		if err := w.repair(f); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	w.f, w.size = f, st.Size()
	return nil
}

func (w *fileWriter) Write(s Stream, p []byte, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.why
	sp := &w.split[s-1]
	w.enc.begin(s, now)
	for {
		line, n, last, ok := sp.next(p)
		p = p[n:]
		if !ok {
			break
		}
		w.line(sp, s, line, last, now)
	}
	w.flush()
	if before == nil {
		return w.why
	}
	return nil
}

// line adds one record to the batch. enc is set for s at now, before and after.
func (w *fileWriter) line(sp *splitter, s Stream, line []byte, last bool, now time.Time) {
	if len(w.buf)+len(line)+w.enc.overhead() > w.limit {
		w.flush()
		w.enc.begin(s, now) // flush may have written a notice
	}
	at, part := sp.part(last, now)
	if part == 0 {
		w.buf = w.enc.append(w.buf, line, last, 0)
		return
	}
	// All parts of a line carry the time of the first, as Docker's do.
	w.enc.begin(s, at)
	w.buf = w.enc.append(w.buf, line, last, part)
	w.enc.begin(s, now)
}

// flush writes the batch, a large one aside. What cannot be written is dropped and
// counted.
func (w *fileWriter) flush() {
	if len(w.buf) == 0 {
		return
	}
	w.collect()
	b := w.buf
	if w.lost > 0 {
		b = w.withNotice(b)
	}
	if len(b) < asideSize {
		w.buf = w.buf[:0]
		w.settle(len(b), w.put(b))
		return
	}
	if w.done == nil {
		w.done = make(chan error, 1)
	}
	w.aside, w.buf = b, w.spare[:0]
	go func() { w.done <- w.put(b) }()
}

// collect waits for the batch that is being written aside.
func (w *fileWriter) collect() {
	if w.aside == nil {
		return
	}
	err := <-w.done
	n := len(w.aside)
	w.spare, w.aside = w.aside[:0], nil
	w.settle(n, err)
}

// settle notes how the writing of n bytes of records went.
func (w *fileWriter) settle(n int, err error) {
	if err == nil {
		w.lost, w.why = 0, nil
		return
	}
	if w.why == nil {
		w.why = err
	}
	w.lost += int64(n)
}

// withNotice puts a record about what was lost in front of b.
func (w *fileWriter) withNotice(b []byte) []byte {
	text := "hull: about " + strconv.FormatInt(w.lost, 10) + " bytes of log were lost: " + w.why.Error()
	w.enc.begin(Stderr, time.Now())
	return append(w.enc.append(nil, []byte(text), true, 0), b...)
}

// put writes b as a whole or not at all.
func (w *fileWriter) put(b []byte) error {
	w.fileMu.Lock()
	defer w.fileMu.Unlock()
	if w.f == nil {
		if err := w.open(0); err != nil {
			return err
		}
	}
	if w.t.MaxSize > 0 && w.size > 0 && w.size+int64(len(b)) > w.t.MaxSize {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := w.f.Write(b)
	if err == nil {
		w.size += int64(n)
		return nil
	}
	if n > 0 { // no half records
		err = errors.Join(err, w.f.Truncate(w.size))
	}
	return fmt.Errorf("write log: %w", err)
}

// rotate makes the present file the newest old one and begins a new one.
func (w *fileWriter) rotate() error {
	err := w.f.Close()
	w.f = nil
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if w.gz != nil {
		w.gz.abort()
		defer w.gz.later()
	}
	if w.t.MaxFiles < 2 {
		// A new file, not a truncated one: followers still read the old one.
		if err := os.Remove(w.t.Path); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
		return w.open(0)
	}
	for i := w.t.MaxFiles - 1; i > 0; i-- {
		if err := w.shift(i); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	return w.open(0)
}

// shift moves file i-1 to i, compressed or not, replacing what i is.
func (w *fileWriter) shift(i int) error {
	for _, gz := range []string{"", ".gz"} {
		if err := gone(os.Remove(Old(w.t.Path, i) + gz)); err != nil {
			return err
		}
	}
	if i == 1 {
		return os.Rename(w.t.Path, Old(w.t.Path, 1))
	}
	for _, gz := range []string{"", ".gz"} {
		if err := gone(os.Rename(Old(w.t.Path, i-1)+gz, Old(w.t.Path, i)+gz)); err != nil {
			return err
		}
	}
	return nil
}

// Old is the path of the i-th newest rotated file, without ".gz". 0 is the
// present one.
func Old(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (w *fileWriter) Close() error {
	if w.gz != nil {
		w.gz.close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, s := range []Stream{Stdout, Stderr} {
		sp := &w.split[s-1]
		if rest := sp.end(); len(rest) > 0 {
			w.enc.begin(s, now)
			w.line(sp, s, rest, false, now)
		}
		*sp = splitter{}
	}
	w.flush()
	w.collect()
	err := w.why
	w.fileMu.Lock()
	defer w.fileMu.Unlock()
	if w.f != nil {
		err = errors.Join(err, w.f.Close())
		w.f = nil
	}
	return err
}
