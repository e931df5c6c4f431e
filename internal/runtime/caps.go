package runtime

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// capNames are the kernel's capabilities by number.
//
//nolint:gochecknoglobals // constant
var capNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// capMask turns names into a mask. Unknown names are returned: newer than we.
func capMask(names []string) (mask uint64, unknown []string) {
	for _, n := range names {
		i := slices.Index(capNames, strings.TrimPrefix(strings.ToUpper(n), "CAP_"))
		if i < 0 {
			unknown = append(unknown, n)
			continue
		}
		mask |= 1 << i
	}
	return mask, unknown
}

func capList(mask uint64) string {
	var out []string
	for i, n := range capNames {
		if mask&(1<<i) != 0 {
			out = append(out, "CAP_"+n)
		}
	}
	return strings.Join(out, ", ")
}

// hostCaps is the bounding set of this process, which never drops any of it.
//
//nolint:gochecknoglobals // constant, read when first used
var hostCaps = sync.OnceValues(func() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("CapBnd:")); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(v)), 16, 64)
		}
	}
	return 0, fmt.Errorf("no CapBnd in /proc/self/status: %w", errdefs.ErrNotFound)
})

// planCaps compiles the five sets. What this host does not have is left out,
// with a warning: a privileged container must still run in a confined engine.
func planCaps(c *specs.LinuxCapabilities, host uint64) (Caps, []string) {
	if c == nil {
		return Caps{Keep: true}, nil
	}
	var warn []string
	var lost uint64
	set := func(names []string) uint64 {
		m, unknown := capMask(names)
		for _, u := range unknown {
			w := fmt.Sprintf("capability %s is unknown to this kernel and was left out", u)
			if !slices.Contains(warn, w) {
				warn = append(warn, w)
			}
		}
		lost |= m &^ host
		return m & host
	}
	p := Caps{
		Bounding:    set(c.Bounding),
		Effective:   set(c.Effective),
		Permitted:   set(c.Permitted),
		Inheritable: set(c.Inheritable),
		Ambient:     set(c.Ambient),
	}
	// The kernel's own rules: effective within permitted, ambient within both
	// permitted and inheritable.
	p.Effective &= p.Permitted
	if no := p.Ambient &^ (p.Permitted & p.Inheritable); no != 0 {
		p.Ambient &^= no
		for i, n := range capNames {
			if no&(1<<i) != 0 {
				warn = append(warn, fmt.Sprintf("can't raise ambient capability CAP_%s: not in the permitted and inheritable sets", n))
			}
		}
	}
	if lost != 0 {
		warn = append(warn, fmt.Sprintf("this host does not have %s: left out", capList(lost)))
	}
	return p, warn
}
