package vm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// stage is the root file system of a rehearsal: a program that does what most do when
// they begin, one that ends, and files in which a user and a home are looked up.
func stage() map[string][]byte {
	passwd, group := new(bytes.Buffer), new(bytes.Buffer)
	for i, name := range []string{"root", "daemon", "bin", "sys", "man", "mail", "backup", "nobody"} {
		fmt.Fprintf(passwd, "%s:x:%d:%d:%s:/%s:/bin/sh\n", name, i, i, name, name)
		fmt.Fprintf(group, "%s:x:%d:root,%s\n", name, i, name)
	}
	return map[string][]byte{
		"bin/rehearsal": beginner(), "bin/end": ender(),
		"etc/passwd": passwd.Bytes(), "etc/group": group.Bytes(),
	}
}

// Where a program of a rehearsal has what: its code, as large as that of a small
// program, so that it is read in pieces; its data; and memory that is no file's.
const (
	codeAddr = 0x400000
	codeSize = 512 << 10
	dataAddr = codeAddr + codeSize
	dataSize = 64 << 10
	bssSize  = 64 << 10
	mapAddr  = 0x10000000 // of what it maps itself
)

// code is x86-64 instructions, and the data they are about.
type code struct {
	text, data bytes.Buffer
}

// imm writes an opcode with a number behind it.
func (c *code) imm(op []byte, n uint64) {
	c.text.Write(op)
	c.text.Write(binary.LittleEndian.AppendUint64(nil, n))
}

// call is a system call. What it answers is in rax, and of no interest: what is there
// to be executed has been executed also when the kernel says no.
func (c *code) call(nr uint64, args ...uint64) {
	for i, a := range args {
		// mov to rdi, rsi, rdx, r10, r8, r9
		c.imm([][]byte{{0x48, 0xbf}, {0x48, 0xbe}, {0x48, 0xba}, {0x49, 0xba}, {0x49, 0xb8}, {0x49, 0xb9}}[i], a)
	}
	c.imm([]byte{0x48, 0xb8}, nr)    // mov to rax
	c.text.Write([]byte{0x0f, 0x05}) // syscall
}

// touch writes to each page of some.
func (c *code) touch(addr, size uint64) {
	for a := addr; a < addr+size; a += page {
		c.imm([]byte{0x48, 0xb8}, a)           // mov to rax
		c.text.Write([]byte{0xc6, 0x00, 0x01}) // mov byte [rax], 1
	}
}

// read reads from each page of some.
func (c *code) read(addr, size uint64) {
	for a := addr; a < addr+size; a += page {
		c.imm([]byte{0x48, 0xb8}, a)     // mov to rax
		c.text.Write([]byte{0x8a, 0x00}) // mov al, [rax]
	}
}

// put gives data an address, which is one of eight bytes.
func (c *code) put(b []byte) uint64 {
	at := dataAddr + uint64(c.data.Len())
	c.data.Write(b)
	c.data.Write(make([]byte, 8-c.data.Len()%8))
	return at
}

func (c *code) str(s string) uint64 { return c.put(append([]byte(s), 0)) }

