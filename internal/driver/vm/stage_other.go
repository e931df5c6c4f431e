//go:build !amd64

package vm

// stage is of nobody's use here: machines are x86-64, as their hosts (checkKernel).
func stage() map[string][]byte { return nil }
