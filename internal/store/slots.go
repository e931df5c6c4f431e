package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"
)

// A file of this run is written several times in a container's short life, so it
// is not replaced by rename, which is slow where the run directory is no tmpfs
// (ext4 then allocates and writes at once). It has two slots that are written in
// turn; each says how long it is, its number and its checksum. A write that is
// cut short spoils one slot and the other one is still whole.
//
//	0              | number 8 | length 4 | crc32 4 | JSON ...
//	slotStride     | number 8 | length 4 | crc32 4 | JSON ...
const (
	slotHeader = 16
	slotStride = 16 << 20 // bytes; the file is sparse
)

// slotFile is where one record or status is kept.
type slotFile struct {
	path   string
	number uint64 // of the newest slot; 0 = none yet
}

// put writes b as the newest. Calls are serialised by the caller.
func (s *slotFile) put(b []byte) error {
	if len(b) > slotStride-slotHeader {
		return fmt.Errorf("write record: %d bytes are too many", len(b))
	}
	n := s.number + 1
	rec := make([]byte, slotHeader, slotHeader+len(b))
	binary.LittleEndian.PutUint64(rec, n)
	binary.LittleEndian.PutUint32(rec[8:], uint32(len(b))) // #nosec: bounded above
	rec = append(rec, b...)
	binary.LittleEndian.PutUint32(rec[12:], slotSum(rec))
	fd, err := openRetry(s.path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.path, Err: err}
	}
	w, err := syscall.Pwrite(fd, rec, int64(n%2)*slotStride)
	if err == nil && w < len(rec) {
		err = io.ErrShortWrite
	}
	if err = errors.Join(err, syscall.Close(fd)); err != nil {
		return &os.PathError{Op: "write", Path: s.path, Err: err}
	}
	s.number = n
	return nil
}

func openRetry(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := syscall.Open(path, flags, mode)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

// slotSum is the checksum of a slot, over everything but itself.
func slotSum(rec []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(rec[:12]), crc32.IEEETable, rec[slotHeader:])
}

// errTorn says that a file was never written as a whole.
var errTorn = errors.New("no slot is whole")

// get reads the newest whole slot.
func (s *slotFile) get() ([]byte, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var newest []byte
	for slot := range 2 {
		n, b := readSlot(f, int64(slot)*slotStride)
		if b != nil && n > s.number {
			s.number, newest = n, b
		}
	}
	if newest == nil {
		return nil, errTorn
	}
	return newest, nil
}

// readSlot returns nil when the slot is empty or broken.
func readSlot(f io.ReaderAt, at int64) (uint64, []byte) {
	rec := make([]byte, slotHeader)
	if _, err := f.ReadAt(rec, at); err != nil {
		return 0, nil
	}
	size := binary.LittleEndian.Uint32(rec[8:])
	if size > slotStride-slotHeader {
		return 0, nil
	}
	rec = append(rec, make([]byte, size)...)
	if _, err := f.ReadAt(rec[slotHeader:], at+slotHeader); err != nil {
		return 0, nil
	}
	if binary.LittleEndian.Uint32(rec[12:]) != slotSum(rec) {
		return 0, nil
	}
	return binary.LittleEndian.Uint64(rec), rec[slotHeader:]
}
