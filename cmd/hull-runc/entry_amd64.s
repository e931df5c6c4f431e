#include "textflag.h"

// "/proc/self/exe", with an empty string at its end
DATA	exe<>+0(SB)/8, $"/proc/se"
DATA	exe<>+8(SB)/8, $"lf/exe\x00\x00"
GLOBL	exe<>(SB), RODATA, $16

// "GOMAXPROCS=1"
DATA	procs<>+0(SB)/8, $"GOMAXPRO"
DATA	procs<>+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL	procs<>(SB), RODATA, $16

// entry is where this program begins (-E of the linker), with the kernel's stack:
// the number of arguments, the arguments, 0, the environment, 0.
//
// When an argument is one of the verbs of main's that are reexec, it does what
// linux.ReexecReadOnly does, but before Go's runtime has started: to start that is most
// of what the second execution costs. What fails here Go's part does again, and says
// why. Of a verb four letters are looked at: once too often does no harm.
//
// The second execution is told what calms Go's runtime from its first moment: see
// linux.CalmSysmon, and useOneProcessor.
TEXT entry(SB), NOSPLIT|NOFRAME, $0
	MOVQ	SP, R14
	MOVQ	0(SP), CX
	LEAQ	8(SP), R15	// the arguments
	LEAQ	16(SP)(CX*8), R13	// the environment
	MOVQ	R15, SI
argument:
	ADDQ	$8, SI
	DECQ	CX
	JLE	start
	MOVQ	(SI), DI
	MOVL	(DI), AX
	CMPL	AX, $0x006e7572	// "run\0"
	JEQ	again
	CMPL	AX, $0x63657865	// "exec"
	JEQ	again
	CMPL	AX, $0x61657263	// "crea"
	JNE	argument

again:
	SUBQ	$128, SP
	MOVL	$137, AX	// statfs(exe, &buf)
	LEAQ	exe<>(SB), DI
	MOVQ	SP, SI
	SYSCALL
	TESTQ	AX, AX
	JNE	start
	TESTQ	$1, 80(SP)	// f_flags & ST_RDONLY: this is the second time
	JNE	start

	MOVL	$428, AX	// open_tree(AT_FDCWD, exe, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)
	MOVQ	$-100, DI
	LEAQ	exe<>(SB), SI
	MOVL	$0x80001, DX
	SYSCALL
	TESTQ	AX, AX
	JLT	start
	MOVQ	AX, R12

	MOVQ	$1, 0(SP)	// MOUNT_ATTR_RDONLY
	MOVQ	$0, 8(SP)
	MOVQ	$0, 16(SP)
	MOVQ	$0, 24(SP)
	MOVL	$442, AX	// mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr)
	MOVQ	R12, DI
	LEAQ	exe<>+15(SB), SI
	MOVL	$0x1000, DX
	MOVQ	SP, R10
	MOVL	$32, R8
	SYSCALL
	TESTQ	AX, AX
	JNE	close

	MOVL	$157, AX	// prctl(PR_GET_TIMERSLACK)
	MOVL	$30, DI
	SYSCALL
	CMPQ	AX, $50000	// another one is the caller's choice
	JNE	environment
	MOVL	$157, AX	// prctl(PR_SET_TIMERSLACK, sysmonSlack of internal/linux)
	MOVL	$29, DI
	MOVL	$503000, SI
	SYSCALL

environment:
	// A copy with procs at its end: who sets GOMAXPROCS himself has it before.
	MOVQ	R13, SI
count:
	MOVQ	(SI), AX
	ADDQ	$8, SI
	TESTQ	AX, AX
	JNE	count
	SUBQ	R13, SI	// its size with the 0
	MOVQ	SI, CX
	SUBQ	SI, SP
	SUBQ	$8, SP
	MOVQ	R13, SI
	MOVQ	SP, DI
	SHRQ	$3, CX
	DECQ	CX
	CLD
	REP
	MOVSQ
	LEAQ	procs<>(SB), AX
	MOVQ	AX, 0(DI)
	MOVQ	$0, 8(DI)

	MOVL	$322, AX	// execveat(tree, "", arguments, environment, AT_EMPTY_PATH)
	MOVQ	R12, DI
	LEAQ	exe<>+15(SB), SI
	MOVQ	R15, DX
	MOVQ	SP, R10
	MOVL	$0x1000, R8
	SYSCALL

close:
	MOVL	$3, AX
	MOVQ	R12, DI
	SYSCALL
start:
	MOVQ	R14, SP
	JMP	_rt0_amd64_linux(SB)
