// Package episode groups failures that come and go: a nearly full disk refuses one
// layer and takes the next one. An [Episode] is such a group, so that the log has one
// line for its start and one for its end.
package episode

import (
	"sync"
	"time"
)

const (
	// relapse is how soon after its end, in times of calm, an episode that comes back
	// has to show more calm than the last one.
	relapse = 10
	// longest bounds the calm that ends an episode which keeps coming back.
	longest = 15 * time.Minute
)

// Episode is one kind of failure. It is over after a time of calm. If it comes back
// soon after that, the next calm has to last twice as long.
type Episode struct {
	calm time.Duration
	over func()

	mu      sync.Mutex
	phase   phase
	needed  time.Duration // calm that ends the episode
	spell   int           // number of the last calm that began
	timer   *time.Timer   // of that calm
	endedAt time.Time     // of the last episode
}

// phase is the state of an episode:
//
//	absent --Bad--> present --Good--> waning --calm--> absent
//	                   ^                 |
//	                   +-------Bad-------+
type phase int

const (
	absent phase = iota
	present
	waning
)

// New returns an Episode that is absent. It calls over, in a goroutine of its own,
// when an episode has ended.
func New(calm time.Duration, over func()) *Episode { return &Episode{calm: calm, over: over} }

// Bad notes a failure, and reports whether an episode begins with it.
func (e *Episode) Bad() (begins bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.phase
	e.phase = present
	if before == waning {
		e.timer.Stop()
	}
	if before != absent {
		return false
	}
	if !e.endedAt.IsZero() && time.Since(e.endedAt) < relapse*e.needed {
		e.needed = min(2*e.needed, max(longest, e.calm))
	} else {
		e.needed = e.calm
	}
	return true
}

// Good notes a success. The episode is over if no failure follows it for a while.
func (e *Episode) Good() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase != present {
		return
	}
	e.phase = waning
	e.spell++
	spell := e.spell
	e.timer = time.AfterFunc(e.needed, func() {
		if e.end(spell) {
			e.over()
		}
	})
}

// end ends the episode, unless a failure has come in between.
func (e *Episode) end(spell int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase != waning || e.spell != spell {
		return false
	}
	e.phase, e.endedAt = absent, time.Now()
	return true
}
