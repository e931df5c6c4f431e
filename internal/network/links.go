package network

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"hull/internal/hull"
	"hull/internal/linux"
)

// linkLines are the lines of a hosts file for a link to a pod that is at on.
func linkLines(to hull.Pod, on hull.NetworkEndpoint, alias string) []string {
	names := alias
	for _, n := range []string{hostname(to, false), to.Name} {
		if n != "" && !strings.Contains(" "+names+" ", " "+n+" ") {
			names += " " + n
		}
	}
	var out []string
	for _, a := range []string{on.IPv4, on.IPv6} {
		if a != "" {
			out = append(out, fmt.Sprintf("%s\t%s\n", a, names))
		}
	}
	return out
}

// relink tells the running pods that have a link to p where it is now.
func relink(s *Service, p hull.Pod, ep hull.Endpoint) {
	parents := map[string][]string{} // aliases by pod
	s.mu.Lock()
	for id, a := range s.pods {
		for _, l := range a.links {
			if ref, alias, ok := splitLink(l); ok && ref == p.ID {
				parents[id] = append(parents[id], alias)
			}
		}
	}
	s.mu.Unlock()
	for id, aliases := range parents {
		parent, err := s.cfg.Pod(id)
		for _, alias := range aliases {
			if err == nil {
				err = moveHost(parent.Status.Endpoint.Hosts, alias, linkLines(p, ep.Networks[Bridge], alias))
			}
		}
		if err != nil {
			s.log.Warn("hosts file of a linked container is not updated", "pod", id, "linked", p.ID, "error", err)
		}
	}
}

// maxHosts bounds what is read of a file that a container writes to, bytes.
const maxHosts = 1 << 20

// linksToFollow are the links of a request that are lines in a hosts file.
func linksToFollow(n hull.NetworkSpec) []string {
	if !predefined(modeOf(n)) {
		return nil // there, they are names
	}
	return n.Links
}

// moveHost replaces the lines of a name in a hosts file, in place: the container has
// the file itself mounted. What the container wrote into it stays.
func moveHost(file, name string, lines []string) (err error) {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	old, err := linux.ReadAll(f, maxHosts)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(strings.SplitAfter(string(old), "\n"), func(l string) bool {
		words := strings.Fields(l)
		return len(words) > 1 && words[1] == name
	})
	text := strings.Join(kept, "") + strings.Join(lines, "")
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}
