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
	StateFailing State = "failing"  // it cannot be reached, or delivered corrupt content
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
	latency atomic.Uint64 // bits of a float64, in seconds; 0: there was no answer
	limit   atomic.Pointer[rateLimit]
}

// rateLimit is the state of a rate limit, as a registry reported it.
type rateLimit struct{ limit, remaining int }

// latencyWeight is the share of the last request in the latency: some dozen requests tell how it is now.
const latencyWeight = 0.1

func (t *tally) request(class Class, took time.Duration) {
	t.classes[class].Add(1)
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
	case state != stateAvailable:
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
