package runtime

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childMemory is what a child touches, outside of Go's heap: a child that gets a
// copy of our memory gets none of the heap with it. Go's collector does not look
// here, so what lies here points to nothing but more of it.
type childMemory struct {
	chunks [][]byte
	free   []byte
}

// memoryChunk is enough for most programs with their stack; pages that are not
// touched cost nothing.
const memoryChunk = 128 << 10

// bytes are n bytes, all zero, for as long as the program lives.
func (m *childMemory) bytes(n int) []byte {
	const align = 16
	n = max(align, (n+align-1)&^(align-1))
	if n > len(m.free) {
		b, err := unix.Mmap(-1, 0, max(n, memoryChunk), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			panic(fmt.Sprintf("no memory for a child: %v", err)) // as Go does for its own
		}
		m.chunks, m.free = append(m.chunks, b), b
	}
	b := m.free[:n:n]
	m.free = m.free[n:]
	return b
}

// text is s as a C string.
func (m *childMemory) text(s string) unsafe.Pointer {
	b := m.bytes(len(s) + 1)
	copy(b, s)
	return unsafe.Pointer(&b[0])
}

// place copies v into the child's memory.
func place[T any](m *childMemory, v T) *T {
	p := (*T)(unsafe.Pointer(&m.bytes(int(unsafe.Sizeof(v)))[0]))
	*p = v
	return p
}

// placeAll is place for a slice.
func placeAll[T any](m *childMemory, v []T) []T {
	if len(v) == 0 {
		return nil
	}
	b := m.bytes(len(v) * int(unsafe.Sizeof(v[0])))
	out := unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(v))
	copy(out, v)
	return out
}

func (m *childMemory) release() {
	for _, b := range m.chunks {
		_ = unix.Munmap(b) // what Mmap has given
	}
}

// leaveHeap keeps Go's heap out of the copy of our memory that a child gets, which
// is most of it: page tables to copy, and pages to copy when we write to them next.
// What of other processes' secrets lies there, the child does not see either.
//
// It is done before each fork, because the heap grows. Go reserves it by arenas, one
// after the other, and begins anywhere in the first: so the neighbours of the one that
// we find are of it, or are not there. What lies further off is copied.
func leaveHeap() {
	const arena = 64 << 20 // of Go's runtime, on 64-bit Linux
	here := new([64]byte)
	base := uintptr(unsafe.Pointer(here))&^(arena-1) - arena
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, base, 3*arena, unix.MADV_DONTFORK) // a hint; gaps are passed over
	runtime.KeepAlive(here)
}
