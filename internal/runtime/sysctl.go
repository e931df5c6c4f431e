package runtime

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// namespacedSysctls are the parameters outside net.* that belong to a namespace,
// and to which.
//
//nolint:gochecknoglobals // constant
var namespacedSysctls = map[string]uintptr{
	"kernel.msgmax": unix.CLONE_NEWIPC, "kernel.msgmnb": unix.CLONE_NEWIPC, "kernel.msgmni": unix.CLONE_NEWIPC,
	"kernel.sem": unix.CLONE_NEWIPC, "kernel.shmall": unix.CLONE_NEWIPC, "kernel.shmmax": unix.CLONE_NEWIPC,
	"kernel.shmmni": unix.CLONE_NEWIPC, "kernel.shm_rmid_forced": unix.CLONE_NEWIPC,
	"kernel.msg_next_id": unix.CLONE_NEWIPC, "kernel.sem_next_id": unix.CLONE_NEWIPC, "kernel.shm_next_id": unix.CLONE_NEWIPC,
	"kernel.auto_msgmni": unix.CLONE_NEWIPC,
	"kernel.domainname":  unix.CLONE_NEWUTS,
}

// planSysctls allows only parameters of namespaces that are the container's own,
// and only values that are one value (CVE-2022-0811: "0 +kernel.core_pattern=...").
func planSysctls(in map[string]string, has func(uintptr) bool) ([]Sysctl, error) {
	var out []Sysctl
	for key, value := range in {
		// net/ipv4/conf/eth0.100/x and net.ipv4.conf.eth0/100.x are both spellings;
		// as sysctl(8): the first separator decides.
		name := key
		if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
			name = strings.NewReplacer("/", ".", ".", "/").Replace(key)
		}
		if bad := func(r rune) bool {
			return !(r == '.' || r == '/' || r == '_' || r == '-' || r == '@' || r == ':' ||
				r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
		}; strings.ContainsFunc(name, bad) || slices.Contains(strings.Split(name, "."), "") || slices.ContainsFunc(strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '/' }), func(s string) bool { return s == ".." }) {
			return nil, invalid("sysctl %q: not a parameter's name", key)
		}
		if strings.ContainsAny(value, "+=|\n\x00") || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' }) {
			return nil, invalid("sysctl %s: value %q has characters that no parameter takes", key, value)
		}
		var ns uintptr
		switch {
		case strings.HasPrefix(name, "net."):
			ns = unix.CLONE_NEWNET
		case strings.HasPrefix(name, "fs.mqueue."):
			ns = unix.CLONE_NEWIPC
		default:
			ns = namespacedSysctls[name]
		}
		if ns == 0 {
			return nil, invalid("sysctl %q is not in a separate kernel namespace", key)
		}
		if !has(ns) {
			return nil, invalid("sysctl %q is not allowed in the host's namespace", key)
		}
		out = append(out, Sysctl{Key: strings.NewReplacer(".", "/", "/", ".").Replace(name), Value: value})
	}
	slices.SortFunc(out, func(a, b Sysctl) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}
