package door

import (
	"container/list"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/hosts"
)

const (
	// handshakeTimeout ends a handshake that does not come to an end. It takes three round
	// trips at most.
	handshakeTimeout = 10 * time.Second
	// maxHandshakes bounds the handshakes under way. Each takes some 30 KiB.
	maxHandshakes = 2048
	// maxOfNetwork bounds those of one network: a fleet behind one address may start at
	// once, and leaves room for others.
	maxOfNetwork = maxHandshakes / 2
)

// errExpelled says that a handshake had to make room, or took too long.
var errExpelled = errors.New("the handshake took too long, or too many are under way")

// hall has the connections whose handshakes are under way: unknown clients, which cost memory and
// processor time before anything is known of them. It bounds their number. If there are
// too many, the network that has the most loses one: the oldest that waits for its
// client, since an honest client answers within a round trip, or else the newest.
//
// Few handshakes compute at once, so that requests always have processors left. The
// others wait for their turn. Networks take turns, so a flood from one of them does not
// hold up the handshakes of others.
type hall struct {
	limit, ofNetwork int
	places           int // of handshakes that compute at once

	mu       sync.Mutex
	all      list.List // of *handshake, in the order of their arrival
	networks map[netip.Prefix]*network
	turns    []*network // that have waiting handshakes, in the order of their next turns
	running  int
}

// network is a network with handshakes under way.
type network struct {
	number  int          // of handshakes
	waiting []*handshake // for a turn, in the order of their arrival
}

// handshake is a connection in the hall.
//
//	quiet --resume--> waiting --turn--> computing
//	  ^                                     |
//	  +----------------pause----------------+
type handshake struct {
	hall    *hall
	at      *listener
	conn    net.Conn
	network netip.Prefix
	place   *list.Element
	timer   *time.Timer
	turn    chan struct{} // has a value if the turn has come
	gone    chan struct{} // closed if the handshake is expelled

	phase   phase // under hall.mu, as all that follows
	left    bool
	refused bool // it had to make room
}

type phase int

const (
	quiet     phase = iota // waits for its client
	waiting                // for its turn
	computing              // counts as running
)

func newHall(processors int) *hall {
	return &hall{
		limit: maxHandshakes, ofNetwork: maxOfNetwork, places: max(1, processors/2), networks: make(map[netip.Prefix]*network),
	}
}

// enter adds a connection. It returns one that has to make room, which may be the same,
// or nil.
func (h *hall) enter(at *listener, conn net.Conn) (entered, expelled *handshake) {
	s := &handshake{hall: h, at: at, conn: conn, network: networkOf(conn.RemoteAddr()), turn: make(chan struct{}, 1), gone: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.networks[s.network]
	if n == nil {
		n = &network{}
		h.networks[s.network] = n
	}
	n.number++
	s.place = h.all.PushBack(s)
	s.timer = time.AfterFunc(handshakeTimeout, s.expel)
	switch {
	case n.number > h.ofNetwork:
		expelled = h.victim(func(of *network) bool { return of == n })
	case h.all.Len() > h.limit:
		most := 0
		for _, of := range h.networks {
			most = max(most, of.number)
		}
		expelled = h.victim(func(of *network) bool { return of.number == most })
	}
	if expelled != nil {
		expelled.refused = true
		h.remove(expelled)
	}
	return s, expelled
}

// victim returns the handshake of some networks that has to make room.
func (h *hall) victim(of func(*network) bool) (newest *handshake) {
	for e := h.all.Front(); e != nil; e = e.Next() {
		s := e.Value.(*handshake)
		if !of(h.networks[s.network]) {
			continue
		}
		if s.phase == quiet {
			return s
		}
		newest = s
	}
	return newest
}

// leave removes a handshake that has ended. It reports false if it was expelled before.
func (s *handshake) leave() bool {
	s.hall.mu.Lock()
	defer s.hall.mu.Unlock()
	s.timer.Stop()
	return s.hall.remove(s)
}

// expel ends a handshake that is under way.
func (s *handshake) expel() {
	if s.leave() {
		s.end()
	}
}

// end ends the connection of a handshake that was removed.
func (s *handshake) end() {
	close(s.gone)
	s.conn.Close()
}

// remove takes a handshake out, and its turn from it.
func (h *hall) remove(s *handshake) bool {
	if s.left {
		return false
	}
	s.left = true
	h.all.Remove(s.place)
	n := h.networks[s.network]
	switch s.phase {
	case quiet:
	case waiting:
		n.waiting = slices.DeleteFunc(n.waiting, func(other *handshake) bool { return other == s })
		if len(n.waiting) == 0 {
			h.turns = slices.DeleteFunc(h.turns, func(other *network) bool { return other == n })
		}
	case computing:
		h.running--
		h.next()
	}
	if n.number--; n.number == 0 {
		delete(h.networks, s.network)
	}
	return true
}

// pause gives the turn away while the handshake waits for its client.
func (s *handshake) pause() {
	h := s.hall
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.left || s.phase != computing {
		return
	}
	s.phase = quiet
	h.running--
	h.next()
}

// resume waits for the next turn. It returns errExpelled if there is none any more.
func (s *handshake) resume() error {
	h := s.hall
	h.mu.Lock()
	if s.left {
		h.mu.Unlock()
		return errExpelled
	}
	s.phase = waiting
	n := h.networks[s.network]
	if n.waiting = append(n.waiting, s); len(n.waiting) == 1 {
		h.turns = append(h.turns, n)
	}
	h.next()
	h.mu.Unlock()
	select {
	case <-s.turn:
		return nil
	case <-s.gone:
		return errExpelled
	}
}

// next gives turns to handshakes that wait, as long as there are places.
func (h *hall) next() {
	for h.running < h.places && len(h.turns) > 0 {
		n := h.turns[0]
		h.turns = h.turns[1:]
		s := n.waiting[0]
		// A network with more of them has its next turn after all others.
		if n.waiting = n.waiting[1:]; len(n.waiting) > 0 {
			h.turns = append(h.turns, n)
		}
		s.phase = computing
		h.running++
		s.turn <- struct{}{} // it has room: a handshake waits for one turn at a time
	}
}

// empty ends the handshakes that are under way at a listener.
func (h *hall) empty(at *listener) {
	h.mu.Lock()
	var found []*handshake
	for e := h.all.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*handshake); s.at == at {
			found = append(found, s)
		}
	}
	h.mu.Unlock()
	for _, s := range found {
		s.expel()
	}
}

// networkOf returns the network of a peer.
func networkOf(peer net.Addr) netip.Prefix {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok { // such as a Unix socket
		return netip.Prefix{}
	}
	return hosts.Network(tcp.AddrPort().Addr().Unmap())
}
