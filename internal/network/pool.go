package network

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"hull/internal/hull"
	"hull/internal/linux"
)

// pool keeps network namespaces ready. A bare one has a loopback and nothing
// else; a ready one is on the default bridge, with addresses and routes, and is
// a pod's as it stands. Namespaces are never used twice: the kernel keeps too
// much in them (connections, neighbours, rules, what a privileged container set)
// to be sure that one is as new.
//
// Nothing is made before the first pod asks for its kind, and a kind that was
// taken is made again in the background.
type pool struct {
	host *host
	want int
	ids  IDs // each of its namespaces belongs to a user namespace of its own; nil = to the host's

	mu      sync.Mutex
	bare    []*slot
	ready   []*slot
	known   map[string]bool // ids of slots that have no pod yet, also while they are made
	useBare bool            // somebody has asked for one
	useDef  *network        // the default bridge, once somebody has asked for it
	filling bool
	closed  bool
}

func newPool(h *host, want int, ids IDs) *pool {
	const usual = 4
	switch {
	case want == 0:
		want = usual
	case want < 0:
		want = 0
	}
	return &pool{host: h, want: want, ids: ids, known: map[string]bool{}}
}

// takeReady returns a namespace that is on n, the default bridge.
func (p *pool) takeReady(n *network) (*slot, error) {
	p.mu.Lock()
	p.useDef = n
	var sl *slot
	if len(p.ready) > 0 {
		sl, p.ready = p.ready[0], p.ready[1:]
	}
	p.mu.Unlock()
	p.fill()
	if sl != nil {
		return sl, nil
	}
	return p.makeReady(n)
}

// takeBare returns a namespace with nothing in it. Its id is the slot's.
func (p *pool) takeBare() (*slot, error) {
	p.mu.Lock()
	p.useBare = true
	var sl *slot
	if len(p.bare) > 0 {
		sl, p.bare = p.bare[0], p.bare[1:]
	}
	p.mu.Unlock()
	p.fill()
	if sl != nil {
		return sl, nil
	}
	sl, h, err := p.makeBare()
	if err != nil {
		return nil, err
	}
	h.Close()
	return sl, nil
}

// given is called when a pod has the slot's directory.
func (p *pool) given(sl *slot) {
	p.mu.Lock()
	delete(p.known, sl.id)
	p.mu.Unlock()
}

// knows says whether a slot is being made or waits for a pod.
func (p *pool) knows(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id]
}

// makeBare also returns a handle inside, which the caller closes.
func (p *pool) makeBare() (*slot, *netlink.Handle, error) {
	if p.ids == nil {
		return p.makeOf(hull.PodUsers{})
	}
	ids, err := p.ids.Take()
	if err != nil {
		return nil, nil, err
	}
	sl, h, err := p.makeOf(hull.PodUsers{Own: true, IDs: ids})
	if err != nil {
		p.ids.Give(ids)
	}
	return sl, h, err
}

// makeOf makes one that belongs to users.
func (p *pool) makeOf(users hull.PodUsers) (*slot, *netlink.Handle, error) {
	id := newID()[:slotLen]
	p.mu.Lock()
	p.known[id] = true
	p.mu.Unlock()
	sl, h, err := p.host.newSlot(id, users)
	if err != nil {
		p.mu.Lock()
		delete(p.known, id)
		p.mu.Unlock()
		return nil, nil, fmt.Errorf("make network namespace: %w", err)
	}
	return sl, h, nil
}

func (p *pool) makeReady(n *network) (_ *slot, err error) {
	sl, h, err := p.makeBare()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	defer func() {
		if err != nil {
			p.discard(sl)
		}
	}()
	e, err := n.newEnd(sl.id, n.ifPrefix()+"0", hull.EndpointSpec{}, "")
	if err != nil {
		return nil, err
	}
	if err := e.plug(h, sl.path(), true); err != nil {
		e.release()
		return nil, err
	}
	sl.end = e
	return sl, nil
}

// discard gives back a slot that no pod has.
func (p *pool) discard(sl *slot) {
	var ends []*end
	if sl.end != nil {
		ends = []*end{sl.end}
	}
	p.host.bury(sl.dir, ends, false, func() { p.given(sl); p.host.giveIDs(sl.ids) })
}

// fill starts to make what is missing, unless that is already being done.
func (p *pool) fill() {
	p.mu.Lock()
	start := !p.filling && !p.closed && p.want > 0
	p.filling = p.filling || start
	p.mu.Unlock()
	if start && !p.host.background(p.fillUp) {
		p.mu.Lock()
		p.filling = false
		p.mu.Unlock()
	}
}

// fillUp makes one after the other, a moment after it was asked for: what the
// pods are doing, most of all the one that starts just now, matters more.
func (p *pool) fillUp() {
	const moment = 25 * time.Millisecond
	_ = linux.Sleep(p.host.life, moment) // the end of the service is looked for below
	inspected := false
	for {
		p.mu.Lock()
		bridge := p.useDef
		wantReady := bridge != nil && len(p.ready) < p.want
		wantBare := p.useBare && len(p.bare) < p.want
		if p.host.life.Err() != nil || !wantReady && !wantBare {
			p.filling = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if wantReady && !inspected {
			bridge.inspect()
			inspected = true
		}
		var sl *slot
		var err error
		if wantReady {
			sl, err = p.makeReady(bridge)
		} else {
			var h *netlink.Handle
			if sl, h, err = p.makeBare(); err == nil {
				h.Close()
			}
		}
		p.mu.Lock()
		if err != nil {
			p.filling = false
			p.mu.Unlock()
			p.host.log.Warn("no network namespace is kept ready", "error", err)
			return
		}
		if sl.end != nil {
			p.ready = append(p.ready, sl)
		} else {
			p.bare = append(p.bare, sl)
		}
		p.mu.Unlock()
	}
}

// cables names the host ends of the ready ones on n.
func (p *pool) cables(n *network) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, sl := range p.ready {
		if sl.end.network == n {
			out = append(out, sl.end.veth)
		}
	}
	return out
}

// drain gives everything back; nothing is made afterwards.
func (p *pool) drain() error {
	p.mu.Lock()
	all := append(p.bare, p.ready...)
	p.bare, p.ready, p.closed = nil, nil, true
	p.mu.Unlock()
	var err error
	for _, sl := range all {
		err = errors.Join(err, sl.unpin()) // the cable goes with the namespace
	}
	return err
}
