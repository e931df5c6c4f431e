package store

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// retryAfter is how long the writer waits after a failed write of records that
// nobody waited for (full disk) before it tries again.
const retryAfter = 2 * time.Second

var errClosed = errors.New("state database is closed")

// dbKey is a place in hull.db.
type dbKey struct{ bucket, key string }

// change is what shall stand there. lazy: nobody waits, so a failed write is
// tried again.
type change struct {
	value []byte // nil = delete
	lazy  bool
}

// batch is what goes into one transaction, hence one fsync.
type batch struct {
	changes map[dbKey]change
	done    chan struct{}
	err     error // valid after done
}

func newBatch() *batch {
	return &batch{changes: map[dbKey]change{}, done: make(chan struct{})}
}

// writer is the one goroutine that writes hull.db. While it commits one batch
// the next one gathers; a lone urgent write is committed at once.
type writer struct {
	db   *bbolt.DB
	log  *slog.Logger
	wake chan struct{} // capacity 1: something urgent
	lazy chan struct{} // capacity 1: something that may wait
	quit chan struct{}
	end  chan struct{}

	mu      sync.Mutex
	next    *batch
	closed  bool
	lastErr error // of the last commit
}

func newWriter(db *bbolt.DB, log *slog.Logger) *writer {
	w := &writer{
		db: db, log: log, next: newBatch(),
		wake: make(chan struct{}, 1), lazy: make(chan struct{}, 1),
		quit: make(chan struct{}), end: make(chan struct{}),
	}
	go w.loop()
	return w
}

// record is one key with its new value; nil deletes it.
type record struct {
	key   dbKey
	value []byte
}

// put writes records in one transaction and returns when they are on disk.
func (w *writer) put(recs ...record) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return errClosed
	}
	b := w.next
	for _, r := range recs {
		b.changes[r.key] = change{r.value, false}
	}
	w.mu.Unlock()
	signal(w.wake)
	<-b.done
	return b.err
}

// putLazy queues records; they are written with the next put, or after
// writeBehind. A failed write is tried again until it succeeds.
func (w *writer) putLazy(recs ...record) {
	w.mu.Lock()
	for _, r := range recs {
		w.next.changes[r.key] = change{r.value, true}
	}
	w.mu.Unlock()
	signal(w.lazy)
}

// close commits what is queued and ends the writer.
func (w *writer) close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	close(w.quit)
	<-w.end
	return w.lastErr
}

func (w *writer) loop() {
	defer close(w.end)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for armed := false; ; {
		select {
		case <-w.lazy:
			if !armed {
				timer.Reset(writeBehind)
				armed = true
			}
			continue
		case <-w.wake:
		case <-timer.C:
		case <-w.quit:
			w.commit()
			return
		}
		armed = !w.commit()
		if armed {
			timer.Reset(retryAfter)
		} else {
			timer.Stop()
		}
	}
}

// commit writes the gathered batch, and says whether all is written.
func (w *writer) commit() bool {
	w.mu.Lock()
	b := w.next
	w.next = newBatch()
	w.mu.Unlock()
	b.err = w.write(b)
	w.mu.Lock()
	again := w.after(b)
	w.mu.Unlock()
	close(b.done)
	return !again
}

// after looks at a batch's outcome and puts back what must be tried again. The
// caller holds mu.
func (w *writer) after(b *batch) (again bool) {
	if b.err == nil {
		if w.lastErr != nil {
			w.log.Info("state database can be written again")
		}
		w.lastErr = nil
		return false
	}
	if w.lastErr == nil {
		w.log.Error("state database cannot be written", "err", b.err)
	}
	w.lastErr = b.err
	for k, c := range b.changes {
		if _, newer := w.next.changes[k]; c.lazy && !newer {
			w.next.changes[k] = c
			again = true
		}
	}
	return again
}

func (w *writer) write(b *batch) error {
	if len(b.changes) == 0 {
		return nil
	}
	err := w.db.Update(func(tx *bbolt.Tx) error {
		for k, c := range b.changes {
			bucket := tx.Bucket([]byte(k.bucket))
			var err error
			if c.value == nil {
				err = bucket.Delete([]byte(k.key))
			} else {
				err = bucket.Put([]byte(k.key), c.value)
			}
			if err != nil {
				return fmt.Errorf("%s/%s: %w", k.bucket, k.key, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write state database: %w", err)
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
