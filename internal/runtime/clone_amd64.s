#include "textflag.h"

// func clone(a *cloneArgs, m *machine) (pid, errno uintptr)
//
// clone3 with a stack of the child's own, or with a copy of this one when the
// memory is not shared. The child calls childMain(m), which does not return; m is
// kept in a register, because the child's stack is empty.
TEXT ·clone(SB), NOSPLIT, $0-32
	MOVQ	a+0(FP), DI
	MOVQ	$88, SI
	MOVQ	m+8(FP), R12
	MOVQ	$435, AX
	SYSCALL
	CMPQ	AX, $0xfffffffffffff001
	JLS	ok
	NEGQ	AX
	MOVQ	$-1, pid+16(FP)
	MOVQ	AX, errno+24(FP)
	RET
ok:
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, pid+16(FP)
	MOVQ	$0, errno+24(FP)
	RET
child:
	SUBQ	$16, SP
	MOVQ	R12, 0(SP)
	CALL	·childMain(SB)
	INT	$3

// func cloneAgain(a *cloneArgs, m *machine) (pid, errno uintptr)
//
// The same, with another function.
TEXT ·cloneAgain(SB), NOSPLIT, $0-32
	MOVQ	a+0(FP), DI
	MOVQ	$88, SI
	MOVQ	m+8(FP), R12
	MOVQ	$435, AX
	SYSCALL
	CMPQ	AX, $0xfffffffffffff001
	JLS	ok
	NEGQ	AX
	MOVQ	$-1, pid+16(FP)
	MOVQ	AX, errno+24(FP)
	RET
ok:
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, pid+16(FP)
	MOVQ	$0, errno+24(FP)
	RET
child:
	SUBQ	$16, SP
	MOVQ	R12, 0(SP)
	CALL	·childRest(SB)
	INT	$3
