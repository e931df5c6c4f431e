package packed

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"hull/internal/image/inflate"
)

type writes struct {
	bytes.Buffer
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.Buffer.Write(p)
}

// What takes the packed bytes gets few large writes: each is a system call and a digest.
func TestPacker(t *testing.T) {
	t.Parallel()
	text := make([]byte, 4<<20)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range text {
		text[i] = byte(rnd.IntN(40))
	}
	var out writes
	p, err := NewPacker(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if most := out.Len()/(128<<10) + 1; out.n > most {
		t.Errorf("%d writes for %d bytes, want at most %d", out.n, out.Len(), most)
	}
	z, err := inflate.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes became %d, %v", len(text), len(got), err)
	}
}
