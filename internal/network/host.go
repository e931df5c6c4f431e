package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/vishvananda/netlink"

	"hull/internal/network/firewall"
)

// host is an engine instance's side of the kernel: interfaces, pins, the table.
type host struct {
	instance string
	tag      string // of the instance, in interface names
	dir      string // of the pins
	log      *slog.Logger
	links    *netlink.Handle // in the engine's network namespace
	sys      sysctls         // of it
	procs    procs           // for those of the pods
	fw       *firewall.Table
	ids      IDs             // nil = there are no user namespaces
	life     context.Context //nolint:containedctx // the life of background work, ended by quiesce
	stop     context.CancelFunc

	mu      sync.Mutex
	closed  bool
	burials map[*burial]struct{}
	work    sync.WaitGroup
}

func newHost(dir, instance string, log *slog.Logger) (*host, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of network namespaces: %w", err)
	}
	sum := sha256.Sum256([]byte(instance))
	h := &host{instance: instance, tag: hex.EncodeToString(sum[:])[:4], dir: dir, log: log, burials: map[*burial]struct{}{}}
	var err error
	if h.links, err = netlink.NewHandle(netlinkRoute); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if h.sys, err = openOwnSysctls(); err != nil {
		h.links.Close()
		return nil, err
	}
	if h.fw, err = firewall.Open("hull-" + instance); err != nil {
		h.links.Close()
		h.sys.close()
		return nil, err
	}
	h.life, h.stop = context.WithCancel(context.Background())
	return h, nil
}

// background runs fn unless the service is closed; quiesce waits for it.
func (h *host) background(fn func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.work.Go(fn)
	return true
}

// quiesce ends background work.
func (h *host) quiesce() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop()
	h.work.Wait()
}

func (h *host) close() error {
	h.quiesce()
	h.links.Close()
	h.sys.close()
	h.procs.close()
	return h.fw.Close()
}

func (h *host) bridgeName(networkID string) string { return "hb" + h.tag + networkID[:8] }

func (h *host) vethPrefix() string { return "hv" + h.tag }

func (h *host) vethName(endID string) string { return h.vethPrefix() + endID[:slotLen] }

// list repeats a listing that the kernel says was interrupted by a change: what
// it gave may lack what was there all the time.
func list[T any](fn func() ([]T, error)) ([]T, error) {
	const tries = 10
	var all []T
	var err error
	for range tries {
		if all, err = fn(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

func listAddrs(h *netlink.Handle, link netlink.Link) ([]netlink.Addr, error) {
	return list(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
}
