package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux"
	monitorvm "hull/internal/monitor/vm"
	"hull/internal/vmm"
)

const (
	// templateLimit bounds one try to make a template, for which the first start of a
	// size waits: on a host under heavy load it takes most of a minute. One that hung at
	// such a time is suspected (docs/performance.md).
	templateLimit = 75 * time.Second
	// templateTries is how often it is tried.
	templateTries = 2
	stateName     = "state"
	memoryName    = "memory"
	originName    = "origin"
)

// templates keeps machines that were booted once. A template is named by all that
// its device state and memory depend on; what has changed has another name.
//
//	DIR/templates/<key>/state    the devices
//	DIR/templates/<key>/memory   the memory, mapped privately by every machine made of it
//	DIR/templates/<key>/origin   what it was made of, and when its memory was written last
//
// One whose QEMU, kernel or guest is not there any more, or is another now, is
// removed: when the engine starts, and when another is made. A machine that runs
// keeps what it has mapped.
type templates struct {
	dir   string
	blank Blank // nil = a template's machine does not rehearse
	log   *slog.Logger

	mu     sync.Mutex
	making map[string]*making
	boots  map[string]bool // by key: see first
	wg     sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context //nolint:containedctx // the life of what is made: longer than the start that asked first
}

// making is a template under way, or one that could not be made.
type making struct {
	done chan struct{}
	err  error // valid after done
}

func newTemplates(dir string, blank Blank, log *slog.Logger) *templates {
	ctx, stop := context.WithCancel(context.Background())
	return &templates{dir: dir, blank: blank, log: log, making: map[string]*making{}, boots: map[string]bool{}, ctx: ctx, stop: stop}
}

func (t *templates) close() {
	t.stop()
	t.wg.Wait()
}

// key names the template of a machine.
func key(c vmm.Config) (string, error) {
	h := sha256.New()
	ids, err := identify(c.QEMU, c.Kernel, c.Initrd)
	if err != nil {
		return "", err
	}
	err = json.NewEncoder(h).Encode([]any{vmm.Layout, guest.Version, ids, c.Accel, c.CPUs, c.Memory, c.Cmdline, c.ACPI})
	return hex.EncodeToString(h.Sum(nil)[:16]), err
}

// origin is what is known of a template beside its key.
type origin struct {
	QEMU, Kernel, Initrd string
	Files                []string // their identities
	// Memory is the last change of the memory file. No machine is to change it; a
	// QEMU before 9.0 has it open for writing all the same, and one that its guest has
	// taken over could. What it wrote must not come into other machines.
	Memory string
}

// changed names the content of a file by what its writers cannot set.
func changed(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprintf("%d %d %d.%09d", st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec), nil
}

func readOrigin(dir string) (o origin, err error) {
	b, err := os.ReadFile(filepath.Join(dir, originName))
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	return o, err
}

// seal writes down what the template in dir is, now that it is whole, and says it.
func seal(dir string, c vmm.Config) (o origin, err error) {
	o = origin{QEMU: c.QEMU, Kernel: c.Kernel, Initrd: c.Initrd}
	if o.Files, err = identify(o.QEMU, o.Kernel, o.Initrd); err != nil {
		return o, err
	}
	if o.Memory, err = changed(filepath.Join(dir, memoryName)); err != nil {
		return o, err
	}
	return o, writeFile(filepath.Join(dir, originName), func(w io.Writer) error { return json.NewEncoder(w).Encode(o) })
}

// stale says why the template in dir is of no use any more, "" = it is.
func stale(dir string) string {
	o, err := readOrigin(dir)
	if err != nil {
		return "it does not say what it was made of"
	}
	return o.stale(dir)
}

func (o origin) stale(dir string) string {
	if ids, err := identify(o.QEMU, o.Kernel, o.Initrd); err != nil || !slices.Equal(ids, o.Files) {
		return "QEMU, the kernel or hull-guest has changed"
	}
	if m, err := changed(filepath.Join(dir, memoryName)); err != nil || m != o.Memory {
		return "its memory has been written to"
	}
	return ""
}

// initrds are those that templates were made with.
func (t *templates) initrds() []string {
	all, err := os.ReadDir(t.dir)
	if err != nil {
		return nil // without templates none is needed
	}
	var out []string
	for _, e := range all {
		if o, err := readOrigin(filepath.Join(t.dir, e.Name())); err == nil {
			out = append(out, o.Initrd)
		}
	}
	return out
}

