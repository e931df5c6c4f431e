package main

import (
	"log/slog"
	"path/filepath"

	"hull/internal/driver/vm"
)

// vmConfig is the configuration of isolation "vm". Its programs lie beside
// hull-monitor; its kernel is the one that was asked for, the installed one, or
// one beside them too.
func vmConfig(o options, inst instance, log *slog.Logger) vm.Config {
	bin, dir := filepath.Dir(o.monitor), filepath.Join(o.root, "vm")
	kernels := []string{o.vmKernel}
	if o.vmKernel == "" {
		kernels = []string{filepath.Join(kernelDir(o), "vmlinux"), filepath.Join(bin, "vmlinux")}
	}
	return vm.Config{
		MonitorPath: o.monitor, GuestPath: filepath.Join(bin, "hull-guest"), QEMU: o.vmQEMU, Kernels: kernels, Dir: dir,
		CgroupParent: inst.cgroup, RunDir: o.run, Log: log,
	}
}

// kernelDir is where an installed guest kernel lies.
func kernelDir(o options) string { return filepath.Join(o.root, "vm", "kernel") }
