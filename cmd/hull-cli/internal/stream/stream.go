// Package stream is the client's end of what goes to the engine and comes from it: a
// file, or a standard stream.
package stream

import (
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/docker/cli/cli/command"
)

// Open opens a file to be read, or STDIN for "-".
func Open(c command.Cli, file string) (io.ReadCloser, error) {
	if file == "-" {
		return io.NopCloser(c.In()), nil
	}
	return os.Open(file)
}

// SaveArchive asks for a tar archive and writes it to a file, "" = STDOUT, which must
// be no terminal. A request that fails makes no file, and half an archive is none.
func SaveArchive(c command.Cli, file string, ask func() (*http.Response, error)) (err error) {
	if file == "" && c.Out().IsTerminal() {
		return errors.New("refusing to write a tar archive to a terminal: use -o FILE or redirect")
	}
	resp, err := ask()
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	out := io.Writer(c.Out())
	if file != "" {
		f, ferr := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if ferr != nil {
			return ferr
		}
		defer func() { err = finish(f, err) }()
		out = f
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

// finish closes a file that was written, and removes it if that failed: but no device.
func finish(f *os.File, err error) error {
	st, serr := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil && serr == nil && st.Mode().IsRegular() {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
