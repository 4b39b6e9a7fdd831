package access

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync"

	"github.com/weirhq/weir/internal/hosts"
)

const (
	// maxWaiting bounds the logins that wait, about ten seconds of work, and maxOfNetwork
	// those of one network.
	maxWaiting   = 256
	maxOfNetwork = 32
)

// queue lets as many verifications run as there are processors. The logins that wait are
// bounded, and networks take turns: guessers of some networks neither take all places nor
// make a client of another one wait for all of them.
type queue struct {
	mu      sync.Mutex
	free    int // slots that no verification has; 0 while any login waits
	waiting int
	lines   map[netip.Prefix]*line
	turns   []*line // those of lines, the next one first
}

// line are the logins of one network that wait, the first one first.
type line struct {
	network netip.Prefix
	logins  []chan error // each gets one value: nil with a slot, or a *BusyError
}

func newQueue() queue {
	return queue{free: runtime.GOMAXPROCS(0), lines: map[netip.Prefix]*line{}}
}

// enter waits for a slot, until leave is called. It returns a *BusyError if too many
// logins wait, and the cause of ctx if that ends before.
func (q *queue) enter(ctx context.Context, from netip.Addr) (leave func(), err error) {
	turn, err := q.stand(hosts.Network(from))
	if err != nil {
		return nil, err
	}
	select {
	case err = <-turn:
	case <-ctx.Done():
		if err = context.Cause(ctx); !q.withdraw(hosts.Network(from), turn) && <-turn == nil {
			q.leave() // the slot came at the same moment
		}
	}
	if err != nil {
		return nil, err
	}
	return q.leave, nil
}

// stand puts a login into the line of its network. If no place is left, the last login of the
// longest line loses its own, unless that line is hardly longer.
func (q *queue) stand(network netip.Prefix) (turn chan error, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	turn = make(chan error, 1)
	if q.free > 0 {
		q.free--
		turn <- nil
		return turn, nil
	}
	own := q.lines[network]
	if own == nil {
		own = &line{network: network}
	}
	if len(own.logins) >= maxOfNetwork {
		return nil, &BusyError{}
	}
	if q.waiting >= maxWaiting {
		longest := slices.MaxFunc(q.turns, func(a, b *line) int { return len(a.logins) - len(b.logins) })
		if len(longest.logins) <= len(own.logins)+1 {
			return nil, &BusyError{}
		}
		last := longest.logins[len(longest.logins)-1]
		q.remove(longest, last)
		last <- &BusyError{}
	}
	if len(own.logins) == 0 {
		q.lines[network] = own
		q.turns = append(q.turns, own)
	}
	own.logins = append(own.logins, turn)
	q.waiting++
	return turn, nil
}

// leave gives a slot to the login that is next.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turns) == 0 {
		q.free++
		return
	}
	next := q.turns[0]
	// The network's next login waits for one of each other network.
	q.turns = append(q.turns[1:], next)
	turn := next.logins[0]
	q.remove(next, turn)
	turn <- nil
}

// withdraw takes a login out of its line. It returns false if the login has its value by now.
func (q *queue) withdraw(network netip.Prefix, turn chan error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.lines[network]
	return own != nil && q.remove(own, turn)
}

// remove takes a login out of a line, and an empty line out of the queue. It reports whether
// the login was there. The caller holds the mutex.
func (q *queue) remove(from *line, turn chan error) bool {
	at := slices.Index(from.logins, turn)
	if at < 0 {
		return false
	}
	from.logins = slices.Delete(from.logins, at, at+1)
	q.waiting--
	if len(from.logins) == 0 {
		delete(q.lines, from.network)
		q.turns = slices.DeleteFunc(q.turns, func(l *line) bool { return l == from })
	}
	return true
}
