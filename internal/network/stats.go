package network

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Stats counts the interfaces of a pod's namespace, without its loopback. The
// host's own ("") is not counted for a container.
func (s *Service) Stats(_ context.Context, netns string) (map[string]hull.NetStats, error) {
	out := map[string]hull.NetStats{}
	if netns == "" {
		return out, nil
	}
	h, err := handleAt(netns)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("network namespace %s is gone: %w", netns, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := list(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces of %s: %w", netns, err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Name == "lo" || a.Statistics == nil {
			continue
		}
		out[a.Name] = hull.NetStats{
			RxBytes: a.Statistics.RxBytes, RxPackets: a.Statistics.RxPackets, RxErrors: a.Statistics.RxErrors, RxDropped: a.Statistics.RxDropped,
			TxBytes: a.Statistics.TxBytes, TxPackets: a.Statistics.TxPackets, TxErrors: a.Statistics.TxErrors, TxDropped: a.Statistics.TxDropped,
		}
	}
	return out, nil
}
