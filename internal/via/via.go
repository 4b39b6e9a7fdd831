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
package via

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// MaxTrail is the number of mirrors that a request may pass. Real fleets have two or
// three tiers; a longer trail is a loop through mirrors whose IDs get lost, such as
// those that restart all the time.
const MaxTrail = 8

// ID names one process, such as weir-9f86d081884c7d65.
type ID string

// idPattern has no dots, so that a proxy's host such as weir-proxy.example.com is no
// mirror's ID.
var idPattern = regexp.MustCompile(`^weir-[0-9a-z]+$`)

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
