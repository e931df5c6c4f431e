package agent

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux"
)

// What a table of processes holds at most: it goes to the host in one frame.
const (
	maxRows    = 4096
	maxCommand = 4096
	maxTable   = guest.MaxFromGuest / 2
)

// ticks of /proc's times in a second.
const ticks = 100

// processes lists a container's, those of the cgroups that it made itself, too.
func processes(cgroup string) []guest.ProcessInfo {
	var pids []int
	_ = filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // one that has ended
		}
		b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for f := range bytes.FieldsSeq(b) {
			if n, err := strconv.Atoi(string(f)); err == nil && len(pids) < maxRows {
				pids = append(pids, n)
			}
		}
		return nil
	})
	out := []guest.ProcessInfo{}
	own := map[int]int{} // pids of the machine, as those of the container
	parents := []int{}
	size := 0
	for _, pid := range pids {
		p, parent, ok := process(pid)
		if size += len(p.Command) + 128; !ok || size > maxTable {
			continue
		}
		own[pid] = p.Pid
		out, parents = append(out, p), append(parents, parent)
	}
	for i, p := range parents {
		out[i].Parent = own[p]
	}
	return out
}

// process describes one, and names its parent as the machine knows it.
func process(pid int) (p guest.ProcessInfo, parent int, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, 0, false // it has ended
	}
	for line := range strings.Lines(string(status)) {
		k, v, _ := strings.Cut(line, ":")
		f := strings.Fields(v)
		if len(f) == 0 {
			continue
		}
		switch k {
		case "Name":
			p.Command = "[" + f[0] + "]"
		case "PPid":
			parent, _ = strconv.Atoi(f[0])
		case "Uid":
			p.UID, _ = strconv.Atoi(f[0])
		case "NSpid":
			p.Pid, _ = strconv.Atoi(f[len(f)-1])
		}
	}
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		b = bytes.TrimRight(b[:min(len(b), maxCommand)], "\x00")
		p.Command = string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
	}
	stat, err := linux.ReadStat(pid)
	if err != nil {
		return p, 0, false
	}
	p.TTY = stat.TTY
	p.CPU = int64(stat.CPU) * 1000 / ticks //nolint:gosec // ticks of a processor, not 2^63
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err == nil {
		p.Age = up.Nano()/1e6 - int64(stat.Started)*1000/ticks //nolint:gosec // as above
	}
	return p, parent, true
}
