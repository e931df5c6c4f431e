package docker

import (
	"context"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

// statsEvery is the pace of a stream, and the distance of the two samples from
// which a client computes the CPU percentage.
const statsEvery = time.Second

func (a *containerAPI) stats(w http.ResponseWriter, r *http.Request) error {
	streaming := boolQueryDefault(r, "stream", true)
	oneShot := boolQuery(r, "one-shot")
	if streaming && oneShot {
		return invalid("cannot have stream=true and one-shot=true")
	}
	c, err := a.engine.Container(r.Context(), ref(r))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	send := func(now, before *hull.Stats) error {
		if err := encode(w, statsFor(versionOf(r), toStats(c, now, before))); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush() //nolint:wrapcheck // the client left
	}
	before, err := a.sample(r.Context(), c.ID)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if before == nil && !streaming || oneShot {
		return send(before, nil)
	}
	if streaming { // the first line at once: docker stats fills its table from it
		if err := send(before, nil); err != nil {
			return nil // the client left
		}
	}
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
		now, err := a.sample(r.Context(), c.ID)
		if errdefs.IsNotFound(err) {
			return nil // removed: the stream ends
		}
		if err != nil {
			return err
		}
		if send(now, before) != nil || !streaming {
			return nil
		}
		before = now
	}
}

// sample is nil for a container that does not run.
func (a *containerAPI) sample(ctx context.Context, id string) (*hull.Stats, error) {
	s, err := a.engine.Stats(ctx, id)
	if err != nil || s.Read.IsZero() {
		return nil, err //nolint:wrapcheck // the engine names the object
	}
	return &s, nil
}

func toStats(c hull.Container, now, before *hull.Stats) container.StatsResponse {
	out := container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}
	if now == nil {
		return out
	}
	out.Read, out.CPUStats = now.Read, toCPU(now)
	out.MemoryStats = container.MemoryStats{
		Usage: now.Memory.Usage, MaxUsage: now.Memory.MaxUsage, Limit: now.Memory.Limit, Failcnt: now.Memory.Failcnt, Stats: now.Memory.Raw,
	}
	out.PidsStats = container.PidsStats{Current: now.Pids.Current, Limit: now.Pids.Limit}
	out.BlkioStats = toBlkio(now)
	for name, n := range now.Networks {
		if out.Networks == nil {
			out.Networks = map[string]container.NetworkStats{}
		}
		out.Networks[name] = container.NetworkStats{
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
		}
	}
	if before != nil {
		out.PreRead, out.PreCPUStats = before.Read, toCPU(before)
	}
	return out
}

func toCPU(s *hull.Stats) container.CPUStats {
	return container.CPUStats{
		CPUUsage: container.CPUUsage{
			TotalUsage: s.CPU.Total, PercpuUsage: s.CPU.PerCPU, UsageInKernelmode: s.CPU.System, UsageInUsermode: s.CPU.User,
		},
		SystemUsage: s.SystemCPU, OnlineCPUs: uint32(s.OnlineCPUs), //nolint:gosec // a count
		ThrottlingData: container.ThrottlingData{
			Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: s.CPU.ThrottledTime,
		},
	}
}

// toBlkio: on cgroup v1 unset lists are [], on v2 null, as with Docker.
func toBlkio(s *hull.Stats) container.BlkioStats {
	var out container.BlkioStats
	if !s.CgroupV2 {
		empty := []container.BlkioStatEntry{}
		out = container.BlkioStats{
			IoServiceBytesRecursive: empty, IoServicedRecursive: empty, IoQueuedRecursive: empty, IoServiceTimeRecursive: empty,
			IoWaitTimeRecursive: empty, IoMergedRecursive: empty, IoTimeRecursive: empty, SectorsRecursive: empty,
		}
	}
	for _, e := range s.Blkio {
		one := container.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value}
		switch e.Kind {
		case "service_bytes":
			out.IoServiceBytesRecursive = append(out.IoServiceBytesRecursive, one)
		case "serviced":
			out.IoServicedRecursive = append(out.IoServicedRecursive, one)
		}
	}
	return out
}
