#include "textflag.h"

// func cloneHolder(a *cloneArgs, h *holder) (pid, errno uintptr)
//
// clone3 with a stack of the child's own. The child calls holderMain(h), which does
// not return; h is kept in a register, because the child's stack is empty.
TEXT ·cloneHolder(SB), NOSPLIT, $0-32
	MOVQ	a+0(FP), DI
	MOVQ	$88, SI
	MOVQ	h+8(FP), R12
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
	CALL	·holderMain(SB)
	INT	$3
