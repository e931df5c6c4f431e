package stream_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/docker/cli/cli/command"

	"hull/cmd/hull-cli/internal/stream"
)

func TestSaveArchive(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c, err := command.NewDockerCli(command.WithOutputStream(&out))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	answer := func(r io.Reader) func() (*http.Response, error) {
		return func() (*http.Response, error) { return &http.Response{Body: io.NopCloser(r)}, nil }
	}
	half := func() io.Reader { return io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)) }
	path := filepath.Join(t.TempDir(), "x.tar")
	absent := func(when string) {
		t.Helper()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the file is there (%v)", when, err)
		}
	}

	if err := stream.SaveArchive(c, path, func() (*http.Response, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("a request that fails: %v", err)
	}
	absent("after a request that failed")
	if err := stream.SaveArchive(c, path, answer(half())); !errors.Is(err, broken) {
		t.Errorf("an answer that breaks off: %v", err)
	}
	absent("after half an answer")
	if err := stream.SaveArchive(c, path, answer(strings.NewReader("whole"))); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
		t.Errorf("%q, %v", b, err)
	}
	if err := stream.SaveArchive(c, "", answer(strings.NewReader("out"))); err != nil || out.String() != "out" {
		t.Errorf("%q, %v", out.String(), err)
	}

	// What is no file of ours is not removed.
	link := path + ".link"
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	if err := stream.SaveArchive(c, link, answer(half())); !errors.Is(err, broken) {
		t.Errorf("a device: %v", err)
	}
	if _, err := os.Lstat(link); err != nil {
		t.Errorf("a device: %v", err)
	}
}
