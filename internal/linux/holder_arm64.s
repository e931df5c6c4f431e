#include "textflag.h"

// func cloneHolder(a *cloneArgs, h *holder) (pid, errno uintptr)
//
// See holder_amd64.s.
TEXT ·cloneHolder(SB), NOSPLIT, $0-32
	MOVD	a+0(FP), R0
	MOVD	$88, R1
	MOVD	h+8(FP), R20
	MOVD	$435, R8
	SVC
	CMN	$4095, R0
	BCC	ok
	NEG	R0, R0
	MOVD	$-1, R1
	MOVD	R1, pid+16(FP)
	MOVD	R0, errno+24(FP)
	RET
ok:
	CBZ	R0, child
	MOVD	R0, pid+16(FP)
	MOVD	ZR, errno+24(FP)
	RET
child:
	SUB	$32, RSP
	MOVD	R20, 8(RSP)
	BL	·holderMain(SB)
	BRK	$0
