package upstream

import (
	"math"
	"sync/atomic"
	"time"
)

// State is how a registry is, for people.
type State string

const (
	StateOK      State = "ok"
	StateUnknown State = "unknown"  // it has not answered yet
	StateLimited State = "cooldown" // it answered an operation with 429
	StateFailing State = "failing"  // it cannot be reached, delivered corrupt content, or only fails
)

// Status is what a client knows about its registry.
type Status struct {
	Host  string
	State State
	Until time.Time // of the cooldown; the zero time if there is none
	// Limit and Remaining are the rate limit that the registry last reported; false if it reported none.
	Limit, Remaining int
	HasLimit         bool
	Requests         int64 // since the client was made
	Errors           map[Class]int64
	Latency          time.Duration // to the headers of an answer, recently; 0: there was none
}

// tally counts the requests of one client.
type tally struct {
	classes [classes]atomic.Int64
	broken  atomic.Int64  // requests with ClassUnavailable since the last other one
	strange atomic.Int64  // answers that were not manifests, since the last one that was
	latency atomic.Uint64 // bits of a float64, in seconds; 0: there was no answer
	limit   atomic.Pointer[rateLimit]
}

// rateLimit is the state of a rate limit, as a registry reported it.
type rateLimit struct{ limit, remaining int }

// latencyWeight is the share of the last request in the latency: some dozen requests tell how it is now.
const latencyWeight = 0.1

// brokenThreshold is how many requests in a row must fail with ClassUnavailable, or get something else
// in place of a manifest, before a registry counts as failing. One that drops a request now and then
// does not.
const brokenThreshold = 3

func (t *tally) request(class Class, took time.Duration) {
	t.classes[class].Add(1)
	inARow(&t.broken, class == ClassUnavailable)
	if class != ClassOK {
		return // a timeout says nothing about the answers
	}
	for {
		before := t.latency.Load()
		next := took.Seconds()
		if before != 0 {
			next = next*latencyWeight + math.Float64frombits(before)*(1-latencyWeight)
		}
		if t.latency.CompareAndSwap(before, math.Float64bits(next)) {
			return
		}
	}
}

// inARow counts one more if it is so, and else starts from zero. Most requests find that and write nothing.
func inARow(n *atomic.Int64, so bool) {
	if so {
		n.Add(1)
	} else if n.Load() != 0 {
		n.Store(0)
	}
}

// Status returns what the client knows about its registry.
func (c *Client) Status() Status {
	now := time.Now()
	state, left := c.cooldown.status(now)
	s := Status{Host: c.host, State: StateOK, Errors: make(map[Class]int64)}
	for class := range c.tally.classes {
		n := c.tally.classes[class].Load()
		s.Requests += n
		if n > 0 && Class(class) != ClassOK {
			s.Errors[Class(class)] = n
		}
	}
	switch {
	case state == stateLimited:
		s.State = StateLimited
	case state != stateAvailable, max(c.tally.broken.Load(), c.tally.strange.Load()) >= brokenThreshold:
		s.State = StateFailing
	case s.Requests == 0:
		s.State = StateUnknown
	}
	for _, one := range left {
		if one > 0 && now.Add(one).After(s.Until) {
			s.Until = now.Add(one)
		}
	}
	if limit := c.tally.limit.Load(); limit != nil {
		s.Limit, s.Remaining, s.HasLimit = limit.limit, limit.remaining, true
	}
	s.Latency = time.Duration(math.Float64frombits(c.tally.latency.Load()) * float64(time.Second))
	return s
}
