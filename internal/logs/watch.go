package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// watcher tells followers that a directory's files have changed. All share one
// inotify descriptor, of which a user has few.
type watcher struct {
	f *os.File // nil = inotify is not to be had

	mu   sync.Mutex
	dirs map[string]*dirWatch
	byWD map[int32]*dirWatch
	wg   sync.WaitGroup
}

// dirWatch is one directory and those who wait for it.
type dirWatch struct {
	path      string
	wd        int32
	followers map[chan struct{}]struct{} // capacity 1 each
}

func newWatcher(log *slog.Logger) *watcher {
	w := &watcher{dirs: map[string]*dirWatch{}, byWD: map[int32]*dirWatch{}}
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		log.Warn("inotify is not available, followed logs are polled", "err", err)
		return w
	}
	w.f = os.NewFile(uintptr(fd), "inotify")
	w.wg.Go(w.loop)
	return w
}

func (w *watcher) close() error {
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.wg.Wait()
	return err
}

// add starts to watch dir. The channel gets a token after changes; the caller
// still polls slowly, for the time when no watch is to be had.
func (w *watcher) add(dir string) (changed <-chan struct{}, cancel func(), err error) {
	c := make(chan struct{}, 1)
	if w.f == nil {
		return c, func() {}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.dirs[dir]
	if d == nil {
		raw, err := w.f.SyscallConn()
		if err != nil {
			return nil, nil, fmt.Errorf("watch %s: %w", dir, err)
		}
		d = &dirWatch{path: dir, followers: map[chan struct{}]struct{}{}}
		var werr error
		err = raw.Control(func(fd uintptr) {
			var wd int
			wd, werr = syscall.InotifyAddWatch(int(fd), dir, syscall.IN_MODIFY|syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_ONLYDIR)
			d.wd = int32(wd)
		})
		if err = errors.Join(err, werr); err != nil {
			return nil, nil, fmt.Errorf("watch %s: %w", dir, err)
		}
		w.dirs[dir], w.byWD[d.wd] = d, d
	}
	d.followers[c] = struct{}{}
	return c, func() { w.remove(d, c) }, nil
}

func (w *watcher) remove(d *dirWatch, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(d.followers, c)
	if len(d.followers) > 0 || w.dirs[d.path] != d {
		return
	}
	w.forget(d)
	raw, err := w.f.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = raw.Control(func(fd uintptr) {
		_, _ = syscall.InotifyRmWatch(int(fd), uint32(d.wd)) // the directory may be gone, and the watch with it
	})
}

func (w *watcher) forget(d *dirWatch) {
	delete(w.dirs, d.path)
	delete(w.byWD, d.wd)
}

func (w *watcher) loop() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return // closed
		}
		w.mu.Lock()
		for b := buf[:n]; len(b) >= syscall.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			b = b[min(len(b), syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:]))):]
			w.wake(wd, mask)
		}
		w.mu.Unlock()
	}
}

// wake tells the followers of a directory, or all when events were lost.
func (w *watcher) wake(wd int32, mask uint32) {
	if mask&syscall.IN_Q_OVERFLOW != 0 {
		for _, d := range w.dirs {
			d.wake()
		}
		return
	}
	d := w.byWD[wd]
	if d == nil {
		return
	}
	d.wake()
	if mask&syscall.IN_IGNORED != 0 { // the directory is gone
		w.forget(d)
	}
}

func (d *dirWatch) wake() {
	for c := range d.followers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
