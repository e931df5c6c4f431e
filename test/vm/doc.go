// Package vm holds tests that boot machines (--isolation vm), with the built
// binaries, a guest kernel and QEMU's software emulation, which is slow: few
// machines, one engine, generous waits.
package vm
