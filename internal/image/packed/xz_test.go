package packed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

// xzLines is what the files in testdata/xz hold, made by xz 5.4, but many.xz.
func xzLines() string {
	var b strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&b, "line %d\n", i+1)
	}
	return b.String()
}

func xzFile(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "xz", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func readXZ(r io.Reader) (string, error) {
	b, err := io.ReadAll(newXZ(bufio.NewReader(r)))
	return string(b), err
}

func TestXZ(t *testing.T) {
	t.Parallel()
	want := xzLines()
	for _, name := range []string{"blocks.xz", "crc32.xz", "sha256.xz", "none.xz", "sizes.xz", "streams.xz"} {
		p := xzFile(t, name)
		for how, r := range map[string]io.Reader{"whole": bytes.NewReader(p), "bytes": iotest.OneByteReader(bytes.NewReader(p))} {
			if got, err := readXZ(r); err != nil || got != want {
				t.Errorf("%s, %s: %d bytes instead of %d, %v", name, how, len(got), len(want), err)
			}
		}
		r, kind, err := Decompress(bytes.NewReader(p))
		if err != nil || kind != XZ {
			t.Fatal(kind, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s as an archive: %d bytes, %v", name, len(got), err)
		}
		r.Close()
	}
}

// What is not read is refused: a dictionary that is larger than what memory it may have, a filter.
func TestXZRefused(t *testing.T) {
	t.Parallel()
	if _, err := readXZ(bytes.NewReader(xzFile(t, "large.xz"))); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a dictionary of 128 MiB: %v", err)
	}
	if _, err := readXZ(bytes.NewReader(xzFile(t, "many.xz"))); !errdefs.IsResourceExhausted(err) {
		t.Errorf("empty blocks, each with a dictionary of 64 MiB: %v", err)
	}
	if _, err := readXZ(bytes.NewReader(xzFile(t, "x86.xz"))); !errors.Is(err, errXZ) || !strings.Contains(err.Error(), "filter") {
		t.Errorf("a filter: %v", err)
	}
}

// No bit that falls over changes the content, and so is an end that comes early.
func TestXZFaults(t *testing.T) {
	t.Parallel()
	want, gone := xzLines(), errors.New("gone")
	for _, name := range []string{"blocks.xz", "crc32.xz", "sha256.xz", "sizes.xz"} {
		p := xzFile(t, name)
		for i := 0; i < len(p); i += 3 {
			bad := bytes.Clone(p)
			bad[i] ^= 1 << (i % 8)
			got, err := readXZ(bytes.NewReader(bad))
			// The last bits of a chunk mean nothing, for example.
			if err == nil && got == want {
				continue
			}
			if err == nil || !errors.Is(err, errXZ) && !errors.Is(err, io.ErrUnexpectedEOF) && !errdefs.IsResourceExhausted(err) {
				t.Errorf("%s: bit %d of byte %d: %v", name, i%8, i, err)
			}
		}
		for n := 1; n < len(p); n += 1 + n/50 {
			if _, err := readXZ(bytes.NewReader(p[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %d of %d bytes: %v", name, n, len(p), err)
			}
			if _, err := readXZ(io.MultiReader(bytes.NewReader(p[:n]), iotest.ErrReader(gone))); !errors.Is(err, gone) {
				t.Errorf("%s: source fails after %d bytes: %v", name, n, err)
			}
		}
	}
}

// FuzzXZ looks for what does not end, or takes the program along.
func FuzzXZ(f *testing.F) {
	files, err := filepath.Glob("testdata/xz/*.xz")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		f.Add(xzFile(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		n, err := io.Copy(io.Discard, io.LimitReader(newXZ(bufio.NewReader(bytes.NewReader(p))), 1<<24))
		if err != nil && !errors.Is(err, errXZ) && !errors.Is(err, io.ErrUnexpectedEOF) && !errdefs.IsResourceExhausted(err) && !errors.Is(err, io.EOF) {
			t.Fatalf("%d bytes, then an error of no kind: %v", n, err)
		}
	})
}
