package monitor

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"
	"testing"

	"hull/internal/hull"
	"hull/internal/monitor/stdio"
)

// BenchmarkOutput is a workload's output on its way through the log, rotated as
// by default, without and with a client.
func BenchmarkOutput(b *testing.B) {
	for _, line := range []int{64, 128, 1024} {
		for _, client := range []bool{false, true} {
			b.Run(strconv.Itoa(line)+"/client="+strconv.FormatBool(client), func(b *testing.B) { output(b, line, client) })
		}
	}
}

func output(b *testing.B, line int, client bool) {
	log, err := openLog(hull.LogTarget{
		Driver: "json-file", Path: filepath.Join(b.TempDir(), "log"), MaxSize: 10 << 20, MaxFiles: 3, Compress: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	s, child, err := stdio.New(hull.IO{}, log, stdio.NewBuffers(nil), nil)
	if err != nil {
		b.Fatal(err)
	}
	if client {
		ours, theirs := socket(b)
		if err := s.Attach(theirs, hull.Attach{Stdout: true, Mux: true}, false); err != nil {
			b.Fatal(err)
		}
		go func() {
			buf := make([]byte, 64<<10)
			for {
				if _, err := ours.Read(buf); err != nil {
					return
				}
			}
		}()
	}
	s.Run()
	text := append(bytes.Repeat([]byte("x"), line-1), '\n')
	chunk := bytes.Repeat(text, (1<<20)/line)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := child.Out.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	child.Close()
	s.Ended()
}

// BenchmarkAddStart is a container's two round trips, without the runtime.
func BenchmarkRoundTrip(b *testing.B) {
	p := newPod(b)
	p.add("c", "", hull.IO{}, "sleep", "1000")
	for b.Loop() {
		if err := p.c.Signal(context.Background(), "c", 0); err != nil {
			b.Fatal(err)
		}
	}
}
