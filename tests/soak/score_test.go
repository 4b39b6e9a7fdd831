package soak

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// score counts the answers that the clients see.
type score struct {
	pulls      atomic.Int64 // that came to their end
	givenUp    atomic.Int64 // pulls that did not, in spite of all tries
	inLight    atomic.Int64 // those of them during which the mirror and an upstream were well all the time
	served     atomic.Int64 // bytes of bodies
	answers    atomic.Int64
	hits       atomic.Int64 // answers from the cache
	stale      atomic.Int64 // answers from the cache because upstreams failed
	resumed    atomic.Int64 // bodies that went on after a cut
	left       atomic.Int64 // bodies that their client did not want any more
	slow       atomic.Int64 // clients that did not send their header and were cut
	redirected atomic.Int64 // requests that went to the bucket
	elsewhere  atomic.Int64 // bytes of bodies that came from there
	unverified atomic.Int64 // parts with wrong bytes, not taken for whole by anybody

	mu         sync.Mutex
	failures   map[failure]int
	lit        map[failure]int // those while the mirror and an upstream were well
	violations []string
	reasons    []string // the mirror's reasons for some of the lit ones
}

// shownReasons is how many reasons are kept.
const shownReasons = 6

func newScore() *score {
	return &score{failures: make(map[failure]int), lit: make(map[failure]int)}
}

// answered counts by the Cache-Status of an answer (RFC 9211).
func (s *score) answered(header http.Header) {
	s.answers.Add(1)
	status := header.Get("Cache-Status")
	if strings.HasPrefix(status, "weir; hit") {
		s.hits.Add(1)
	}
	if strings.Contains(status, "detail=stale") {
		s.stale.Add(1)
	}
}

// failed counts a failure, which may be none.
func (s *score) failed(f failure, light bool) {
	if f == fine || f == over || f == unexpected {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[f]++
	if light {
		s.lit[f]++
	}
}

// explained notes the mirror's reason for a failure that it had while it and an
// upstream were well. The report shows some of them.
func (s *score) explained(label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reasons) < shownReasons {
		s.reasons = append(s.reasons, label)
	}
}

// violated notes an answer that must not happen.
func (s *score) violated(label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, label)
}

// counts returns how often each failure was seen, and in how many of the cases
// the mirror and an upstream were well.
func (s *score) counts() (all, lit map[failure]int, violations, reasons []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.failures), maps.Clone(s.lit), slices.Clone(s.violations), slices.Clone(s.reasons)
}
