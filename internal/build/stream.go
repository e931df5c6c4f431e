package build

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	bk "github.com/moby/buildkit/executor"
)

// pump copies between a monitor's stream and a step's. The returned function
// waits until all output is copied, and ends the input.
func pump(conn net.Conn, p bk.ProcessInfo) (wait func() error) {
	var in sync.WaitGroup
	if p.Stdin != nil {
		in.Go(func() {
			_, _ = io.Copy(conn, p.Stdin) // a step that does not read has ended or does not want it
			if c, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
		})
	}
	out := make(chan error, 1)
	go func() { out <- copyOutput(conn, p) }()
	return func() error {
		err := <-out
		conn.Close()
		if p.Stdin != nil {
			p.Stdin.Close()
			in.Wait()
		}
		return err
	}
}

func copyOutput(r io.Reader, p bk.ProcessInfo) error {
	if p.Meta.Tty {
		_, err := io.Copy(orDiscard(p.Stdout), r)
		return err
	}
	return demux(r, orDiscard(p.Stdout), orDiscard(p.Stderr))
}

func orDiscard(w io.Writer) io.Writer {
	if wc, ok := w.(io.WriteCloser); ok && wc == nil || w == nil {
		return io.Discard
	}
	return w
}

// demux splits frames: a stream's number, three zeros, a length, the bytes.
func demux(r io.Reader, stdout, stderr io.Writer) error {
	br := bufio.NewReaderSize(r, 32<<10)
	var head [8]byte
	for {
		if _, err := io.ReadFull(br, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read output: %w", err)
		}
		to := stdout
		if head[0] == 2 {
			to = stderr
		}
		if _, err := io.CopyN(to, br, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return fmt.Errorf("copy output: %w", err)
		}
	}
}
