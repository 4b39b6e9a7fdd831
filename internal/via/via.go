// Package via recognizes requests that come back to the mirror that sent them.
//
// Each process has an [ID]. It adds the ID to the headers Via (RFC 9110 section
// 7.6.3) and CDN-Loop (RFC 8586) of its requests to upstreams, behind the IDs of the
// mirrors that the client's request has passed. A process that finds its own ID in a
// request knows that one of its upstreams leads back to it.
//
//	client -> A -> B -> A
//	          |    |    Via: 1.1 weir-a, 1.1 weir-b
//	          |    Via: 1.1 weir-a
//	          no Via
//
// Requests that share one lookup hide a loop: while a lookup of A waits for B, and one
// of B for A, each may be joined by the other's request, and none comes back to its
// sender. [ID.MayWait] rules that out.
package via

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
)

// MaxTrail is the number of mirrors that a request may pass. Real fleets have two or
// three tiers; a longer trail is a loop through mirrors whose IDs get lost, such as
// those that restart all the time.
const MaxTrail = 8

// ID names one process, such as weir-9f86d081884c7d65.
type ID string

// idPattern has no dots, so that a proxy's host such as weir-proxy.example.com is no
// mirror's ID. Its length is bounded, since IDs go upstream: a registry refuses a long
// header, and that answer is one for all clients that share the lookup.
var idPattern = regexp.MustCompile(`^weir-[0-9a-z]{1,32}$`)

// NewID returns a random ID.
func NewID() ID {
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	return ID("weir-" + hex.EncodeToString(random[:]))
}

// Trail holds the IDs of the mirrors that a request has passed, the first one first.
type Trail []ID

// Read returns the trail of a request. A proxy between two mirrors may drop one of
// the two headers, so both count.
func Read(header http.Header) Trail {
	if header["Via"] == nil && header["Cdn-Loop"] == nil {
		return nil // of a client, nearly always
	}
	var trail Trail
	for element := range elements(header["Via"]) {
		// Of "HTTP/1.1 weir-1 (comment)" the second word is the host.
		if words := strings.Fields(element); len(words) > 1 {
			trail = trail.with(words[1])
		}
	}
	beforeLoop := trail
	for element := range elements(header["Cdn-Loop"]) {
		name, _, _ := strings.Cut(element, ";") // parameters follow
		if name = strings.TrimSpace(name); !slices.Contains(beforeLoop, ID(strings.ToLower(name))) {
			trail = trail.with(name)
		}
	}
	return trail
}

// with returns the trail with a host at its end if the host is a mirror's ID. Proxies
// may change the case of a host.
func (t Trail) with(host string) Trail {
	if host = strings.ToLower(host); idPattern.MatchString(host) {
		return append(t, ID(host))
	}
	return t
}

// elements yields the elements of a header that is a list.
func elements(values []string) func(func(string) bool) {
	return strings.SplitSeq(strings.Join(values, ","), ",")
}

// MayWait reports whether a request with this trail may wait for work that another
// request has begun in the process, if that work may wait for another mirror. The
// processes in a circle of waiting would each have a greater ID than the one before,
// so there is none.
func (id ID) MayWait(trail Trail) bool {
	return !slices.ContainsFunc(trail, func(passed ID) bool { return passed >= id })
}

// Name adds the ID to the header of an answer (RFC 9110 section 7.6.3), so that a
// mirror knows that it has asked another one. An empty ID adds nothing.
func (id ID) Name(header http.Header) {
	if id != "" {
		header.Set("Via", "1.1 "+string(id))
	}
}

// IsMirror reports whether an answer comes from a mirror, or through one.
func IsMirror(answer http.Header) bool { return len(Read(http.Header{"Via": answer["Via"]})) > 0 }

type key struct{}

// With returns a context for the work that a request with this trail causes.
func With(ctx context.Context, trail Trail) context.Context {
	return context.WithValue(ctx, key{}, trail)
}

// From returns the trail of the request that the context's work is done for.
func From(ctx context.Context) Trail {
	trail, _ := ctx.Value(key{}).(Trail)
	return trail
}

type watchKey struct{}

// watch is that of a context, within the one of an outer context, if that has one.
type watch struct {
	found atomic.Bool
	outer *watch
}

// Watch returns a context for requests. [Looped] reports whether one of them was found to
// be in a loop, although another one may have succeeded.
func Watch(ctx context.Context) context.Context {
	outer, _ := ctx.Value(watchKey{}).(*watch)
	return context.WithValue(ctx, watchKey{}, &watch{outer: outer})
}

// Looped reports whether a request of the context's [Watch] was found to be in a loop.
func Looped(ctx context.Context) bool {
	w, ok := ctx.Value(watchKey{}).(*watch)
	return ok && w.found.Load()
}

// NoteLoop informs the context's Watch, if there is one, and all outer ones of a loop.
func NoteLoop(ctx context.Context) {
	w, _ := ctx.Value(watchKey{}).(*watch)
	for ; w != nil; w = w.outer {
		w.found.Store(true)
	}
}

// Mark sets the headers of a request to an upstream: the trail of the context, then
// the ID. An empty ID sets nothing.
func (id ID) Mark(ctx context.Context, header http.Header) {
	if id == "" {
		return
	}
	var via, loop []string
	for _, passed := range append(slices.Clone(From(ctx)), id) {
		via, loop = append(via, "1.1 "+string(passed)), append(loop, string(passed))
	}
	header.Set("Via", strings.Join(via, ", "))
	header.Set("CDN-Loop", strings.Join(loop, ", "))
}
