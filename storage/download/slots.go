package download

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// reservedShare is the part of all slots that only namespaces without a running
	// download get: one slot in 16, and none if there are fewer. It is small because
	// an idle reserve slows everything else down.
	reservedShare = 16
	// shortestLease is how long a download keeps its slot at least. A download that
	// yields again and again has that long each time to go on.
	shortestLease = time.Second
	// healthyLease is that time for a download of at least healthySpeed. Most such
	// downloads end by themselves within it, and need not connect again.
	healthyLease = 10 * time.Second
	// healthySpeed, in bytes per second, is a tenth of a slow line.
	healthySpeed = 64 << 10
	// yieldPoll is how often a waiting download looks for one that has had its time.
	yieldPoll = 200 * time.Millisecond
)

// errYielded ends a fetch whose slot another namespace is waiting for.
var errYielded = errors.New("storage: the download gave its place to another repository block")

// slots bounds the downloads that run at once. Waiting downloads get slots by
// turns between namespaces: a burst of one registry's cold pulls does not delay
// another registry's pull behind its whole queue. Within a namespace the order is
// that of arrival.
//
// A namespace may have all slots but the reserve while no other one waits. If one
// does, each has an equal share: half of the slots if there are two. A namespace
// that has more yields, its slowest downloads first. They wait for a slot again,
// and go on where they stopped. If there are as many namespaces as slots, or nearly, so
// that one has none although no other has more than its share, all take turns of ten
// seconds. A registry that never ends its bodies can therefore keep its own clients
// waiting, but not those of others.
type slots struct {
	size, reserved int

	mu       sync.Mutex
	free     int
	yielding int                      // leases that will be released
	running  map[string][]*lease      // by namespace
	waiting  map[string][]chan *lease // by namespace, in the order of arrival
	turns    []string                 // the namespaces that wait; the first is next
}

// lease is the use of a slot.
type lease struct {
	slots     *slots
	namespace string
	since     time.Time
	bytes     atomic.Int64 // that came meanwhile
	yields    bool         // it will be released; the mutex of slots guards it
	spare     *atomic.Bool // true as long as the place is needed for nothing else; nil: never

	// ctx ends with that of bind, or with errYielded. The two are nil before bind.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newSlots(n int) *slots {
	return &slots{
		size: n, free: n, reserved: n / reservedShare,
		running: make(map[string][]*lease), waiting: make(map[string][]chan *lease),
	}
}

// acquire waits for a slot, which the caller gives back with the release of the
// lease. If the context ends first, acquire returns its cause. A lease yields only
// after its bind.
func (s *slots) acquire(ctx context.Context, namespace string) (*lease, error) {
	s.mu.Lock()
	// Waiting downloads are admitted as soon as a slot is free. A slot that is
	// free here is one that none of them may have.
	if s.admits(namespace) {
		l := s.take(namespace)
		s.mu.Unlock()
		return l, nil
	}
	admitted := make(chan *lease, 1)
	if s.waiting[namespace] == nil { // the first of its namespace waits for a turn
		s.turns = append(s.turns, namespace)
	}
	s.waiting[namespace] = append(s.waiting[namespace], admitted)
	s.mu.Unlock()
	poll := time.NewTicker(yieldPoll)
	defer poll.Stop()
	for {
		s.press()
		select {
		case l := <-admitted:
			return l, nil
		case <-poll.C:
		case <-ctx.Done():
			s.giveUp(namespace, admitted)
			return nil, context.Cause(ctx)
		}
	}
}

// acquireSpare returns a free slot that no download waits for, or nil. The lease yields to
// any download that waits, as long as spare is true.
func (s *slots) acquireSpare(namespace string, spare *atomic.Bool) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.turns) > 0 || !s.admits(namespace) {
		return nil
	}
	l := s.take(namespace)
	l.spare = spare
	return l
}

// bind gives a lease the context of the fetch that has it, which can be made to yield
// from then on.
func (l *lease) bind(ctx context.Context) *lease {
	ctx, cancel := context.WithCancelCause(ctx)
	l.slots.mu.Lock()
	l.ctx, l.cancel = ctx, cancel
	l.slots.mu.Unlock()
	return l
}

// release gives the slot back.
func (l *lease) release() {
	if l.cancel != nil {
		l.cancel(nil)
	}
	s := l.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if l.yields {
		s.yielding--
		// The namespaces that it gives its slot to come first.
		if i := slices.Index(s.turns, l.namespace); i >= 0 {
			s.turns = append(slices.Delete(s.turns, i, i+1), l.namespace)
		}
	}
	left := slices.DeleteFunc(s.running[l.namespace], func(other *lease) bool { return other == l })
	if s.running[l.namespace] = left; len(left) == 0 {
		delete(s.running, l.namespace)
	}
	s.admit()
}

// taken returns how many slots are not free.
func (s *slots) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size - s.free
}

// contended reports whether a download waits for a slot.
func (s *slots) contended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.turns) > 0
}

// press makes downloads yield until each waiting namespace will have its share.
func (s *slots) press() {
	for _, l := range s.victims() {
		l.cancel(errYielded)
	}
}

// victims chooses the downloads that have to yield.
func (s *slots) victims() (chosen []*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chosen = s.spareVictims()
	share := s.share()
	wanted, without := s.reserved-s.free-s.yielding, 0
	for namespace, queue := range s.waiting {
		wanted += min(len(queue), max(0, share-len(s.running[namespace])))
		if len(s.running[namespace]) == 0 {
			without++
		}
	}
	for range wanted {
		l := s.victim(share)
		if l == nil && without > s.free+s.yielding {
			l = s.turnOver(share)
		}
		if l == nil { // all others have just begun
			break
		}
		l.yields = true
		s.yielding++
		chosen = append(chosen, l)
	}
	return chosen
}

