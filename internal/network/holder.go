package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder names the program that has a port, " (nginx, pid 12)", or is empty when
// that cannot be found out. Only for the text of an error.
func holder(proto string, port uint16) string {
	for _, table := range []string{proto, proto + "6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 {
				continue
			}
			_, hex, ok := strings.Cut(f[1], ":")
			got, err := strconv.ParseUint(hex, 16, 16)
			if !ok || err != nil || uint16(got) != port || proto == "tcp" && f[3] != "0A" {
				continue
			}
			if who := socketOwner(f[9]); who != "" {
				return who
			}
		}
	}
	return ""
}

func socketOwner(inode string) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != "socket:["+inode+"]" {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			return ""
		}
		return fmt.Sprintf(" (%s, pid %s)", strings.TrimSpace(string(comm)), filepath.Base(dir))
	}
	return ""
}
