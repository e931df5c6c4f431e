package image

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/image/packed"
)

// benchLayer makes a layer of text-like files of mixed sizes, which packs about
// three to one, as layers of programs and libraries do.
func benchLayer(b *testing.B, seed uint64, bytesWanted int) []byte {
	b.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 4096)
	for i := range words {
		w := make([]byte, 3+rnd.IntN(9))
		for j := range w {
			w[j] = byte('a' + rnd.IntN(26))
		}
		words[i] = append(w, ' ')
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for n := 0; out.Len() < bytesWanted; n++ {
		size := 200 << rnd.IntN(12)
		body := make([]byte, 0, size+16)
		for len(body) < size {
			body = append(body, words[rnd.IntN(len(words))]...)
			if rnd.IntN(3) == 0 {
				body = append(body, byte(rnd.Uint32()), byte(rnd.Uint32()), byte(rnd.Uint32()))
			}
		}
		h := &tar.Header{Name: fmt.Sprintf("usr/lib/d%d/f%d", n%100, n), Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1e9, 0), Uid: os.Getuid(), Gid: os.Getgid()}
		if err := tw.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			b.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// cpu reports the processor time of the benchmark, which says more than the
// clock on a machine that others use as well.
func cpu(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := used()
	return func() { b.ReportMetric(float64((used()-begin).Milliseconds())/float64(b.N), "cpu-ms/op") }
}

// BenchmarkGunzip is what everything else is measured against: unpacking the
// same bytes to nowhere, and their digest.
func BenchmarkGunzip(b *testing.B) {
	plain := benchLayer(b, 1, 64<<20)
	packed := gz(b, plain)
	b.SetBytes(int64(len(plain)))
	defer cpu(b)()
	for b.Loop() {
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			b.Fatal(err)
		}
		d := digest.SHA256.Digester()
		if _, err := z.WriteTo(d.Hash()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnpack unpacks one layer into a directory.
func BenchmarkUnpack(b *testing.B) {
	plain := benchLayer(b, 1, 64<<20)
	zipped := gz(b, plain)
	b.SetBytes(int64(len(plain)))
	defer cpu(b)()
	for b.Loop() {
		dir := b.TempDir()
		root, err := os.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		dec, _, err := packed.Decompress(bytes.NewReader(zipped))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := archive.Unpack(b.Context(), dec, root, archive.Options{SkipOwner: os.Getuid() != 0}); err != nil {
			b.Fatal(err)
		}
		dec.Close()
		root.Close()
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}

// benchSize is the size of one layer in MiB; ten make the 500 MiB of SPECIFICATION.md.
var benchSize = flag.Int("layer-size", 50, "MiB of one layer in BenchmarkPull")

// BenchmarkPull pulls ten layers from a registry in this process, and reports
// the peak of the heap.
func BenchmarkPull(b *testing.B) {
	var tars [][]byte
	total := 0
	for i := range 10 {
		tars = append(tars, benchLayer(b, uint64(i), *benchSize<<20))
		total += len(tars[i])
	}
	img := build(b, nil, tars...)
	clear(tars)
	img.tars = nil
	host := registryFiles(b, img)
	b.SetBytes(int64(total))
	runtime.GC()
	b.ResetTimer()
	defer cpu(b)()
	for b.Loop() {
		s := service(b, func(c *Config) { c.Log = nil })
		if _, err := s.Pull(b.Context(), hull.PullRequest{Ref: host + "/bench:1"}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(peakRSS(b))/(1<<20), "peakMiB")
}
