package hull

// ProtectedPaths are the masked and read-only paths of a container that is not
// privileged: Docker's defaults (moby daemon/pkg/oci/defaults.go) where nothing
// was said. What runs and what inspect shows come from here.
func (s Security) ProtectedPaths() (masked, readonly []string) {
	masked, readonly = s.MaskedPaths, s.ReadonlyPaths
	if masked == nil {
		masked = []string{
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
			"/sys/devices/virtual/powercap", "/sys/firmware",
		}
	}
	if readonly == nil {
		readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	return masked, readonly
}
