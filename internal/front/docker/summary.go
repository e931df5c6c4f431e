package docker

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hull/internal/hull"
)

// toSummary is a container's line in a list.
func toSummary(c hull.Container, image string, now time.Time) container.Summary {
	out := container.Summary{
		ID: c.ID, Names: namesOf(c),
		Image: image, ImageID: c.Image.ID, ImageManifestDescriptor: manifestOf(c.Image),
		Command: command(c.Resolved), Created: c.Created.Unix(),
		Ports: toPortSummaries(c), Labels: orEmptyMap(c.Resolved.Labels),
		State: stateOf(c.Status), Status: statusText(c.Status, now),
		Health:          healthSummary(c.Status.Health),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: toNetworks(c)},
		Mounts:          toMountPoints(c.Mounts),
	}
	out.HostConfig.NetworkMode = string(networkMode(c))
	out.HostConfig.Annotations = c.Spec.Annotations
	return out
}

// namesOf is a container's name, and those that links of others give it.
func namesOf(c hull.Container) []string {
	return append([]string{"/" + c.Name}, c.Linked...)
}

// tableRow is a summary for a client that prefers "return=minimal" (RFC 7240): the
// columns of a table, a third of the bytes. hull ps asks so; a list of a thousand
// containers takes both sides a third of the time.
type tableRow struct {
	ID      string `json:"Id"`
	Names   []string
	Image   string
	ImageID string
	Command string
	Created int64
	Ports   []container.PortSummary
	State   container.ContainerState
	Status  string
}

func toTableRow(c hull.Container, image string, now time.Time) tableRow {
	return tableRow{
		ID: c.ID, Names: namesOf(c), Image: image, ImageID: c.Image.ID,
		Command: command(c.Resolved), Created: c.Created.Unix(), Ports: toPortSummaries(c),
		State: stateOf(c.Status), Status: statusText(c.Status, now),
	}
}

// minimal says whether the client wants no more than it needs.
func minimal(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Prefer"), "return=minimal")
}

// imageColumn gives what a container was made from, as long as that still means the
// same image, else the image's id.
func (a *containerAPI) imageColumn(ctx context.Context) func(hull.Container) string {
	ids := map[[2]string]string{}
	return func(c hull.Container) string {
		name := imageText(c)
		asked := [2]string{name, c.Spec.Platform}
		if _, known := ids[asked]; !known {
			img, _ := a.images.Resolve(ctx, name, c.Spec.Platform) //nolint:errcheck // gone: no id
			ids[asked] = img.ID
		}
		if ids[asked] != c.Image.ID {
			return c.Image.ID
		}
		return name
	}
}

func imageText(c hull.Container) string {
	return firstOf(c.Spec.Image, c.Image.Name, c.Image.ID)
}

// command is the COMMAND column: as moby, arguments with spaces are quoted.
func command(r hull.Resolved) string {
	var parts []string
	for _, a := range r.Args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		parts = append(parts, a)
	}
	return strings.Join(append([]string{r.Path}, parts...), " ")
}

func healthSummary(h *hull.Health) *container.HealthSummary {
	if h == nil {
		return &container.HealthSummary{Status: container.NoHealthcheck}
	}
	return &container.HealthSummary{Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak}
}

func toPortSummaries(c hull.Container) []container.PortSummary {
	out := []container.PortSummary{}
	if !c.Status.Phase.Live() {
		return out
	}
	bound := map[network.Port]bool{}
	for _, p := range published(c.Status.Endpoint.Ports) {
		ip, _ := netip.ParseAddr(p.HostIP)
		out = append(out, container.PortSummary{IP: ip, PrivatePort: p.ContainerPort, PublicPort: p.HostPort, Type: p.Proto})
		if port, ok := network.PortFrom(p.ContainerPort, network.IPProtocol(p.Proto)); ok {
			bound[port] = true
		}
	}
	for _, e := range c.Resolved.Exposed {
		if p, err := network.ParsePort(e); err == nil && !bound[p] {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
	}
	slices.SortStableFunc(out, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), a.IP.Compare(b.IP))
	})
	return out
}
