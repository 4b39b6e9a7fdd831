package soak

import (
	"sync"
	"time"
)

// weather is the record of faults and their times. A failure that a client sees
// is judged by it: there must be none, or hardly any, while the mirror and one
// upstream are well.
type weather struct {
	mu        sync.Mutex
	mirror    int    // troubles that keep the mirror from answering
	upstreams []int  // troubles of each upstream
	dark      []span // when the mirror or all upstreams were in trouble
}

// span is a stretch of time. Its end is zero while it lasts.
type span struct{ from, to time.Time }

func newWeather(upstreams int) *weather { return &weather{upstreams: make([]int, upstreams)} }

// mirrorFails says that the mirror is about to be down, until the returned
// function is called.
func (w *weather) mirrorFails() (mended func()) { return w.fails(&w.mirror) }

// upstreamFails is mirrorFails for one upstream. One that is slow does not fail.
func (w *weather) upstreamFails(i int) (mended func()) { return w.fails(&w.upstreams[i]) }

func (w *weather) fails(troubles *int) (mended func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*troubles++
	w.note()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		*troubles--
		w.note()
	}
}

// note begins or ends a dark span. It is called with mu held.
func (w *weather) note() {
	dark := true
	for _, troubles := range w.upstreams {
		dark = dark && troubles > 0
	}
	dark = dark || w.mirror > 0
	last := len(w.dark) - 1
	lasts := last >= 0 && w.dark[last].to.IsZero()
	switch {
	case dark && !lasts:
		w.dark = append(w.dark, span{from: time.Now()})
	case !dark && lasts:
		w.dark[last].to = time.Now()
	}
}

// wasDark reports whether, at any time since from, the mirror or all upstreams
// were in trouble.
func (w *weather) wasDark(from time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.dark) == 0 {
		return false
	}
	last := w.dark[len(w.dark)-1]
	return last.to.IsZero() || last.to.After(from)
}

// darkness is how long it was dark altogether.
func (w *weather) darkness() (sum time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.dark {
		if s.to.IsZero() {
			s.to = time.Now()
		}
		sum += s.to.Sub(s.from)
	}
	return sum
}