// spareVictims chooses a spare lease for each waiting download that has no slot to come.
func (s *slots) spareVictims() (chosen []*lease) {
	wanted, reserved := -s.free-s.yielding, 0
	for namespace, queue := range s.waiting {
		wanted += len(queue)
		// Only the first download of a namespace may have a slot of the reserve.
		if len(queue) > 1 || s.running[namespace] != nil {
			reserved = s.reserved
		}
	}
	wanted += reserved
	for _, leases := range s.running {
		for _, l := range leases {
			if wanted > 0 && !l.yields && l.cancel != nil && l.spare != nil && l.spare.Load() {
				l.yields = true
				s.yielding++
				wanted--
				chosen = append(chosen, l)
			}
		}
	}
	return chosen
}

// victim returns the slowest download of the namespace that exceeds its share the
// most, or nil if none has had its time.
func (s *slots) victim(share int) *lease {
	var candidates []*lease
	most := share
	for _, leases := range s.running {
		stay := slices.DeleteFunc(slices.Clone(leases), func(l *lease) bool { return l.yields })
		if len(stay) > most {
			most, candidates = len(stay), stay
		}
	}
	candidates = slices.DeleteFunc(candidates, func(l *lease) bool { return !l.mayYield() })
	if len(candidates) == 0 {
		return nil
	}
	return slices.MinFunc(candidates, func(a, b *lease) int { return cmp.Compare(a.speed(), b.speed()) })
}

// turnOver returns the slowest of all downloads that have had their turn, or nil if there is
// none or a namespace exceeds its share.
func (s *slots) turnOver(share int) (slowest *lease) {
	for _, leases := range s.running {
		stay := slices.DeleteFunc(slices.Clone(leases), func(l *lease) bool { return l.yields })
		if len(stay) > share {
			return nil // its downloads yield as soon as they have had their time
		}
		for _, l := range stay {
			had := l.cancel != nil && time.Since(l.since) >= healthyLease
			if had && (slowest == nil || l.speed() < slowest.speed()) {
				slowest = l
			}
		}
	}
	return slowest
}

// mayYield reports whether a download has had its time.
func (l *lease) mayYield() bool {
	age := time.Since(l.since)
	return l.cancel != nil && (age >= healthyLease || age >= shortestLease && l.speed() < healthySpeed)
}

// yielded reports whether the fetch has to end because its slot is wanted.
func (l *lease) yielded() bool { return l.ctx != nil && errors.Is(context.Cause(l.ctx), errYielded) }

// speed is how many bytes came in a second, on average.
func (l *lease) speed() float64 {
	return float64(l.bytes.Load()) / max(time.Since(l.since), time.Millisecond).Seconds()
}

// share is how many slots a namespace may have while another one waits: an equal part
// of all but the reserve. The caller
// holds the mutex, as for all methods below but giveUp.
func (s *slots) share() int {
	active := len(s.running)
	for namespace := range s.waiting {
		if s.running[namespace] == nil {
			active++
		}
	}
	return (s.size - s.reserved + active - 1) / max(active, 1) // rounded up
}

// admits reports whether a namespace may take a slot.
func (s *slots) admits(namespace string) bool {
	has := len(s.running[namespace])
	switch {
	case s.free == 0:
		return false
	case has == 0: // the reserve is for its first download
		return true
	case s.free <= s.reserved:
		return false
	}
	others := slices.ContainsFunc(s.turns, func(n string) bool { return n != namespace })
	return !others || has < s.share()
}

func (s *slots) take(namespace string) *lease {
	s.free--
	l := &lease{slots: s, namespace: namespace, since: time.Now()}
	s.running[namespace] = append(s.running[namespace], l)
	return l
}

// admit gives free slots to waiting downloads, round-robin over namespaces. Those without
// one come first.
func (s *slots) admit() {
	for {
		i := slices.IndexFunc(s.turns, func(n string) bool { return len(s.running[n]) == 0 && s.admits(n) })
		if i < 0 {
			i = slices.IndexFunc(s.turns, s.admits)
		}
		if i < 0 {
			return
		}
		namespace := s.turns[i]
		s.turns = slices.Delete(s.turns, i, i+1)
		s.waiting[namespace][0] <- s.take(namespace)
		s.dequeue(namespace, 0)
		if s.waiting[namespace] != nil { // its next turn is after all others
			s.turns = append(s.turns, namespace)
		}
	}
}

// giveUp ends the wait of a caller whose context has ended.
func (s *slots) giveUp(namespace string, admitted chan *lease) {
	s.mu.Lock()
	i := slices.Index(s.waiting[namespace], admitted)
	if i < 0 {
		// It was admitted in the same moment, and has a slot to give back.
		s.mu.Unlock()
		(<-admitted).release()
		return
	}
	defer s.mu.Unlock()
	s.dequeue(namespace, i)
	if s.waiting[namespace] == nil {
		s.turns = slices.DeleteFunc(s.turns, func(n string) bool { return n == namespace })
		s.admit() // the others share the slots without it
	}
}

// dequeue removes a waiting download from its namespace's queue.
func (s *slots) dequeue(namespace string, i int) {
	queue := slices.Delete(s.waiting[namespace], i, i+1)
	if len(queue) == 0 {
		delete(s.waiting, namespace)
		return
	}
	s.waiting[namespace] = queue
}
