package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"hull/internal/linux"
)

// journal is the image database as its users write it. A build changes it dozens
// of times with each step, and nothing of that has to outlive a power failure; so
// while one works, changes wait for no disk:
//
//	patience's end      meta.db is copied to meta.db.safe, and meta.db.hasty says
//	                    in which boot of the machine that was
//	a name is given or  everything is synced, meta.db.hasty goes; what follows
//	taken, or no build  begins anew
//	works any more
//
// A killed engine loses nothing: the kernel has the changes. Found in another boot,
// meta.db.hasty means that the power went in between, and the copy takes the
// database's place: it is whole, and lacks only what the build had done.
type journal struct {
	db   *bolt.DB
	path string
	boot string

	mu      sync.Mutex // before the database's own writer
	working int        // builds
	waited  int        // changes since then that have waited for the disk
	hasty   bool
}

// patience is how many changes of a build wait for the disk before the copy is
// cheaper: a build that finds all in the cache has fewer.
const patience = 48

// openJournal opens the image database in dir. boot is linux.BootID's.
func openJournal(dir, boot string, options *bolt.Options) (*journal, error) {
	j := &journal{path: filepath.Join(dir, "meta.db"), boot: boot}
	was, err := os.ReadFile(j.path + ".hasty")
	if err == nil && strings.TrimSpace(string(was)) != j.boot {
		err = os.Rename(j.path+".safe", j.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("restore image database: %w", err)
	}
	if j.db, err = bolt.Open(j.path, 0o600, options); err != nil {
		return nil, err
	}
	j.hasty = was != nil
	if err := j.settle(); err != nil {
		return nil, errors.Join(err, j.db.Close())
	}
	return j, nil
}

// View implements metadata.Transactor.
func (j *journal) View(fn func(*bolt.Tx) error) error { return j.db.View(fn) }

// Update implements metadata.Transactor.
func (j *journal) Update(fn func(*bolt.Tx) error) error {
	return j.db.Update(func(tx *bolt.Tx) error {
		// Here nobody else writes, and what was written is synced or hasty.
		if err := j.hasten(); err != nil {
			return err
		}
		return fn(tx)
	})
}

// hasten decides whether the transaction that begins waits for the disk.
func (j *journal) hasten() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.working > 0 && !j.hasty {
		j.waited++
	}
	if j.waited > patience {
		j.waited = 0
		if err := j.keep(); err != nil {
			return fmt.Errorf("copy image database: %w", err)
		}
		j.hasty = true
	}
	j.db.NoSync = j.hasty
	return nil
}

// keep makes the copy and the note.
func (j *journal) keep() error {
	in, err := os.Open(j.path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(j.path+".safe", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	// It syncs the directory, with the copy's name in it.
	return linux.WriteFile(j.path+".hasty", []byte(j.boot+"\n"), 0o600, true)
}

// errNothing ends a transaction that has changed nothing.
var errNothing = errors.New("nothing to commit") //nolint:gochecknoglobals // a sentinel

// settle makes everything so far outlive a power failure.
func (j *journal) settle() error {
	j.mu.Lock()
	hasty := j.hasty
	j.mu.Unlock()
	if !hasty {
		return nil
	}
	// As a writer: nobody else is one while the whole file is synced.
	err := j.db.Update(func(*bolt.Tx) error {
		if err := j.unnote(); err != nil {
			return err
		}
		return errNothing
	})
	if !errors.Is(err, errNothing) {
		return fmt.Errorf("sync image database: %w", err)
	}
	return nil
}

// unnote syncs and takes the note away.
func (j *journal) unnote() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.hasty {
		return nil
	}
	if err := j.db.Sync(); err != nil {
		return err
	}
	if err := os.Remove(j.path + ".hasty"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.hasty, j.db.NoSync = false, false
	return linux.SyncDir(filepath.Dir(j.path))
}

// work is called when a build begins, done when it has ended.
func (j *journal) work() (done func() error) {
	j.mu.Lock()
	if j.working++; j.working == 1 {
		j.waited = 0
	}
	j.mu.Unlock()
	return sync.OnceValue(func() error {
		j.mu.Lock()
		j.working--
		last := j.working == 0
		j.mu.Unlock()
		if !last {
			return nil
		}
		return j.settle()
	})
}

// Close ends it.
func (j *journal) Close() error { return errors.Join(j.settle(), j.db.Close()) }
