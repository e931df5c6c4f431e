package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"hull/internal/image/inflate"
)

// header of a member that says nothing about itself.
const header = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

// texts are contents of several natures.
func texts() [][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var words, runs, rare bytes.Buffer
	for words.Len() < 400_000 {
		words.Write(noise[rnd.IntN(2000):][:1+rnd.IntN(12)])
	}
	for i := 0; runs.Len() < 400_000; i++ { // matches at each short distance
		runs.WriteString(strings.Repeat(string(noise[i:i+1+i%40]), 1+rnd.IntN(300)))
	}
	for rare.Len() < 400_000 { // codes from one bit to fifteen
		rare.WriteByte(byte(min(rnd.ExpFloat64()*4, 255)))
	}
	return [][]byte{nil, []byte("a"), noise, words.Bytes(), runs.Bytes(), rare.Bytes(), make([]byte, 1<<20)}
}

// packed are members of all kinds of blocks.
func packed(tb testing.TB, text []byte) [][]byte {
	tb.Helper()
	var all [][]byte
	for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			tb.Fatal(err)
		}
		if level == 9 {
			z.Header = gzip.Header{Name: "a name", Comment: "a comment", Extra: []byte("more"), ModTime: time.Unix(1, 0)}
		}
		half := len(text) / 2
		if _, err := z.Write(text[:half]); err != nil {
			tb.Fatal(err)
		}
		if err := z.Flush(); err != nil { // an empty block of bytes as they are
			tb.Fatal(err)
		}
		if _, err := z.Write(text[half:]); err != nil {
			tb.Fatal(err)
		}
		if err := z.Close(); err != nil {
			tb.Fatal(err)
		}
		all = append(all, b.Bytes())
	}
	return all
}

func read(src io.Reader) ([]byte, error) {
	z, err := inflate.NewReader(src)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestReader(t *testing.T) {
	t.Parallel()
	var both, all []byte
	for _, text := range texts() {
		for _, p := range packed(t, text) {
			for name, src := range map[string]io.Reader{
				"whole": bytes.NewReader(p), "bytes": iotest.OneByteReader(bytes.NewReader(p)),
				"end with data": iotest.DataErrReader(bytes.NewReader(p)), "halves": iotest.HalfReader(bytes.NewReader(p)),
			} {
				if got, err := read(src); err != nil || !bytes.Equal(got, text) {
					t.Fatalf("%s: %d bytes became %d, %v", name, len(text), len(got), err)
				}
			}
			both, all = append(both, p...), append(all, text...)
		}
	}
	if got, err := read(bytes.NewReader(both)); err != nil || !bytes.Equal(got, all) {
		t.Fatalf("all members one after the other: %d bytes became %d, %v", len(all), len(got), err)
	}
}

// Each input that ends early says so, wherever that is, and each bit that falls over is found.
func TestReaderFaults(t *testing.T) {
	t.Parallel()
	p := packed(t, []byte(strings.Repeat("some text, and more; ", 4)))
	for _, p := range p {
		for n := range p {
			if _, err := read(bytes.NewReader(p[:n])); n == 0 && !errors.Is(err, io.EOF) || n > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d of %d bytes: %v", n, len(p), err)
			}
			gone := errors.New("gone")
			if _, err := read(io.MultiReader(bytes.NewReader(p[:n]), iotest.ErrReader(gone))); !errors.Is(err, gone) {
				t.Errorf("source fails after %d bytes: %v", n, err)
			}
		}
		for i := len(header) * 8; i < len(p)*8; i++ {
			bad := bytes.Clone(p)
			bad[i/8] ^= 1 << (i % 8)
			same(t, bad)
		}
	}
	if _, err := read(strings.NewReader("no gzip at all")); !errors.Is(err, inflate.ErrFormat) {
		t.Errorf("no gzip: %v", err)
	}
	if _, err := read(strings.NewReader(header + "\x07")); !errors.Is(err, inflate.ErrFormat) {
		t.Errorf("a block of no kind: %v", err)
	}
}

// same compares with compress/gzip.
func same(tb testing.TB, p []byte) {
	tb.Helper()
	var want []byte
	z, werr := gzip.NewReader(bytes.NewReader(p))
	if werr == nil {
		want, werr = io.ReadAll(z)
	}
	got, err := read(bytes.NewReader(p))
	if (err == nil) != (werr == nil) || err == nil && !bytes.Equal(got, want) {
		tb.Fatalf("%d bytes, %v; compress/gzip says %d bytes, %v", len(got), err, len(want), werr)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, inflate.ErrFormat) {
		tb.Fatalf("error of no kind: %v", err)
	}
}

// FuzzReader gives the bytes as they are, and as a member's blocks with the right
// checksum: else the checksum would hide what blocks become.
func FuzzReader(f *testing.F) {
	for _, text := range texts() {
		for _, p := range packed(f, text[:min(len(text), 5000)]) {
			f.Add(p)
			f.Add(p[len(header):])
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		same(t, p)
		src := bytes.NewReader(p)
		text, err := io.ReadAll(flate.NewReader(src))
		blocks := append([]byte(header), p[:len(p)-src.Len()]...)
		if err == nil {
			blocks = binary.LittleEndian.AppendUint32(blocks, crc32.ChecksumIEEE(text))
			blocks = binary.LittleEndian.AppendUint32(blocks, uint32(len(text)))
		}
		same(t, blocks)
		if got, gerr := read(iotest.OneByteReader(bytes.NewReader(blocks))); (err == nil) != (gerr == nil) || err == nil && !bytes.Equal(got, text) {
			t.Fatalf("byte by byte: %d bytes, %v instead of %d, %v", len(got), gerr, len(text), err)
		}
	})
}
