package rtnl

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Lead hands every frame that comes in at interface from to interface to, as if it
// were sent there, with VLAN tag tag, 0 = with none. Of frames that come untagged and
// leave so, those that have a tag already are dropped: it means another network at
// to's other end.
func Lead(from, to int, tag uint16) error {
	p := program{{code: opMovReg, regs: reg(6, 1)}}
	if tag == 0 {
		p = append(p, untaggedOnly(len(redirect(to)))...)
		p = append(p, redirect(to)...)
		p = append(p, drop()...)
	} else {
		p = append(
			p, insn{code: opMov, regs: reg(2, 0), imm: vlanProto()}, insn{code: opMov, regs: reg(3, 0), imm: int32(tag)},
			insn{code: opCall, imm: callVlanPush},
		)
		p = append(p, unless0()...)
		p = append(p, redirect(to)...)
	}
	return p.steer(from)
}

// Distribute hands every frame that comes in at interface from to the interface of
// its VLAN tag, 0 = it has none, without the tag. All others are dropped.
func Distribute(from int, to map[uint16]int) error {
	p := program{{code: opMovReg, regs: reg(6, 1)}}
	untagged := drop()
	if i, ok := to[0]; ok {
		untagged = redirect(i)
	}
	p = append(p, untaggedOnly(len(untagged))...)
	p = append(p, untagged...)
	p = append(
		p, insn{code: opLoad, regs: reg(0, 6), off: skbVlanProto}, insn{code: opJumpEq, regs: reg(0, 0), off: 2, imm: vlanProto()},
	)
	p = append(p, drop()...)
	p = append(p, insn{code: opLoad, regs: reg(7, 6), off: skbVlanTCI}, insn{code: opAnd, regs: reg(7, 0), imm: tagMask})
	for _, tag := range slices.Sorted(maps.Keys(to)) {
		if tag == 0 {
			continue
		}
		way := append([]insn{{code: opMovReg, regs: reg(1, 6)}, {code: opCall, imm: callVlanPop}}, unless0()...)
		way = append(way, redirect(to[tag])...)
		p = append(p, insn{code: opJumpNe, regs: reg(7, 0), off: int16(len(way)), imm: int32(tag)})
		p = append(p, way...)
	}
	return append(p, drop()...).steer(from)
}

// MaxTag is the highest VLAN tag.
const MaxTag = 4094

// insn is an instruction of a BPF program (struct bpf_insn).
type insn struct {
	code uint8
	regs uint8 // source and destination
	off  int16
	imm  int32
}

type program []insn

func reg(dst, src uint8) uint8 { return src<<4 | dst }

const (
	opMov    = 0xb7
	opMovReg = 0xbf
	opAnd    = 0x57
	opLoad   = 0x61 // 32 bits
	opJumpEq = 0x15
	opJumpNe = 0x55
	opCall   = 0x85
	opExit   = 0x95

	callVlanPush = 18
	callVlanPop  = 19
	callRedirect = 23

	// Offsets in struct __sk_buff.
	skbVlanPresent = 20
	skbVlanTCI     = 24
	skbVlanProto   = 28

	tagMask = 0xfff
	actShot = 2 // TC_ACT_SHOT
)

// vlanProto is 802.1Q's number in the byte order of the wire.
func vlanProto() int32 { return int32(htons(unix.ETH_P_8021Q)) }

func redirect(to int) []insn {
	return []insn{
		{code: opMov, regs: reg(1, 0), imm: int32(to)}, {code: opMov, regs: reg(2, 0)}, {code: opCall, imm: callRedirect}, {code: opExit},
	}
}

func drop() []insn { return []insn{{code: opMov, imm: actShot}, {code: opExit}} }

// unless0 drops the frame unless the last call was successful.
func unless0() []insn {
	return append([]insn{{code: opJumpEq, off: 2}}, drop()...)
}

// untaggedOnly jumps over the next n instructions with a frame that has a tag.
func untaggedOnly(n int) []insn {
	return []insn{{code: opLoad, regs: reg(0, 6), off: skbVlanPresent}, {code: opJumpNe, off: int16(n)}}
}

// load gives the program to the kernel.
func (p program) load() (*os.File, error) {
	license := []byte("GPL\x00")
	attr := struct {
		kind, count           uint32
		insns, license        uint64
		logLevel, logSize     uint32
		log                   uint64
		kernelVersion, flags  uint32
		name                  [16]byte
		ifindex, expectedType uint32
	}{kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(p)), insns: uint64(uintptr(unsafe.Pointer(&p[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(p)
	runtime.KeepAlive(license)
	if e != 0 {
		return nil, fmt.Errorf("load BPF program: %w", e)
	}
	return os.NewFile(fd, "bpf"), nil
}

const (
	tcIngress     = 0xfffffff1 // TC_H_INGRESS
	ingressHandle = 0xffff0000
	tcaKind       = 1
	tcaOptions    = 2
	bpfFD         = 6
	bpfName       = 7
	bpfFlags      = 8
	bpfDirect     = 1 // the program's result is what to do
	steerPrio     = 1
	steerHandle   = 1
)

func tc(index int, handle, parent, info uint32) []byte {
	b := make([]byte, 20)
	b[0] = unix.AF_UNSPEC
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

// steer has p decide about every frame that comes in at an interface, in place of
// what decided before.
func (p program) steer(index int) error {
	prog, err := p.load()
	if err != nil {
		return err
	}
	defer prog.Close()
	q := newRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, tc(index, ingressHandle, tcIngress, 0)...)
	q.str(tcaKind, "ingress")
	if err := q.do(); err != nil {
		return fmt.Errorf("add ingress queue to interface %d: %w", index, err)
	}
	info := uint32(steerPrio)<<16 | uint32(htons(unix.ETH_P_ALL))
	f := newRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, tc(index, steerHandle, ingressHandle, info)...)
	f.str(tcaKind, "bpf")
	f.nest(tcaOptions, func() {
		f.u32(bpfFD, uint32(prog.Fd()))
		f.str(bpfName, "hull")
		f.u32(bpfFlags, bpfDirect)
	})
	if err := f.do(); err != nil {
		return fmt.Errorf("steer what comes in at interface %d: %w", index, err)
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
