package logfile

import (
	"bytes"
	"hull/internal/hull"
	"path/filepath"
	"testing"
	"time"
)

func chunk(line int) []byte {
	l := append(bytes.Repeat([]byte("a log line, "), line/12+1)[:line-1], '\n')
	return bytes.Repeat(l, 65536/line)
}

func BenchmarkEncode(b *testing.B) {
	line := chunk(100)[:99]
	e := newJSONEncoder(nil)
	e.begin(Stdout, time.Now())
	var dst []byte
	b.SetBytes(100)
	for b.Loop() {
		dst = e.append(dst[:0], line, true, 0)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, driver := range []string{JSONFile, Local} {
		for name, line := range map[string]int{"64": 64, "128": 128} {
			b.Run(driver+"/"+name, func(b *testing.B) {
				p := chunk(line)
				w, err := Open(hull.LogTarget{
					Driver: driver, Path: filepath.Join(b.TempDir(), "log"),
					MaxSize: 10 << 20, MaxFiles: 3, Compress: true,
				})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(p)))
				now := time.Now()
				for b.Loop() {
					if err := w.Write(Stdout, p, now); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
