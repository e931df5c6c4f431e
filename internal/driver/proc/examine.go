package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux/cgroup"
)

// Kernels: without the first, mounts cannot be made; without the second, an overlay
// cannot be shown through a user namespace's ids.
const (
	kernelNeeded = "5.12"
	kernelWanted = "5.19"
)

// Examine says what of the host containers stand on. monitor is the path of
// hull-monitor.
func Examine(monitor string) []hull.Finding {
	return []hull.Finding{examineRoot(), examineKernel(), examineMonitor(monitor), examineCgroups(), examineNamespaces(), examineSeccomp()}
}

func examineRoot() hull.Finding {
	f := hull.Finding{Subject: "privileges", Verdict: hull.Fine, Says: "the engine is root"}
	if uid := os.Geteuid(); uid != 0 {
		f.Verdict, f.Says = hull.Broken, fmt.Sprintf("the engine runs as user %d", uid)
		f.Means, f.Next = "it can make neither mounts nor networks", "start it as root"
	}
	return f
}

func examineKernel() hull.Finding {
	f := hull.Finding{Subject: "kernel", Verdict: hull.Fine}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, err.Error(), "what the kernel can do is not known", "look at uname -r"
		return f
	}
	release := unix.ByteSliceToString(u.Release[:])
	f.Says = "Linux " + release
	switch {
	case older(release, kernelNeeded):
		f.Verdict, f.Means, f.Next = hull.Broken, "file systems of containers cannot be mounted", "use Linux "+kernelWanted+" or newer"
	case older(release, kernelWanted):
		f.Verdict, f.Means, f.Next = hull.Limited, "containers have no user namespaces of their own", "use Linux "+kernelWanted+" or newer"
	}
	return f
}

// older compares the first two numbers of kernel releases.
func older(release, than string) bool {
	numbers := func(s string) (n [2]int) {
		for i, w := range strings.SplitN(s, ".", 3)[:2] {
			n[i], _ = strconv.Atoi(strings.TrimRightFunc(w, func(r rune) bool { return r < '0' || r > '9' }))
		}
		return n
	}
	if strings.Count(release, ".") == 0 {
		return false // not a release as we know them
	}
	a, b := numbers(release), numbers(than)
	return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
}

func examineMonitor(path string) hull.Finding {
	f := hull.Finding{Subject: "hull-monitor", Verdict: hull.Fine, Says: path}
	st, err := os.Stat(path)
	if err == nil && st.Mode()&0o111 == 0 {
		err = fmt.Errorf("%s: %w", path, fs.ErrPermission)
	}
	if err != nil {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, err.Error(), "no container can start", "install hull completely (make install)"
	}
	return f
}

func examineCgroups() hull.Finding {
	f := hull.Finding{Subject: "cgroups", Verdict: hull.Fine}
	s, err := cgroup.Detect()
	if err != nil {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, err.Error(), "containers cannot be limited, counted or found again",
			"mount cgroup2 at /sys/fs/cgroup"
		return f
	}
	f.Says = "version 1, " + strings.Join(s.Controllers, " ")
	if s.V2 {
		f.Says = "version 2, " + strings.Join(s.Controllers, " ")
	}
	var missing []string
	for _, c := range []string{"memory", "cpu", "cpuset", "pids"} {
		if !slices.Contains(s.Controllers, c) {
			missing = append(missing, c)
		}
	}
	if !slices.Contains(s.Controllers, "io") && !slices.Contains(s.Controllers, "blkio") {
		missing = append(missing, "io")
	}
	if len(missing) > 0 {
		f.Verdict, f.Means = hull.Limited, "no limits and no statistics of "+strings.Join(missing, ", ")
		f.Next = "enable them on the kernel's command line or in the cgroup that hulld runs in (cgroup.subtree_control)"
	}
	return f
}

func examineNamespaces() hull.Finding {
	f := hull.Finding{Subject: "namespaces", Verdict: hull.Fine}
	var have, missing []string
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"} {
		if _, err := os.Lstat("/proc/self/ns/" + ns); err == nil {
			have = append(have, ns)
		} else {
			missing = append(missing, ns)
		}
	}
	f.Says = strings.Join(have, " ")
	switch b, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); {
	case len(missing) == 1 && missing[0] == "user", err == nil && strings.TrimSpace(string(b)) == "0":
		f.Verdict, f.Means = hull.Limited, "root in a container is root of the host, held back by capabilities and seccomp alone"
		f.Next = "sysctl -w user.max_user_namespaces=15000"
	case len(missing) > 0:
		f.Verdict, f.Means = hull.Broken, "the kernel has no namespaces of kind "+strings.Join(missing, ", ")
		f.Next = "use a kernel with CONFIG_NAMESPACES in full"
	}
	return f
}

func examineSeccomp() hull.Finding {
	f := hull.Finding{Subject: "seccomp", Verdict: hull.Fine, Says: "filters"}
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	if errors.Is(err, fs.ErrNotExist) {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, "the kernel has no seccomp filters", "containers start with --security-opt seccomp=unconfined only",
			"use a kernel with CONFIG_SECCOMP_FILTER"
	}
	return f
}
