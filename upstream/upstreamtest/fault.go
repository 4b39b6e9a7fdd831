package upstreamtest

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"github.com/weirhq/weir/internal/notify"
)

// Match selects the requests that a fault affects.
type Match func(*http.Request) bool

// Any matches all requests to all servers.
func Any(*http.Request) bool { return true }

// Blobs matches the registry's blobs, Manifests its manifests, and so on.
func Blobs(r *http.Request) bool     { return isV2(r) && strings.Contains(r.URL.Path, "/blobs/") }
func Manifests(r *http.Request) bool { return isV2(r) && strings.Contains(r.URL.Path, "/manifests/") }
func Tags(r *http.Request) bool      { return isV2(r) && strings.HasSuffix(r.URL.Path, "/tags/list") }
func Referrers(r *http.Request) bool { return isV2(r) && strings.Contains(r.URL.Path, "/referrers/") }

// Tokens matches requests to the token service.
func Tokens(r *http.Request) bool { return r.URL.Path == "/token" }

// CDNBlobs matches requests to the CDN.
func CDNBlobs(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/cdn/") }

// Method matches by method, Path by a part of the path.
func Method(method string) Match { return func(r *http.Request) bool { return r.Method == method } }
func Path(part string) Match {
	return func(r *http.Request) bool { return strings.Contains(r.URL.Path, part) }
}

// All matches the requests that all of the given matches select.
func All(matches ...Match) Match {
	return func(r *http.Request) bool {
		for _, match := range matches {
			if !match(r) {
				return false
			}
		}
		return true
	}
}

func isV2(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2/") }

// Fault is a misbehaviour that a test has set.
type Fault struct {
	registry *Registry
	match    Match
	effects  []Effect
	times    int // -1: without end
	hits     int
}

// Fault makes the answers to matching requests misbehave, until Times or Remove
// ends it. If several faults match a request, all of them have their effects.
func (r *Registry) Fault(match Match, effects ...Effect) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &Fault{registry: r, match: match, effects: effects, times: -1}
	r.faults = append(r.faults, f)
	return f
}

// Times limits the fault to the next n requests that match.
func (f *Fault) Times(n int) *Fault {
	f.registry.mu.Lock()
	defer f.registry.mu.Unlock()
	f.times = f.hits + n
	return f
}

// Remove ends the fault.
func (f *Fault) Remove() { f.Times(0) }

// Hits returns the number of requests that the fault affected.
func (f *Fault) Hits() int {
	f.registry.mu.Lock()
	defer f.registry.mu.Unlock()
	return f.hits
}

// ClearFaults ends all faults.
func (r *Registry) ClearFaults() {
	r.openGates()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// plan returns how a request is to be answered.
func (r *Registry) plan(req *http.Request) *plan {
	p := newPlan()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults {
		if (f.times < 0 || f.hits < f.times) && f.match(req) {
			f.hits++
			for _, effect := range f.effects {
				effect(p)
			}
		}
	}
	return p
}

// openGates lets all held requests go on, so that the servers can stop.
func (r *Registry) openGates() {
	r.mu.Lock()
	faults := r.faults
	r.mu.Unlock()
	for _, f := range faults {
		p := newPlan()
		for _, effect := range f.effects {
			effect(p)
		}
		for _, gate := range append(p.before, p.stall) {
			if gate != nil {
				gate.Open()
			}
		}
	}
}

// plan is the answer to one request as its faults change it.
type plan struct {
	before  []*Gate // to pass before the answer
	drop    bool    // break the connection before the answer
	status  int     // answer this; 0: as usual
	body    string
	headers []header

	ignoreRange bool
	chunked     bool
	stall       *Gate
	drip        int64 // bytes each second; 0: all at once
	stallAfter  int64 // the numbers are -1 without such a fault
	cutAfter    int64
	cutEvery    int64
	truncate    int64
	corrupt     int64
}

type header struct{ name, value string } // value "": remove

func newPlan() *plan {
	return &plan{stallAfter: -1, cutAfter: -1, cutEvery: -1, truncate: -1, corrupt: -1}
}

// Effect is one way to misbehave.
type Effect func(*plan)

// Status answers with a status and a body in place of everything else.
func Status(status int, body string) Effect {
	return func(p *plan) { p.status, p.body = status, body }
}

// Header sets a header of the answer, or with an empty value removes it.
func Header(name, value string) Effect {
	return func(p *plan) { p.headers = append(p.headers, header{name, value}) }
}

// OmitDigest leaves Docker-Content-Digest out.
func OmitDigest() Effect { return Header("Docker-Content-Digest", "") }

// Drop breaks the connection in place of an answer.
func Drop() Effect { return func(p *plan) { p.drop = true } }

// Hold makes the request wait at the gate before it is answered.
func Hold(gate *Gate) Effect { return func(p *plan) { p.before = append(p.before, gate) } }

// CutAfter breaks the connection after n bytes of the answer's body.
func CutAfter(n int64) Effect { return func(p *plan) { p.cutAfter = n } }

// CutEvery breaks the connection at the next offset in the content that is a
// multiple of n, also in the answer to a Range.
func CutEvery(n int64) Effect { return func(p *plan) { p.cutEvery = n } }

// StallAfter sends n bytes of the answer's body and then waits at the gate.
func StallAfter(n int64, gate *Gate) Effect {
	return func(p *plan) { p.stallAfter, p.stall = n, gate }
}

// Drip sends n bytes of the answer's body each second.
func Drip(n int64) Effect { return func(p *plan) { p.drip = n } }

// Truncate answers as if the content had only its first n bytes, cleanly.
func Truncate(n int64) Effect { return func(p *plan) { p.truncate = n } }

// Corrupt flips the bits of the byte at offset n of the content.
func Corrupt(n int64) Effect { return func(p *plan) { p.corrupt = n } }

// Chunked leaves Content-Length out, also of the answer to a HEAD.
func Chunked() Effect { return func(p *plan) { p.chunked = true } }

// IgnoreRange answers with the whole content.
func IgnoreRange() Effect { return func(p *plan) { p.ignoreRange = true } }

// Gate stops requests until it is opened.
type Gate struct {
	once    sync.Once
	opened  chan struct{}
	arrival notify.Broadcast

	mu      sync.Mutex
	arrived int
}

// NewGate returns a closed gate.
func NewGate() *Gate { return &Gate{opened: make(chan struct{})} }

// Open lets all requests pass, now and later.
func (g *Gate) Open() { g.once.Do(func() { close(g.opened) }) }

// Arrived waits until n requests in all have come to the gate, or ctx is done.
func (g *Gate) Arrived(ctx context.Context, n int) error {
	for {
		g.mu.Lock()
		arrived, changed := g.arrived, g.arrival.Wait()
		g.mu.Unlock()
		if arrived >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pass waits at the gate, and reports false if the client left before it opened.
func (g *Gate) pass(ctx context.Context) bool {
	g.mu.Lock()
	g.arrived++
	g.mu.Unlock()
	g.arrival.Notify()
	select {
	case <-g.opened:
		return true
	case <-ctx.Done():
		return false
	}
}
