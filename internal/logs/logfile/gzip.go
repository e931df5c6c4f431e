package logfile

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// quiet is how long a log must not rotate before its old files are compressed:
// a container that floods its log is not slowed, and files that are about to be
// deleted are not compressed in vain.
const quiet = 3 * time.Second

// compressor compresses a writer's rotated files, one at a time, in the
// background.
type compressor struct {
	w   *fileWriter
	gen atomic.Int64 // counts rotations: a compression of an earlier one is given up

	one sync.Mutex // held by run: one at a time

	mu     sync.Mutex
	timer  *time.Timer
	closed bool
	busy   sync.WaitGroup
}

func newCompressor(w *fileWriter) *compressor { return &compressor{w: w} }

// abort makes a running compression give up: the files get other names.
func (c *compressor) abort() { c.gen.Add(1) }

// later compresses what there is once the log is quiet.
func (c *compressor) later() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(quiet, c.run)
		return
	}
	c.timer.Reset(quiet)
}

func (c *compressor) close() {
	c.mu.Lock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.abort()
	c.busy.Wait()
}

func (c *compressor) run() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.busy.Add(1)
	c.mu.Unlock()
	defer c.busy.Done()
	c.one.Lock()
	defer c.one.Unlock()
	gen := c.gen.Load()
	did := false
	// Oldest first: it is the least likely to be read again soon.
	for i := c.w.t.MaxFiles - 1; i > 0; i-- {
		ok, err := c.file(Old(c.w.t.Path, i), gen)
		if err != nil {
			break // full disk, most likely: tried again after the next rotation
		}
		did = did || ok
	}
	if did {
		debug.FreeOSMemory() // a compressor's tables are large for a monitor
	}
}

var errAborted = errors.New("rotated meanwhile")

// file compresses path if it exists and no rotation comes in between.
func (c *compressor) file(path string, gen int64) (_ bool, err error) {
	in, err := os.Open(path)
	if err != nil {
		return false, gone(err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	tmp := path + ".gz.tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return false, fmt.Errorf("compress log: %w", err)
	}
	err = c.pack(out, in, gen)
	err = errors.Join(err, out.Close())
	if err == nil {
		err = keepTime(tmp, in)
	}
	if err == nil {
		// Under the writer's lock no rotation comes between the two.
		c.w.fileMu.Lock()
		if c.gen.Load() != gen {
			err = errAborted
		} else if err = os.Rename(tmp, path+".gz"); err == nil {
			err = os.Remove(path)
		}
		c.w.fileMu.Unlock()
	}
	if err != nil {
		return false, errors.Join(fmt.Errorf("compress log: %w", err), gone(os.Remove(tmp)))
	}
	return true, nil
}

func (c *compressor) pack(out io.Writer, in io.Reader, gen int64) error {
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	for {
		if c.gen.Load() != gen {
			return errAborted
		}
		if _, err := io.CopyN(z, in, batchSize); err != nil {
			if errors.Is(err, io.EOF) {
				return z.Close()
			}
			return err
		}
	}
}

// keepTime gives path the time of f's last write: by it a reader sees what it can
// pass over, and finds again what it was reading.
func keepTime(path string, f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return os.Chtimes(path, st.ModTime(), st.ModTime())
}
