package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"
)

// summary is what the table of "ps" needs of a container.
type summary struct {
	ID      string `json:"Id"`
	Names   []string
	Image   string
	ImageID string
	Command string
	Created int64
	Ports   []portSummary
	Status  string
}

type portSummary struct {
	IP          netip.Addr
	PrivatePort uint16
	PublicPort  uint16
	Type        string
}

// psRequest is a parsed "ps".
type psRequest struct {
	all, quiet, noTrunc, latest bool
	last                        int64
	filters                     []string
}

// psFlags are the flags of "ps" that need nothing of hull-cli.
func psFlags(r *psRequest) []flag {
	r.last = -1
	return []flag{
		boolFlag("all", 'a', &r.all),
		boolFlag("quiet", 'q', &r.quiet),
		boolFlag("no-trunc", 0, &r.noTrunc),
		boolFlag("latest", 'l', &r.latest),
		intFlag("last", 'n', &r.last),
		listFlag("filter", 'f', &r.filters),
	}
}

// ps lists containers. It only reads, so it can still hand over when a container
// turns out to need more than it knows.
func (c *command) ps(args []string) (int, error) {
	var r psRequest
	rest, ok := parseFlags(args, psFlags(&r), true)
	if !ok || len(rest) > 0 || c.cfg.PsFormat != "" {
		return 0, errHandOver
	}
	query, ok := r.query()
	if !ok {
		return 0, errHandOver
	}
	conn, err := c.dial()
	if err != nil {
		return 1, err
	}
	conn.Minimal = true
	resp, body, err := conn.Do("GET", apiVersion+"/containers/json"+query, nil)
	if err != nil {
		return 1, lost(err)
	}
	if resp.Status >= 400 {
		return 0, errHandOver
	}
	var list []summary
	if err := json.Unmarshal(body, &list); err != nil {
		return 0, errHandOver
	}
	var out bytes.Buffer
	if r.quiet {
		for _, s := range list {
			out.WriteString(short12(s.ID, r.noTrunc) + "\n")
		}
	} else if !table(&out, list, r.noTrunc, time.Now()) {
		return 0, errHandOver
	}
	if _, err := c.out.Write(out.Bytes()); err != nil {
		return 1, err
	}
	return 0, nil
}

// query is the request's, as docker's client writes it.
func (r *psRequest) query() (string, bool) {
	limit := r.last
	if r.latest && limit == -1 {
		limit = 1
	}
	q := url.Values{}
	if r.all {
		q.Set("all", "1")
	}
	if limit > 0 {
		q.Set("limit", strconv.FormatInt(limit, 10))
	}
	filters := map[string]map[string]bool{}
	for _, f := range r.filters {
		name, value, ok := strings.Cut(f, "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || name == "" {
			return "", false
		}
		if filters[name] == nil {
			filters[name] = map[string]bool{}
		}
		filters[name][value] = true
	}
	if len(filters) > 0 {
		b, err := json.Marshal(filters)
		if err != nil {
			return "", false
		}
		q.Set("filters", string(b))
	}
	if len(q) == 0 {
		return "", true
	}
	return "?" + q.Encode(), true
}

// table writes docker's table; false = one of the containers needs hull-cli
// (names of digests and of Docker Hub in their long form, wide characters).
func table(out *bytes.Buffer, list []summary, full bool, now time.Time) bool {
	w := tabwriter.NewWriter(out, 10, 1, 3, ' ', 0)
	fmt.Fprintln(w, "CONTAINER ID\tIMAGE\tCOMMAND\tCREATED\tSTATUS\tPORTS\tNAMES")
	for _, s := range list {
		image, ok := imageName(s, full)
		if !ok {
			return false
		}
		command := s.Command
		if !full && len(command) > 20 {
			command = command[:19] + "…"
		}
		row := short12(s.ID, full) + "\t" + image + "\t" + strconv.Quote(command) + "\t" +
			units.HumanDuration(now.Sub(time.Unix(s.Created, 0))) + " ago\t" +
			s.Status + "\t" + ports(s.Ports) + "\t" + names(s.Names, full)
		if !ascii(s.Command) || !ascii(s.Status) || !ascii(image) {
			return false
		}
		fmt.Fprintln(w, row)
	}
	return w.Flush() == nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == '\t' || s[i] == '\n' {
			return false
		}
	}
	return true
}

func short12(id string, full bool) string {
	if full {
		return id
	}
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// imageName is the image as the user named it; false = hull-cli shortens it.
func imageName(s summary, full bool) (string, bool) {
	switch {
	case s.Image == "":
		return "<no image>", true
	case full:
		return s.Image, true
	}
	if id := short12(s.ImageID, false); id == short12(s.Image, false) {
		return id, true
	}
	host, _, _ := strings.Cut(s.Image, "/")
	plain := !strings.Contains(s.Image, "@") && host != "docker.io" && host != "index.docker.io" && host != "library"
	return s.Image, plain
}

// names is the container's name; with full also those that links gave it.
func names(all []string, full bool) string {
	var own []string
	for _, n := range all {
		n = strings.TrimPrefix(n, "/")
		if full {
			own = append(own, n)
		} else if !strings.Contains(n, "/") {
			return n
		}
	}
	return strings.Join(own, ",")
}

// ports is "0.0.0.0:8080->80/tcp, 9000-9002/udp": ports next to each other that
// are published as themselves, or not at all, are one range.
func ports(all []portSummary) string {
	slices.SortFunc(all, func(a, b portSummary) int {
		if a.PrivatePort != b.PrivatePort {
			return int(a.PrivatePort) - int(b.PrivatePort)
		}
		if a.IP != b.IP {
			return strings.Compare(a.IP.String(), b.IP.String())
		}
		if a.PublicPort != b.PublicPort {
			return int(a.PublicPort) - int(b.PublicPort)
		}
		return strings.Compare(a.Type, b.Type)
	})
	var open []*portRange // in the order of their first port
	var done, mapped []string
	for _, p := range all {
		if p.IP.IsValid() && p.PublicPort != p.PrivatePort {
			host := net.JoinHostPort(p.IP.String(), strconv.Itoa(int(p.PublicPort)))
			mapped = append(mapped, host+"->"+strconv.Itoa(int(p.PrivatePort))+"/"+p.Type)
			continue
		}
		i := slices.IndexFunc(open, func(r *portRange) bool { return r.ip == p.IP && r.proto == p.Type })
		switch {
		case i < 0:
			open = append(open, &portRange{p.IP, p.Type, p.PrivatePort, p.PrivatePort})
		case p.PrivatePort == open[i].last+1:
			open[i].last++
		default:
			done = append(done, open[i].String())
			open[i].first, open[i].last = p.PrivatePort, p.PrivatePort
		}
	}
	for _, r := range open {
		done = append(done, r.String())
	}
	return strings.Join(append(done, mapped...), ", ")
}

type portRange struct {
	ip          netip.Addr
	proto       string
	first, last uint16
}

func (r *portRange) String() string {
	s := strconv.Itoa(int(r.first))
	if r.last != r.first {
		s += "-" + strconv.Itoa(int(r.last))
	}
	if r.ip.IsValid() {
		s = net.JoinHostPort(r.ip.String(), s) + "->" + s
	}
	return s + "/" + r.proto
}
