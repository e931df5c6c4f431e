package runtime

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// eval runs a filter in x/net's virtual machine, which reads big-endian words.
func eval(t testing.TB, vm *bpf.VM, nr, arch uint32, args [6]uint64) uint32 {
	t.Helper()
	var d [64]byte
	binary.BigEndian.PutUint32(d[0:], nr)
	binary.BigEndian.PutUint32(d[4:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(d[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(d[20+8*i:], uint32(a>>32))
	}
	r, err := vm.Run(d[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(r)
}

func machineOf(t testing.TB, f *Filter) *bpf.VM {
	t.Helper()
	var prog []bpf.Instruction
	for i := 0; i < len(f.Program); i += 8 {
		b := f.Program[i:]
		prog = append(prog, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:]),
		}.Disassemble())
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// naive decides as the profile says, rule by rule.
func naive(s *specs.LinuxSeccomp, name string, known bool, nr, last uint32, args [6]uint64) uint32 {
	def, _ := scAction(s.DefaultAction, s.DefaultErrnoRet)
	if !known {
		if last > 0 && nr > last && def != unix.SECCOMP_RET_ALLOW && def != unix.SECCOMP_RET_LOG {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		}
		return def
	}
	var cond []uint32
	for _, c := range s.Syscalls {
		for _, n := range c.Names {
			if n != name {
				continue
			}
			act, _ := scAction(c.Action, c.ErrnoRet)
			if act == def {
				continue
			}
			if len(c.Args) == 0 {
				return act
			}
			seen := map[uint]int{}
			all, some := true, false
			for _, a := range c.Args {
				seen[a.Index]++
				v := args[a.Index]
				ok := map[specs.LinuxSeccompOperator]bool{
					specs.OpEqualTo: v == a.Value, specs.OpNotEqual: v != a.Value, specs.OpGreaterEqual: v >= a.Value,
					specs.OpGreaterThan: v > a.Value, specs.OpLessEqual: v <= a.Value, specs.OpLessThan: v < a.Value,
					specs.OpMaskedEqual: v&a.Value == a.ValueTwo,
				}[a.Op]
				all, some = all && ok, some || ok
			}
			twice := false
			for _, n := range seen {
				twice = twice || n > 1
			}
			if all || twice && some {
				cond = append(cond, act)
			}
		}
	}
	if len(cond) > 0 {
		return cond[0]
	}
	if last > 0 && nr > last && def != unix.SECCOMP_RET_ALLOW && def != unix.SECCOMP_RET_LOG {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return def
}

func check(t *testing.T, s *specs.LinuxSeccomp) {
	t.Helper()
	f, err := compileSeccomp(s)
	if err != nil {
		t.Fatal(err)
	}
	vm := machineOf(t, f)
	interesting := []uint64{0, 1, 2, 8, 40, 0x20000, 0x20008, 0xffffffff, 0x7e020000, 0x10000000, 1 << 32, 1<<32 | 1, ^uint64(0)}
	for _, c := range s.Syscalls {
		for _, a := range c.Args {
			interesting = append(interesting, a.Value, a.Value-1, a.Value+1, a.ValueTwo, a.Value|1<<40)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	arches := []specs.Arch{specs.ArchX86_64}
	arches = append(arches, s.Architectures...)
	for _, a := range arches {
		ar, ok := scArches[a]
		if !ok {
			continue
		}
		numbers := ar.numbers()
		names := map[uint32]string{}
		for n, nr := range numbers {
			names[nr] = n
		}
		_, last, _, err := scRules(s, numbers, 0)
		if err != nil {
			t.Fatal(err)
		}
		base := uint32(0)
		if a == specs.ArchX32 {
			base = x32Bit
		}
		for nr := base; nr < base+620; nr++ {
			for range 12 {
				var args [6]uint64
				for i := range args {
					args[i] = interesting[rnd.IntN(len(interesting))]
				}
				name, known := names[nr]
				want := naive(s, name, known, nr, last, args)
				if got := eval(t, vm, nr, ar.audit, args); got != want {
					t.Fatalf("%s: call %d (%s) %x: filter says %#x, profile %#x", a, nr, name, args, got, want)
				}
			}
		}
	}
	if got := eval(t, vm, 0, 0x1234, [6]uint64{}); got != unix.SECCOMP_RET_KILL_THREAD {
		t.Errorf("foreign architecture: %#x", got)
	}
}

func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	s := testSpec("true")
	c := append(append([]string{}, dockerCaps...), caps...)
	s.Process.Capabilities.Bounding = c
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSeccompDefaultProfile(t *testing.T) {
	check(t, defaultProfile(t))
	check(t, defaultProfile(t, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"))
}

func TestSeccompOperators(t *testing.T) {
	e := uint(unix.EXDEV)
	rule := func(name string, act specs.LinuxSeccompAction, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name, "no_such_call"}, Action: act, ErrnoRet: &e, Args: args}
	}
	arg := func(i uint, op specs.LinuxSeccompOperator, v, w uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: w}
	}
	const big = 5<<32 | 7
	for _, s := range []*specs.LinuxSeccomp{
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{rule("mount", specs.ActErrno), rule("read", specs.ActKillProcess)}},
		{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32}, Syscalls: []specs.LinuxSyscall{
			rule("read", specs.ActAllow, arg(0, specs.OpEqualTo, big, 0)),
			rule("write", specs.ActAllow, arg(1, specs.OpNotEqual, big, 0)),
			rule("open", specs.ActAllow, arg(2, specs.OpGreaterThan, big, 0)),
			rule("close", specs.ActLog, arg(3, specs.OpGreaterEqual, big, 0)),
			rule("stat", specs.ActTrap, arg(4, specs.OpLessThan, big, 0)),
			rule("fstat", specs.ActAllow, arg(5, specs.OpLessEqual, big, 0)),
			rule("lseek", specs.ActAllow, arg(0, specs.OpMaskedEqual, 0xff<<32|0xf, big)),
			rule("poll", specs.ActAllow, arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpGreaterThan, 1, 0), arg(5, specs.OpNotEqual, 0, 0)),
			rule("mmap", specs.ActAllow, arg(0, specs.OpEqualTo, 1, 0), arg(0, specs.OpEqualTo, 2, 0)),
			rule("brk", specs.ActAllow, arg(0, specs.OpEqualTo, 1, 0)), rule("brk", specs.ActTrap, arg(0, specs.OpEqualTo, 2, 0)),
			rule("ioctl", specs.ActAllow, arg(0, specs.OpEqualTo, 1, 0)), rule("ioctl", specs.ActAllow),
			rule("dup", specs.ActAllow), rule("dup", specs.ActTrap, arg(0, specs.OpEqualTo, 1, 0)),
			rule("pwritev2", specs.ActAllow), rule("execveat", specs.ActAllow),
		}},
		{DefaultAction: specs.ActKillProcess},
	} {
		check(t, s)
	}
}

func TestSeccompRefuses(t *testing.T) {
	big := uint(1 << 20)
	for name, s := range map[string]*specs.LinuxSeccomp{
		"action":   {DefaultAction: "SCMP_ACT_MAYBE"},
		"errno":    {DefaultAction: specs.ActErrno, DefaultErrnoRet: &big},
		"flag":     {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"no names": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Action: specs.ActErrno}}},
		"index": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}},
		}}},
		"operator": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "~"}},
		}}},
		"notify without socket": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActNotify}}},
	} {
		if _, err := compileSeccomp(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkSeccompCompile(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		f, err := compileSeccomp(p)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(f.Program)/8), "instructions")
	}
}

