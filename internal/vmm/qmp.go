package vmm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// maxLine bounds one QMP message. QEMU is not the guest, but a guest that broke
// out of its emulation speaks with QEMU's voice.
const maxLine = 256 << 10

// Event is something that QEMU tells by itself.
type Event struct {
	Name string
	Data json.RawMessage
}

// QMP is a connection to a machine's monitor.
type QMP struct {
	conn   *os.File
	events func(Event)
	gone   chan struct{}

	mu      sync.Mutex // one command at a time
	replies chan reply
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

type message struct {
	reply
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	QMP   json.RawMessage `json:"QMP"`
}

// ErrGone is what a command gives when the machine's process has ended.
var ErrGone = errors.New("qemu has ended")

// NewQMP begins the conversation on conn, which it takes over. events may be
// nil; it is called from the receiving goroutine and must not wait.
func NewQMP(ctx context.Context, conn *os.File, events func(Event)) (*QMP, error) {
	q := &QMP{conn: conn, events: events, gone: make(chan struct{}), replies: make(chan reply, 1)}
	greeted := make(chan struct{})
	go q.receive(greeted)
	select {
	case <-greeted:
	case <-q.gone:
		return nil, ErrGone
	case <-ctx.Done():
		q.Close()
		return nil, fmt.Errorf("wait for qemu's greeting: %w", context.Cause(ctx))
	}
	if _, err := q.Do(ctx, "qmp_capabilities", nil); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// Close ends the conversation. QEMU goes on.
func (q *QMP) Close() { q.conn.Close() }

// Gone is closed when the connection has ended.
func (q *QMP) Gone() <-chan struct{} { return q.gone }

func (q *QMP) receive(greeted chan<- struct{}) {
	defer close(q.gone)
	r := bufio.NewReaderSize(q.conn, 16<<10)
	for {
		line, err := readLine(r)
		if err != nil {
			return
		}
		m, err := parse(line)
		if err != nil {
			q.conn.Close()
			return
		}
		switch {
		case m.QMP != nil:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.Event != "":
			if q.events != nil {
				q.events(Event{m.Event, m.Data})
			}
		default:
			select {
			case q.replies <- m.reply:
			default: // nobody asked
			}
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, io.ErrShortBuffer
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func parse(line []byte) (message, error) {
	var m message
	err := json.Unmarshal(bytes.TrimSpace(line), &m)
	return m, err
}

// Do executes a command and returns what it returns. args may be nil.
func (q *QMP) Do(ctx context.Context, command string, args any) (json.RawMessage, error) {
	return q.doWith(ctx, nil, command, args)
}

// doWith is Do of a command that takes a descriptor; nil = it takes none.
func (q *QMP) doWith(ctx context.Context, pass *os.File, command string, args any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select { // of a command whose caller did not wait
	case <-q.replies:
	default:
	}
	m := map[string]any{"execute": command}
	if args != nil {
		m["arguments"] = args
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", command, err)
	}
	if d, ok := ctx.Deadline(); ok {
		if err := q.conn.SetWriteDeadline(d); err != nil {
			return nil, ErrGone
		}
	}
	if err := q.write(append(b, '\n'), pass); err != nil {
		return nil, ErrGone
	}
	select {
	case r := <-q.replies:
		if r.Error != nil {
			return nil, fmt.Errorf("qemu: %s: %s", command, r.Error.Desc)
		}
		return r.Return, nil
	case <-q.gone:
		return nil, ErrGone
	case <-ctx.Done():
		return nil, fmt.Errorf("qemu: %s: %w", command, context.Cause(ctx))
	}
}

// stateName is what QEMU calls the file of a device state.
const stateName = "hull-state"

// give hands a descriptor to QEMU, under a name.
func (q *QMP) give(ctx context.Context, f *os.File, name string) error {
	_, err := q.doWith(ctx, f, "getfd", map[string]any{"fdname": name})
	return err
}

// write sends a command, and a descriptor with it where one is to be passed.
func (q *QMP) write(b []byte, pass *os.File) error {
	if pass == nil {
		_, err := q.conn.Write(b)
		return err
	}
	rights := unix.UnixRights(linux.FD(pass))
	// A few bytes on a fresh line: they go at once.
	return unix.Sendmsg(linux.FD(q.conn), b, rights, nil, 0)
}

// Save stops the machine and writes its device state to state; its memory is in
// Config.MemoryFile already, which is shared.
func (q *QMP) Save(ctx context.Context, state *os.File) error {
	if _, err := q.Do(ctx, "stop", nil); err != nil {
		return err
	}
	if err := q.capability(ctx); err != nil {
		return err
	}
	if err := q.give(ctx, state, stateName); err != nil {
		return err
	}
	if _, err := q.Do(ctx, "migrate", map[string]any{"uri": "fd:" + stateName}); err != nil {
		return err
	}
	return q.settled(ctx, false)
}

// Restore reads a template's device state and lets the machine run. The machine
// was started with Config.Incoming.
func (q *QMP) Restore(ctx context.Context, state *os.File) error {
	if err := q.capability(ctx); err != nil {
		return err
	}
	if err := q.unannounced(ctx); err != nil {
		return err
	}
	if err := q.give(ctx, state, stateName); err != nil {
		return err
	}
	if _, err := q.Do(ctx, "migrate-incoming", map[string]any{"uri": "fd:" + stateName}); err != nil {
		return err
	}
	return q.settled(ctx, true)
}

// capability keeps memory out of the stream.
func (q *QMP) capability(ctx context.Context) error {
	_, err := q.Do(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []any{map[string]any{"capability": "x-ignore-shared", "state": true}},
	})
	return err
}

// unannounced has QEMU not announce a machine that is restored, which it would for one
// that has moved to another host: five times in the first seconds it would send in the
// name of the template's network device, and have the guest do so. A guest that takes its
// device down while it does (Linux 6.12: virtnet_close waits, with the lock of all
// network devices, for work that wants that lock) changes no network any more.
func (q *QMP) unannounced(ctx context.Context) error {
	_, err := q.Do(ctx, "migrate-set-parameters", map[string]any{"announce-rounds": 0})
	return err
}

// settled waits for the end of a migration.
func (q *QMP) settled(ctx context.Context, incoming bool) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		b, err := q.Do(ctx, "query-migrate", nil)
		if err != nil {
			return err
		}
		var s struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("qemu: query-migrate: %w", err)
		}
		switch s.Status {
		case "completed":
			if !incoming {
				return nil
			}
			_, err := q.Do(ctx, "cont", nil)
			return err
		case "failed", "cancelled":
			return fmt.Errorf("qemu: device state: %s %s", s.Status, s.Desc)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("qemu: device state: %w", context.Cause(ctx))
		}
	}
}
