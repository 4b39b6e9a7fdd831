// Package turns lets a bounded number of calls of unknown clients run at once. Others wait, a
// bounded number too, and networks take turns: callers of some networks neither take all
// places nor make a caller of another one wait for all of them.
package turns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/weirhq/weir/internal/hosts"
)

// ErrFull says that too many callers wait already, or too many of the same network.
var ErrFull = errors.New("too many are waiting at once")

// Limits bound the calls of a [Queue].
type Limits struct {
	Running          int // at once
	Waiting          int // beside them
	WaitingOfNetwork int // of those, from one network (hosts.Network)
}

// Queue gives out slots. All methods may be called concurrently.
type Queue struct {
	limits Limits

	mu      sync.Mutex
	free    int // slots that no caller has; 0 while any waits
	waiting int
	lines   map[netip.Prefix]*line
	turns   []*line // those of lines, the next one first
}

// line are the callers of one network that wait, the first one first.
type line struct {
	network netip.Prefix
	callers []chan error // each gets one value: nil with a slot, or ErrFull
}

// New returns a Queue whose slots are free.
func New(limits Limits) *Queue {
	return &Queue{limits: limits, free: limits.Running, lines: map[netip.Prefix]*line{}}
}

// Enter waits for a slot, until leave is called. It returns [ErrFull] if too many wait, and
// the cause of ctx if that ends before.
func (q *Queue) Enter(ctx context.Context, from netip.Addr) (leave func(), err error) {
	network := hosts.Network(from)
	turn, err := q.stand(network)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-turn:
	case <-ctx.Done():
		if err = context.Cause(ctx); !q.withdraw(network, turn) && <-turn == nil {
			q.leave() // the slot came at the same moment
		}
	}
	if err != nil {
		return nil, err
	}
	return q.leave, nil
}

// stand puts a caller into the line of its network. If no place is left, the last caller of the
// longest line loses its own, unless that line is hardly longer.
func (q *Queue) stand(network netip.Prefix) (turn chan error, err error) {
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
	if len(own.callers) >= q.limits.WaitingOfNetwork {
		return nil, ErrFull
	}
	if q.waiting >= q.limits.Waiting {
		longest := slices.MaxFunc(q.turns, func(a, b *line) int { return len(a.callers) - len(b.callers) })
		if len(longest.callers) <= len(own.callers)+1 {
			return nil, ErrFull
		}
		last := longest.callers[len(longest.callers)-1]
		q.remove(longest, last)
		last <- ErrFull
	}
	if len(own.callers) == 0 {
		q.lines[network] = own
		q.turns = append(q.turns, own)
	}
	own.callers = append(own.callers, turn)
	q.waiting++
	return turn, nil
}

// leave gives a slot to the caller that is next.
func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turns) == 0 {
		q.free++
		return
	}
	next := q.turns[0]
	// The network's next caller waits for one of each other network.
	q.turns = append(q.turns[1:], next)
	turn := next.callers[0]
	q.remove(next, turn)
	turn <- nil
}

// withdraw takes a caller out of its line. It returns false if the caller has its value by now.
func (q *Queue) withdraw(network netip.Prefix, turn chan error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.lines[network]
	return own != nil && q.remove(own, turn)
}

// remove takes a caller out of a line, and an empty line out of the queue. It reports whether
// the caller was there. The mutex of the queue must be held.
func (q *Queue) remove(from *line, turn chan error) bool {
	at := slices.Index(from.callers, turn)
	if at < 0 {
		return false
	}
	from.callers = slices.Delete(from.callers, at, at+1)
	q.waiting--
	if len(from.callers) == 0 {
		delete(q.lines, from.network)
		q.turns = slices.DeleteFunc(q.turns, func(l *line) bool { return l == from })
	}
	return true
}