func BenchmarkSeccompCached(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		if _, err := seccompFilter(p); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSeccompKey: profiles that differ anywhere have different keys.
func TestSeccompKey(t *testing.T) {
	one := uint(1)
	call := func(c specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{c}}
	}
	seen := map[[32]byte]int{}
	for i, s := range []*specs.LinuxSeccomp{
		{}, {DefaultAction: "a"}, {DefaultErrnoRet: &one}, {Flags: []specs.LinuxSeccompFlag{}}, {Flags: []specs.LinuxSeccompFlag{"a"}},
		{Architectures: []specs.Arch{"a"}}, {ListenerPath: "a"}, {ListenerMetadata: "a"},
		call(specs.LinuxSyscall{Names: []string{"ab"}}), call(specs.LinuxSyscall{Names: []string{"a", "b"}}),
		call(specs.LinuxSyscall{Action: "ab"}), call(specs.LinuxSyscall{ErrnoRet: &one}),
		call(specs.LinuxSyscall{Args: []specs.LinuxSeccompArg{{Index: 1}}}), call(specs.LinuxSyscall{Args: []specs.LinuxSeccompArg{{Value: 1}}}),
		call(specs.LinuxSyscall{Args: []specs.LinuxSeccompArg{{ValueTwo: 1}}}), call(specs.LinuxSyscall{Args: []specs.LinuxSeccompArg{{Op: "1"}}}),
	} {
		k := profileKey(s)
		if j, ok := seen[k]; ok {
			t.Errorf("profiles %d and %d have one key", i, j)
		}
		seen[k] = i
	}
}
