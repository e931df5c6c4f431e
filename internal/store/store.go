// Package store keeps the engine's records: pods, containers, volumes and
// networks. It is the only writer of hull.db.
//
// # Where a record lies
//
//	what                                    durable record          --rm record
//	spec, name, image, mounts               hull.db "containers"    RUN/store/container/ID.record
//	status: all of it, for this boot        RUN/store/container/ID.status (both)
//	status: what must outlive a reboot      hull.db "status"        nowhere
//	pod                                     hull.db "pods"          RUN/store/pod/ID.record
//	pod status (handle, endpoint)           RUN/store/pod/ID.status (both)
//	volumes, networks                       hull.db
//
// RUN is a tmpfs. Its files are changed so that a reader after a crash finds the
// old content or the new one, never fsynced, and valid only for the boot whose id
// RUN/store/boot holds. Every status update writes
// the whole status there first, so that a start waits for no disk; then, for a
// durable record, the part that must outlive a reboot is queued for hull.db and
// written at most writeBehind later. Only a change of intent (StopRequested)
// waits for the disk. After a crash of the engine the tmpfs copy wins: it is
// never older. After a reboot the database's copy is read, without pid, endpoint
// and health; its phase still says that the container ran, so that restart
// policies can act on it.
//
// # Memory
//
// All records are held in memory too, as immutable values behind atomic
// pointers: a reader takes no lock that a writer holds while it waits for a
// disk. What is handed out is a deep copy.
//
// # Broken records
//
// A record that cannot be decoded, or that a newer version wrote, is left where
// it is, reported in the log and by Broken, and otherwise ignored.
package store

import (
	"errors"
	"fmt"
	"hull/internal/hull"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
)

// writeBehind bounds how long a write that nobody waits for stays in memory.
const writeBehind = 100 * time.Millisecond

// openTimeout bounds the wait for the lock of hull.db.
const openTimeout = 2 * time.Second

// Config says where the records are.
type Config struct {
	Root   string       // holds hull.db
	RunDir string       // on tmpfs; store makes RunDir/store
	BootID string       // "" = the kernel's; tests reboot by changing it
	Log    *slog.Logger // nil = discard
}

// Store holds the records. It satisfies engine.Store. All methods may be called
// at any time from any goroutine, until Close.
type Store struct {
	log    *slog.Logger
	locks  []*os.File
	db     *bbolt.DB
	w      *writer
	run    runDir
	broken []string
	unread []string // ids of containers and pods among them
	behind []record // found newer on tmpfs than in the database by load

	mu         sync.RWMutex // held for moments only, never across I/O
	containers index
	pods       map[string]*podEntry
	volumes    objects[hull.Volume]
	networks   objects[hull.Network]
}

// Open reads all records. It fails with errdefs.ErrFailedPrecondition when
// another engine uses one of the directories, and names its pid.
func Open(c Config) (_ *Store, err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{log: c.Log, containers: newIndex(), pods: map[string]*podEntry{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	for _, dir := range []string{c.Root, c.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
		l, err := lockDir(dir)
		if err != nil {
			return nil, err
		}
		s.locks = append(s.locks, l)
	}
	if s.run, err = openRunDir(filepath.Join(c.RunDir, "store"), c.BootID); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Root, "hull.db")
	s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         openTimeout,
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: 64 << 20, // address space only: saves remapping, which stops readers
	})
	if err != nil {
		return nil, fmt.Errorf("open %s (restore it from a backup, or move it away to start empty): %w", path, err)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	s.w = newWriter(s.db, s.log)
	s.w.putLazy(s.behind...)
	s.behind = nil
	return s, nil
}

// Close writes what is queued and gives the directories back.
func (s *Store) Close() error {
	return errors.Join(s.w.close(), s.release())
}

func (s *Store) release() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	for _, l := range s.locks {
		errs = append(errs, unlockDir(l))
	}
	return errors.Join(errs...)
}

// Sync returns when everything written so far is on disk.
func (s *Store) Sync() error { return s.w.put() }

// Broken names the records that could not be read when the store was opened, as
// "kind/key: reason".
func (s *Store) Broken() []string { return s.broken }

// Unreadable names the containers and pods whose record is there but cannot be
// read.
func (s *Store) Unreadable() []string { return s.unread }

func (s *Store) setAside(kind, key string, err error) {
	s.log.Warn("record cannot be read and is ignored", "kind", kind, "key", key, "err", err)
	s.broken = append(s.broken, fmt.Sprintf("%s/%s: %v", kind, key, err))
	if kind != bucketVolumes && kind != bucketNetworks {
		s.unread = append(s.unread, key)
	}
}

// checkID refuses what cannot be a file name below the run directory.
func checkID(id string) error {
	if id == "" || len(id) > 128 || strings.ContainsAny(id, "./\x00") {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid id %q", id))
	}
	return nil
}