// sweep removes what is of no use any more: parts of templates, those that are
// stale, and with keep those that were not made of the same files.
func (t *templates) sweep(keep *origin) error {
	all, err := os.ReadDir(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range all {
		dir := filepath.Join(t.dir, e.Name())
		var useless bool
		if strings.HasPrefix(e.Name(), partial) {
			useless = keep == nil // else it is being made
		} else {
			o, err := readOrigin(dir)
			useless = err != nil || o.stale(dir) != "" || keep != nil && !slices.Equal(o.Files, keep.Files)
		}
		if useless {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// partial begins the name of what is being made.
const partial = "new-"

// find gives a template's files, "" when it is not there yet. One that was written
// to is removed.
func (t *templates) find(key string) (state, memory string) {
	dir := filepath.Join(t.dir, key)
	state, memory = filepath.Join(dir, stateName), filepath.Join(dir, memoryName)
	if _, err := os.Stat(state); err != nil {
		return "", ""
	}
	if why := stale(dir); why != "" {
		t.log.Warn("a machine's template is made again", "why", why, "template", dir)
		if err := os.RemoveAll(dir); err != nil {
			t.log.Error("remove template", "error", err)
		}
		return "", ""
	}
	now := time.Now()
	if err := os.Chtimes(state, now, now); err != nil { // see usage
		t.log.Warn("when a template was used last cannot be kept", "error", err)
	}
	return state, memory
}

// first says that the start which asks is the first one of its kind, and boots: that takes
// half as long as a template and a machine made of it. Who comes before there is a
// template waits for that.
func (t *templates) first(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.boots[key] || t.making[key] != nil {
		return false
	}
	t.boots[key] = true
	return true
}

// later runs do when the container that was started is out of the way, unless the engine
// ends before.
func (t *templates) later(do func(context.Context)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	t.wg.Go(func() {
		select {
		case <-time.After(spareDelay):
			do(t.ctx)
		case <-t.ctx.Done():
		}
	})
}

// get gives a template's files, and makes it if it is not there. Who comes
// meanwhile waits: to boot beside the machine that is being made would take
// longer than to be restored from it. What could not be made is not tried again
// by this engine. Its machine rehearses r, if that is not nil.
func (t *templates) get(ctx context.Context, key string, c vmm.Config, r *monitorvm.Rehearsal) (state, memory string, err error) {
	if state, memory = t.find(key); state != "" {
		return state, memory, nil
	}
	t.mu.Lock()
	m := t.making[key]
	if m == nil {
		if t.ctx.Err() != nil {
			t.mu.Unlock()
			return "", "", context.Cause(t.ctx)
		}
		m = &making{done: make(chan struct{})}
		t.making[key] = m
		t.wg.Go(func() {
			m.err = t.make(key, c, r)
			for try := 1; try < templateTries && errors.Is(m.err, context.DeadlineExceeded); try++ {
				t.log.Warn("a template is made once more", "error", m.err)
				m.err = t.make(key, c, r)
			}
			if m.err == nil {
				t.mu.Lock()
				delete(t.making, key)
				delete(t.boots, key)
				t.mu.Unlock()
			}
			close(m.done)
		})
	}
	t.mu.Unlock()
	select {
	case <-m.done:
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
	if m.err != nil {
		return "", "", m.err
	}
	state, memory = t.find(key)
	return state, memory, nil
}

// make boots a machine with empty disks and saves it in the moment in which it
// waits to be told who it is. What it has done before, in its rehearsal, it has to
// do and to keep in memory of its own no more.
func (t *templates) make(key string, c vmm.Config, r *monitorvm.Rehearsal) (err error) {
	ctx, cancel := context.WithTimeout(t.ctx, templateLimit)
	defer cancel()
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(t.dir, partial+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make template: %w", err), os.RemoveAll(tmp))
		}
	}()
	c.MemoryFile, c.MemoryShared = filepath.Join(tmp, memoryName), true
	c.Disks = monitorvm.Disks("", "")
	c.Nets = monitorvm.Nets(nil)
	c.Name = "hull-template"
	// Machines open it for writing, though none writes to it (see keepTemplate of vmm).
	mem, err := os.OpenFile(c.MemoryFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(mem.Chmod(0o666), mem.Close()); err != nil {
		return err
	}
	c.UID = vmm.User(tmp)
	state, err := os.OpenFile(filepath.Join(tmp, stateName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer state.Close()
	m, err := vmm.Start(ctx, c, vmm.Files{State: state})
	if err != nil {
		return err
	}
	defer func() {
		m.Kill()
		<-m.Done()
	}()
	g, ended := talk(m) // it ends with the machine
	if err := booted(ctx, m, g); err != nil {
		return err
	}
	if r != nil && t.blank != nil {
		root, disk, err := t.blank(ctx, stage())
		if err != nil {
			return err
		}
		defer root.Close()
		defer disk.Close()
		if err := monitorvm.Rehearse(ctx, m, g, ended, *r, root, disk); err != nil {
			return err
		}
	}
	if err := m.Save(ctx); err != nil {
		return err
	}
	m.Kill() // what it has mapped must not change any more
	<-m.Done()
	if err := thin(c.MemoryFile); err != nil {
		return err
	}
	o, err := seal(tmp, c)
	if err != nil {
		return err
	}
	// What lies there without a state is a template that could not be restored.
	if old, _ := t.find(key); old == "" {
		if err := os.RemoveAll(filepath.Join(t.dir, key)); err != nil {
			return err
		}
	}
	err = os.Rename(tmp, filepath.Join(t.dir, key))
	if errors.Is(err, fs.ErrExist) { // another engine was quicker
		return os.RemoveAll(tmp)
	}
	if err != nil {
		return err
	}
	if err := t.sweep(&o); err != nil {
		t.log.Warn("templates of no use are not removed", "error", err)
	}
	return nil
}

// thin makes holes of a memory's pages that are zero, a third of what a guest has
// touched: machines with volumes copy the rest (ADR 0032).
func thin(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, mib)
	for at := int64(0); ; {
		from, err := unix.Seek(linux.FD(f), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		n, err := f.ReadAt(buf, from)
		if n == 0 {
			return err
		}
		for p := 0; p < n; p += page {
			length := zeros(buf[p:n])
			if length == 0 {
				continue
			}
			err := unix.Fallocate(linux.FD(f), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from+int64(p), int64(length))
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil // it stays as large as it is
			}
			if err != nil {
				return os.NewSyscallError("fallocate", err)
			}
			p += length // what follows is not zero
		}
		at = from + int64(n)
	}
}

// page is what memory comes in.
const page = 4096

// zeros is how many bytes of zero whole pages b begins with.
func zeros(b []byte) int {
	var zero [page]byte
	n := 0
	for n+page <= len(b) && bytes.Equal(b[n:n+page], zero[:]) {
		n += page
	}
	return n
}
