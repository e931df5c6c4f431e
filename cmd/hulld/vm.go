package main

import (
	"log/slog"
	"path/filepath"

	"hull/internal/driver/vm"
)

// machineOptions are those of isolation "vm".
type machineOptions struct {
	kernel, qemu string
	spare        bool // keep one ready
}

// vmConfig is the configuration of isolation "vm". Its programs lie beside
// hull-monitor; its kernel is the one that was asked for, the installed one, or
// one beside them too.
func vmConfig(o options, inst instance, blank vm.Blank, log *slog.Logger) vm.Config {
	if !o.vm.spare {
		blank = nil
	}
	bin, dir := filepath.Dir(o.monitor), filepath.Join(o.root, "vm")
	kernels := []string{o.vm.kernel}
	if o.vm.kernel == "" {
		kernels = []string{filepath.Join(kernelDir(o), "vmlinux"), filepath.Join(bin, "vmlinux")}
	}
	return vm.Config{
		MonitorPath: o.monitor, GuestPath: filepath.Join(bin, "hull-guest"), QEMU: o.vm.qemu, Kernels: kernels, Dir: dir,
		CgroupParent: inst.cgroup, RunDir: o.run, Blank: blank, Log: log,
	}
}

// kernelDir is where an installed guest kernel lies.
func kernelDir(o options) string { return filepath.Join(o.root, "vm", "kernel") }
