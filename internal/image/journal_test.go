package image

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// change makes n changes, each a transaction.
func change(t *testing.T, j *journal, what string, n int) {
	t.Helper()
	for i := range n {
		err := j.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put(fmt.Appendf(nil, "%s %d", what, i), []byte("x"))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func has(t *testing.T, j *journal, what string, i int) bool {
	t.Helper()
	found := false
	err := j.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("b"))
		found = b != nil && b.Get(fmt.Appendf(nil, "%s %d", what, i)) != nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func reopen(t *testing.T, dir, boot string) *journal {
	t.Helper()
	j, err := openJournal(dir, boot, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestJournal: a killed engine loses nothing; when the power goes in the middle of
// a build, what was there before it is there again.
func TestJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	note := filepath.Join(dir, "meta.db.hasty")
	hasty := func() bool {
		_, err := os.Stat(note)
		return err == nil
	}
	j := reopen(t, dir, "one")
	change(t, j, "before", 3*patience)
	if hasty() {
		t.Error("changes outside of a build do not wait for the disk")
	}
	_ = j.work()
	change(t, j, "early", patience)
	if hasty() {
		t.Error("a short build copies the database")
	}
	change(t, j, "late", patience)
	if !hasty() || !j.db.NoSync {
		t.Error("a long build waits for the disk with each change")
	}
	// Whoever gives a name waits for the disk.
	if err := j.settle(); err != nil || hasty() {
		t.Errorf("settled: %v, still noted: %v", err, hasty())
	}
	change(t, j, "named", 1)
	change(t, j, "after", 3*patience)
	if !hasty() {
		t.Error("the rest of the build waits for the disk")
	}

	// The engine is killed: what the kernel has is there.
	if err := j.db.Close(); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, dir, "one")
	if !has(t, j, "after", 3*patience-1) || hasty() {
		t.Error("the changes of a killed engine are lost, or not synced")
	}

	// The power goes: of the file is anything on disk.
	_ = j.work()
	change(t, j, "unlucky", 3*patience)
	if err := j.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(j.path, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, dir, "two")
	if !has(t, j, "named", 0) || !has(t, j, "after", 3*patience-1) || has(t, j, "unlucky", 3*patience-1) {
		t.Error("the database is not the one from before the build")
	}
	change(t, j, "again", 1)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	// A build's end settles.
	j = reopen(t, dir, "two")
	done := j.work()
	change(t, j, "x", 2*patience)
	if err := done(); err != nil || hasty() {
		t.Errorf("after the build: %v, still noted: %v", err, hasty())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
