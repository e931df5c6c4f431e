package runtime

//go:generate go run gen_syscalls.go

import (
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The seccomp compiler: an OCI profile becomes one classic BPF program, laid out
// as a binary search over ranges of system call numbers, so that a call costs
// about eight comparisons instead of libseccomp's default of one per rule.
//
// It does what libseccomp and runc do together: system calls that this build does
// not know are left out; rules whose action is the default are no rules; a rule
// without arguments wins over rules with; several conditions on one argument are
// alternatives, conditions on different arguments must all hold; calls newer than
// every call the profile names give ENOSYS rather than the default action, so
// that C libraries fall back.

// scArch is an architecture of a filter.
type scArch struct {
	audit   uint32 // AUDIT_ARCH_*
	numbers func() map[string]uint32
}

const x32Bit = 0x40000000

//nolint:gochecknoglobals // constant; tables are parsed when first used
var scArches = map[specs.Arch]scArch{
	specs.ArchX86_64:  {unix.AUDIT_ARCH_X86_64, table(syscallsAMD64, "", 0)},
	specs.ArchX86:     {unix.AUDIT_ARCH_I386, table(syscalls386, "", 0)},
	specs.ArchX32:     {unix.AUDIT_ARCH_X86_64, table(syscallsAMD64, x32Calls, x32Bit)},
	specs.ArchAARCH64: {unix.AUDIT_ARCH_AARCH64, table(syscallsARM64, "", 0)},
	specs.ArchARM:     {unix.AUDIT_ARCH_ARM, table(syscallsARM, armPrivate, 0)},
}

// armPrivate are the calls of arm that are not in the table.
const armPrivate = "breakpoint 983041 cacheflush 983042 usr26 983043 usr32 983044 set_tls 983045"

// x32Calls have numbers of their own on x32; all others are amd64's, with a bit.
const x32Calls = "rt_sigaction 512 rt_sigreturn 513 ioctl 514 readv 515 writev 516 recvfrom 517 sendmsg 518 recvmsg 519 " +
	"execve 520 ptrace 521 rt_sigpending 522 rt_sigtimedwait 523 rt_sigqueueinfo 524 sigaltstack 525 timer_create 526 " +
	"mq_notify 527 kexec_load 528 waitid 529 set_robust_list 530 get_robust_list 531 vmsplice 532 move_pages 533 " +
	"preadv 534 pwritev 535 rt_tgsigqueueinfo 536 recvmmsg 537 sendmmsg 538 process_vm_readv 539 process_vm_writev 540 " +
	"setsockopt 541 getsockopt 542 io_setup 543 io_submit 544 execveat 545 preadv2 546 pwritev2 547"

func table(calls, more string, bit uint32) func() map[string]uint32 {
	return sync.OnceValue(func() map[string]uint32 {
		f := strings.Fields(calls + " " + more)
		m := make(map[string]uint32, len(f)/2)
		for i := 0; i+1 < len(f); i += 2 {
			n, err := strconv.ParseUint(f[i+1], 10, 32)
			if err == nil { // always: the table is generated
				m[f[i]] = uint32(n) | bit
			}
		}
		return m
	})
}

func nativeArch() specs.Arch {
	if runtime.GOARCH == "arm64" {
		return specs.ArchAARCH64
	}
	return specs.ArchX86_64
}

// scRule is one way to decide about a call.
type scRule struct {
	conds  []specs.LinuxSeccompArg // all must hold; none = always
	action uint32
}

func scAction(a specs.LinuxSeccompAction, ret *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if ret != nil {
		if *ret > unix.SECCOMP_RET_DATA {
			return 0, invalid("errno %d", *ret)
		}
		data = uint32(*ret)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, invalid("action %q", a)
}

//nolint:gochecknoglobals // constant
var scFlags = map[specs.LinuxSeccompFlag]uint32{
	specs.LinuxSeccompFlagLog:              unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow:        unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	specs.LinuxSeccompFlagWaitKillableRecv: unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
	"SECCOMP_FILTER_FLAG_TSYNC":            0, // the process has one thread
}

// filters remembers what was compiled: an engine has one or two profiles, and
// compiling one takes as long as starting a container.
//
//nolint:gochecknoglobals // a memo of a pure function
var filters struct {
	mu sync.Mutex
	m  map[[sha256.Size]byte]*Filter
}

const maxFilters = 32

// seccompFilter is compileSeccomp with a memory.
func seccompFilter(s *specs.LinuxSeccomp) (*Filter, error) {
	key := profileKey(s)
	filters.mu.Lock()
	f := filters.m[key]
	filters.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := compileSeccomp(s)
	if err != nil {
		return nil, err
	}
	filters.mu.Lock()
	defer filters.mu.Unlock()
	if filters.m == nil || len(filters.m) >= maxFilters {
		filters.m = make(map[[sha256.Size]byte]*Filter)
	}
	filters.m[key] = f
	return f, nil
}

// profileKey is a digest of everything that compileSeccomp reads.
func profileKey(s *specs.LinuxSeccomp) [sha256.Size]byte {
	b := make([]byte, 0, 16<<10)
	str := func(x string) { b = append(binary.AppendUvarint(b, uint64(len(x))), x...) }
	opt := func(x *uint) {
		if x == nil {
			b = append(b, 0)
			return
		}
		b = binary.AppendUvarint(append(b, 1), uint64(*x))
	}
	n := func(x int) { b = binary.AppendUvarint(b, uint64(x)) }
	str(string(s.DefaultAction))
	opt(s.DefaultErrnoRet)
	n(len(s.Architectures))
	for _, a := range s.Architectures {
		str(string(a))
	}
	if s.Flags == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
	}
	n(len(s.Flags))
	for _, f := range s.Flags {
		str(string(f))
	}
	str(s.ListenerPath)
	str(s.ListenerMetadata)
	for _, c := range s.Syscalls {
		str(string(c.Action))
		opt(c.ErrnoRet)
		n(len(c.Names))
		for _, x := range c.Names {
			str(x)
		}
		n(len(c.Args))
		for _, a := range c.Args {
			str(string(a.Op))
			b = binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(b, uint64(a.Index)), a.Value), a.ValueTwo)
		}
	}
	return sha256.Sum256(b)
}

