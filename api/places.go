package api

import (
	"net/http"
	"net/netip"
	"sync"

	"github.com/weirhq/weir/internal/hosts"
)

// places are held by requests that last as long as their clients want. One network does not get
// all of them.
type places struct {
	most      int // at once
	ofNetwork int // of those, for one network (hosts.Network)

	mu    sync.Mutex
	all   int
	taken map[netip.Prefix]int
}

func newPlaces(most, ofNetwork int) *places {
	return &places{most: most, ofNetwork: ofNetwork, taken: make(map[netip.Prefix]int)}
}

// take takes a place until leave is called. It returns ErrBusy if none is left for the network.
func (p *places) take(from netip.Addr) (leave func(), err error) {
	network := hosts.Network(from)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= p.most || p.taken[network] >= p.ofNetwork {
		return nil, ErrBusy
	}
	p.all++
	p.taken[network]++
	return func() { p.leave(network) }, nil
}

func (p *places) leave(network netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.taken[network]--; p.taken[network] == 0 {
		delete(p.taken, network)
	}
}

// from returns the address of the client of a request. Without Options.Address, all clients
// count as one.
func (h *Handler) from(r *http.Request) netip.Addr {
	if h.opts.Address == nil {
		return netip.Addr{}
	}
	return h.opts.Address(r)
}
