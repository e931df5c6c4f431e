package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// All notes are one file, as long as it can be had.
func TestNote(t *testing.T) {
	dir := t.TempDir()
	s := &boxStore{root: dir}
	stat := func(name string) fs.FileInfo {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := s.note(path); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Size() != 0 {
			t.Fatalf("%s: %v, %v", name, st, err)
		}
		return st
	}
	a, b := stat("a"), stat("b")
	if !os.SameFile(a, b) {
		t.Error("two notes are two files")
	}
	if err := s.note(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same note again: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "blank")); err != nil {
		t.Fatal(err)
	}
	if c := stat("c"); os.SameFile(a, c) {
		t.Error("there is no new file after the old one was removed")
	}
	// What cannot be linked to is done without.
	s.root = filepath.Join(dir, "none")
	stat("d")
	if err := s.note(filepath.Join(dir, "none", "e")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a note in no directory: %v", err)
	}
}