func compileSeccomp(s *specs.LinuxSeccomp) (*Filter, error) {
	def, err := scAction(s.DefaultAction, s.DefaultErrnoRet)
	if err == nil {
		err = mayNotify(s)
	}
	if err != nil {
		return nil, err
	}
	f := &Filter{Listener: s.ListenerPath, Metadata: s.ListenerMetadata}
	if s.Flags == nil {
		// As runc: the mitigation that a filter switches on otherwise costs more than
		// it gives since kernel 5.16 does without it, too.
		f.Flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for _, x := range s.Flags {
		v, ok := scFlags[x]
		if !ok {
			return nil, invalid("flag %q", x)
		}
		f.Flags |= v
	}
	arches := []specs.Arch{nativeArch()}
	for _, a := range s.Architectures {
		if _, ok := scArches[a]; ok && !slices.Contains(arches, a) {
			arches = append(arches, a)
		}
	}
	blocks := make(map[specs.Arch][]ins, len(arches))
	notify := false
	for _, a := range arches {
		rules, last, n, err := scRules(s, scArches[a].numbers(), def)
		if err != nil {
			return nil, err
		}
		notify = notify || n
		blocks[a] = scBlock(rules, last, def)
	}
	if notify {
		if s.ListenerPath == "" {
			return nil, invalid("SCMP_ACT_NOTIFY without a listenerPath")
		}
		f.Flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	prog := scDispatch(arches, blocks)
	if len(prog) > unix.BPF_MAXINSNS {
		return nil, invalid("profile is too large: %d instructions", len(prog))
	}
	f.Program = make([]byte, 0, 8*len(prog))
	for _, i := range prog {
		f.Program = binary.NativeEndian.AppendUint16(f.Program, i.code)
		f.Program = append(f.Program, i.jt, i.jf)
		f.Program = binary.NativeEndian.AppendUint32(f.Program, i.k)
	}
	return f, nil
}

// mayNotify refuses questions that nobody could answer: the listener leaves the
// process by a write.
func mayNotify(s *specs.LinuxSeccomp) error {
	if s.DefaultAction == specs.ActNotify {
		return invalid("SCMP_ACT_NOTIFY cannot be used as default action")
	}
	for _, c := range s.Syscalls {
		if c.Action == specs.ActNotify && slices.Contains(c.Names, "write") {
			return invalid("SCMP_ACT_NOTIFY cannot be used for the write syscall")
		}
	}
	return nil
}

// scRules collects the rules of one architecture by call number, and the largest
// number that the profile names.
func scRules(s *specs.LinuxSeccomp, numbers map[string]uint32, def uint32) (rules map[uint32][]scRule, last uint32, notify bool, err error) {
	rules = make(map[uint32][]scRule, 512)
	for _, c := range s.Syscalls {
		if len(c.Names) == 0 {
			return nil, 0, false, invalid("a rule without system calls")
		}
		act, err := scAction(c.Action, c.ErrnoRet)
		if err != nil {
			return nil, 0, false, err
		}
		notify = notify || act == unix.SECCOMP_RET_USER_NOTIF
		alts, err := scConditions(c.Args)
		if err != nil {
			return nil, 0, false, err
		}
		for _, name := range c.Names {
			nr, ok := numbers[name]
			if !ok {
				continue
			}
			last = max(last, nr)
			if act == def {
				continue
			}
			for _, conds := range alts {
				rules[nr] = addRule(rules[nr], scRule{conds, act})
			}
		}
	}
	return rules, last, notify, nil
}

// addRule keeps one unconditional rule (the first), which wins over all others.
func addRule(have []scRule, r scRule) []scRule {
	if len(have) == 1 && len(have[0].conds) == 0 {
		return have
	}
	if len(r.conds) == 0 {
		return []scRule{r}
	}
	return append(have, r)
}

// scConditions splits conditions into alternatives.
func scConditions(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var count [6]int
	for _, a := range args {
		if a.Index > 5 {
			return nil, invalid("argument index %d", a.Index)
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, invalid("operator %q", a.Op)
		}
		count[a.Index]++
	}
	if slices.Max(count[:]) < 2 {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var alts [][]specs.LinuxSeccompArg
	for _, a := range args {
		alts = append(alts, []specs.LinuxSeccompArg{a})
	}
	return alts, nil
}

// ins is one BPF instruction.
type ins struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

func load(off uint32) ins { return ins{code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: off} }
func ret(v uint32) ins    { return ins{code: unix.BPF_RET | unix.BPF_K, k: v} }
func jump(op uint16, k uint32, jt, jf uint8) ins {
	return ins{unix.BPF_JMP | op | unix.BPF_K, jt, jf, k}
}
func goTo(n int) ins { return ins{code: unix.BPF_JMP | unix.BPF_JA, k: uint32(n)} }

// scDispatch puts the blocks behind each other and chooses by architecture. What
// no block is for is killed.
func scDispatch(arches []specs.Arch, blocks map[specs.Arch][]ins) []ins {
	var heads, bodies []ins
	x32, haveX32 := blocks[specs.ArchX32]
	n := 0
	for _, a := range arches {
		if a != specs.ArchX32 {
			n++
		}
	}
	i := 0
	for _, a := range arches {
		if a == specs.ArchX32 {
			continue
		}
		// Two instructions per architecture and the kill at the end come before the
		// bodies.
		here := 2*i + 1
		heads = append(heads, jump(unix.BPF_JEQ, scArches[a].audit, 0, 1), goTo(2*n+1-(here+1)+len(bodies)))
		bodies = append(bodies, load(offNr))
		if a == specs.ArchX86_64 {
			if haveX32 {
				bodies = append(bodies, jump(unix.BPF_JGE, x32Bit, 0, 1), goTo(len(blocks[a])))
			} else {
				bodies = append(bodies, jump(unix.BPF_JGE, x32Bit, 0, 1), ret(unix.SECCOMP_RET_KILL_THREAD))
			}
		}
		bodies = append(bodies, blocks[a]...)
		if a == specs.ArchX86_64 {
			bodies = append(bodies, x32...)
		}
		i++
	}
	heads = append(heads, ret(unix.SECCOMP_RET_KILL_THREAD))
	return append(append([]ins{load(offArch)}, heads...), bodies...)
}

// scRange is all numbers from start to the next range's start.
type scRange struct {
	start uint32
	rules []scRule // nil = def
	act   uint32   // without rules
}

// scBlock decides by the number in the accumulator.
func scBlock(rules map[uint32][]scRule, last, def uint32) []ins {
	nrs := make([]uint32, 0, len(rules))
	for nr := range rules {
		nrs = append(nrs, nr)
	}
	slices.Sort(nrs)
	ranges := []scRange{{start: 0, act: def}}
	add := func(r scRange) {
		l := &ranges[len(ranges)-1]
		switch {
		case l.start == r.start:
			*l = r
		case l.rules == nil && r.rules == nil && l.act == r.act:
			return
		default:
			ranges = append(ranges, r)
		}
		// A replaced range may equal the one before.
		if n := len(ranges); n > 1 && ranges[n-1].rules == nil && ranges[n-2].rules == nil && ranges[n-1].act == ranges[n-2].act {
			ranges = ranges[:n-1]
		}
	}
	for _, nr := range nrs {
		rs := rules[nr]
		if len(rs) == 1 && len(rs[0].conds) == 0 {
			add(scRange{start: nr, act: rs[0].action})
		} else {
			add(scRange{start: nr, rules: rs})
		}
		add(scRange{start: nr + 1, act: def})
	}
	if def != unix.SECCOMP_RET_ALLOW && def != unix.SECCOMP_RET_LOG && last > 0 {
		add(scRange{start: last + 1, act: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	c := scCode{rets: map[uint32]int{}}
	c.search(ranges, def)
	slices.Reverse(c.back)
	return c.back
}

// scCode is a program that is written from its end to its start: jumps go forward,
// so their targets are there before them. A place is how many instructions there
// were once it was written.
type scCode struct {
	back []ins          // the last one first
	rets map[uint32]int // where each action was last returned
}

// scReach is how far a conditional jump goes.
const scReach = 255

func (c *scCode) put(i ins) (place int) {
	c.back = append(c.back, i)
	return len(c.back)
}

// distance is the offset of a jump written next to place.
func (c *scCode) distance(place int) int { return len(c.back) - place }

// near is a place in reach of the next two instructions that goes on at place.
func (c *scCode) near(place int) int {
	if c.distance(place) < scReach {
		return place
	}
	if i := c.back[place-1]; i.code == unix.BPF_RET|unix.BPF_K {
		return c.put(i)
	}
	return c.put(goTo(c.distance(place)))
}

// search writes the decision among ranges, and returns where it begins. Half of a
// search's leaves return what others do: a filter is checked, translated and tried
// out for every call each time a process installs it, so they share.
func (c *scCode) search(r []scRange, def uint32) int {
	switch {
	case len(r) > 1:
		mid := len(r) / 2
		high := c.search(r[mid:], def)
		low := c.near(c.search(r[:mid], def))
		high = c.near(high)
		return c.put(jump(unix.BPF_JGE, r[mid].start, uint8(c.distance(high)), uint8(c.distance(low)))) //nolint:gosec // near
	case r[0].rules != nil:
		check := scCheck(r[0].rules, def)
		slices.Reverse(check)
		c.back = append(c.back, check...)
		return len(c.back)
	}
	act := r[0].act
	if p, ok := c.rets[act]; !ok || c.distance(p) >= scReach {
		c.rets[act] = c.put(ret(act))
	}
	return c.rets[act]
}

// scCheck tries rules one after the other.
func scCheck(rules []scRule, def uint32) []ins {
	var out []ins
	for _, r := range rules {
		var body []ins
		// Built from the end, so that the distance to "this rule fails" is known.
		body = append(body, ret(r.action))
		for i := len(r.conds) - 1; i >= 0; i-- {
			body = append(scCond(r.conds[i], len(body)), body...)
		}
		out = append(out, body...)
	}
	return append(out, ret(def))
}

// scCond checks one 64-bit argument. It falls through when the condition holds and
// jumps over the rest instructions that follow when not.
func scCond(a specs.LinuxSeccompArg, rest int) []ins {
	lo, hi := uint32(offArgs+8*a.Index), uint32(offArgs+8*a.Index+4)
	if nativeIsBig() {
		lo, hi = hi, lo
	}
	vl, vh := uint32(a.Value), uint32(a.Value>>32)
	no := func(after int) uint8 { return uint8(rest + after) } // after = instructions of this check that still follow
	switch a.Op {
	case specs.OpEqualTo:
		return []ins{load(hi), jump(unix.BPF_JEQ, vh, 0, no(2)), load(lo), jump(unix.BPF_JEQ, vl, 0, no(0))}
	case specs.OpNotEqual:
		return []ins{load(hi), jump(unix.BPF_JEQ, vh, 0, 2), load(lo), jump(unix.BPF_JEQ, vl, no(0), 0)}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		op := uint16(unix.BPF_JGT)
		if a.Op == specs.OpGreaterEqual {
			op = unix.BPF_JGE
		}
		return []ins{load(hi), jump(unix.BPF_JGT, vh, 3, 0), jump(unix.BPF_JEQ, vh, 0, no(2)), load(lo), jump(op, vl, 0, no(0))}
	case specs.OpLessThan, specs.OpLessEqual:
		op := uint16(unix.BPF_JGE) // not less than
		if a.Op == specs.OpLessEqual {
			op = unix.BPF_JGT
		}
		return []ins{load(hi), jump(unix.BPF_JGT, vh, no(3), 0), jump(unix.BPF_JEQ, vh, 0, 2), load(lo), jump(op, vl, no(0), 0)}
	default: // OpMaskedEqual: arg & Value == ValueTwo
		and := func(k uint32) ins { return ins{code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, k: k} }
		wl, wh := uint32(a.ValueTwo), uint32(a.ValueTwo>>32)
		return []ins{
			load(hi), and(vh), jump(unix.BPF_JEQ, wh, 0, no(3)),
			load(lo), and(vl), jump(unix.BPF_JEQ, wl, 0, no(0)),
		}
	}
}

func nativeIsBig() bool {
	return binary.NativeEndian.Uint16([]byte{1, 0}) != 1
}