// elf is the code as a program: an ELF file for x86-64 (System V ABI, AMD64
// supplement) with a segment for code and one for data.
func (c *code) elf() []byte {
	const headers = 64 + 2*56 // of the file and of each segment
	b := bytes.NewBuffer([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(codeAddr + headers), uint64(64), uint64(0), // executable, x86-64, entry, segments, sections
		uint32(0), uint16(64), uint16(56), uint16(2), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(codeAddr), uint64(codeAddr), uint64(codeSize), uint64(codeSize), uint64(page), // read and execute
		uint32(1), uint32(6), uint64(codeSize), uint64(dataAddr), uint64(dataAddr), uint64(dataSize), uint64(dataSize + bssSize), uint64(page), // read and write
	} {
		_ = binary.Write(b, binary.LittleEndian, v) // a buffer takes all
	}
	b.Write(c.text.Bytes())
	b.Write(make([]byte, codeSize-b.Len()))
	b.Write(c.data.Bytes())
	b.Write(make([]byte, codeSize+dataSize-b.Len()))
	return b.Bytes()
}

// ender is a program that ends.
func ender() []byte {
	var c code
	c.call(unix.SYS_EXIT_GROUP, 0)
	return c.elf()
}

// beginner is a program that does what a C library, a dynamic linker and a shell do
// before they come to the point, and ends.
func beginner() []byte {
	var c code
	const buf, thread = dataAddr + dataSize, dataAddr + dataSize + 8*page + 64 // for answers; the kernel's of this thread
	at := uint64(1<<64 - 100)                                                  // AT_FDCWD
	self, passwd, end, own := c.str("/bin/rehearsal"), c.str("/etc/passwd"), c.str("/bin/end"), c.str("/rehearsal")
	etc, exe, null := c.str("/etc"), c.str("/proc/self/exe"), c.str("/dev/null")
	hello := c.str("rehearsal\n")
	argv := c.put(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, end), 0))

	// A C library.
	c.call(unix.SYS_BRK, 0)
	c.text.Write([]byte{0x48, 0x8d, 0xb8, 0x00, 0x20, 0x02, 0x00}) // lea rdi, [rax+0x22000]
	c.call(unix.SYS_BRK)
	c.text.Write([]byte{0xc6, 0x40, 0xf8, 0x01}) // mov byte [rax-8], 1
	c.call(unix.SYS_ARCH_PRCTL, 0x1002, thread)  // ARCH_SET_FS
	c.call(unix.SYS_SET_TID_ADDRESS, thread)
	c.call(unix.SYS_SET_ROBUST_LIST, thread+64, 24)
	c.call(unix.SYS_RSEQ, thread+128, 32, 0, 0x53053053)
	c.call(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_STACK, 0, buf)
	c.call(unix.SYS_READLINKAT, at, exe, buf, page)
	c.call(unix.SYS_GETRANDOM, buf, 8, unix.GRND_NONBLOCK)
	c.call(unix.SYS_MPROTECT, dataAddr+dataSize/2, page, unix.PROT_READ)
	c.call(unix.SYS_UNAME, buf)
	c.read(codeAddr, codeSize)
	c.touch(dataAddr+3*dataSize/4, dataSize/4+bssSize)

	// A dynamic linker: what it opens is 3.
	c.call(unix.SYS_ACCESS, passwd, unix.R_OK)
	c.call(unix.SYS_OPENAT, at, passwd, unix.O_RDONLY|unix.O_CLOEXEC)
	c.call(unix.SYS_NEWFSTATAT, 3, null+9, buf, unix.AT_EMPTY_PATH)
	c.call(unix.SYS_MMAP, mapAddr, page, unix.PROT_READ, unix.MAP_PRIVATE, 3, 0)
	c.call(unix.SYS_CLOSE, 3)
	c.call(unix.SYS_OPENAT, at, self, unix.O_RDONLY|unix.O_CLOEXEC)
	c.call(unix.SYS_READ, 3, buf, 832)
	c.call(unix.SYS_PREAD64, 3, buf, 784, 64)
	const lib, fixed = mapAddr + 1<<20, unix.MAP_PRIVATE | unix.MAP_FIXED
	c.call(unix.SYS_MMAP, lib, codeSize+dataSize, unix.PROT_READ, fixed|unix.MAP_DENYWRITE, 3, 0)
	c.call(unix.SYS_MMAP, lib+codeSize/2, codeSize/2, unix.PROT_READ|unix.PROT_EXEC, fixed|unix.MAP_DENYWRITE, 3, codeSize/2)
	c.call(unix.SYS_MMAP, lib+codeSize, dataSize, unix.PROT_READ|unix.PROT_WRITE, fixed|unix.MAP_DENYWRITE, 3, codeSize)
	c.call(unix.SYS_MMAP, lib+codeSize+dataSize, bssSize, unix.PROT_READ|unix.PROT_WRITE, fixed|unix.MAP_ANONYMOUS, 1<<64-1, 0)
	c.call(unix.SYS_CLOSE, 3)
	c.read(lib, codeSize)
	c.touch(lib+codeSize, dataSize+bssSize)
	c.call(unix.SYS_MPROTECT, lib+codeSize, page, unix.PROT_READ)
	c.call(unix.SYS_MUNMAP, mapAddr, page)

	// A shell.
	for _, nr := range []uint64{unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID} {
		c.call(nr)
	}
	c.call(unix.SYS_RT_SIGACTION, uint64(unix.SIGINT), 0, buf, 8)
	c.call(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, 0, buf, 8)
	c.call(unix.SYS_IOCTL, 1, unix.TCGETS, buf)
	c.call(unix.SYS_NEWFSTATAT, at, etc, buf, 0)
	c.call(unix.SYS_GETCWD, buf, page)
	c.call(unix.SYS_OPENAT, at, etc, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	c.call(unix.SYS_GETDENTS64, 3, buf, page)
	c.call(unix.SYS_CLOSE, 3)
	c.call(unix.SYS_OPENAT, at, null, unix.O_RDWR|unix.O_CLOEXEC)
	c.call(unix.SYS_FCNTL, 3, unix.F_DUPFD_CLOEXEC, 10)
	c.call(unix.SYS_DUP2, 3, 10)
	c.call(unix.SYS_CLOSE, 10)
	c.call(unix.SYS_CLOSE, 3)
	c.call(unix.SYS_OPENAT, at, own, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	c.call(unix.SYS_WRITE, 3, lib, 8*page)
	c.call(unix.SYS_LSEEK, 3, 0, 0)
	c.call(unix.SYS_READ, 3, buf, page)
	c.call(unix.SYS_CLOSE, 3)
	c.call(unix.SYS_UNLINK, own)
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET} {
		c.call(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		c.call(unix.SYS_CLOSE, 3)
	}
	c.call(unix.SYS_WRITE, 1, hello, 10)
	c.call(unix.SYS_WRITE, 2, hello, 10)
	var child code
	child.call(unix.SYS_EXECVE, end, argv, argv+8)
	child.call(unix.SYS_EXIT_GROUP, 1)
	c.call(unix.SYS_CLONE, uint64(unix.SIGCHLD), 0, 0, 0, 0)
	c.text.Write([]byte{0x85, 0xc0, 0x75, byte(child.text.Len())}) // test eax, eax; jnz behind it
	c.text.Write(child.text.Bytes())
	c.call(unix.SYS_WAIT4, 1<<64-1, buf, 0, 0)
	c.call(unix.SYS_EXIT_GROUP, 0)
	return c.elf()
}
