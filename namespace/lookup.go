package namespace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/bulk"
	"github.com/weirhq/weir/internal/flight"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// operation is the kind of a lookup.
type operation uint8

const (
	getManifest     operation = iota
	headManifest              // stores nothing, unless the upstream's HEAD says too little
	refetchManifest           // after the stored manifest could not be read
	statBlob
	proveBegun  // of a blob that another repository is downloading
	proveWhole  // of a blob that is stored
	recheckBlob // of a blob whose link is old
	findLoop    // of a blob, before its download is joined
	// Of a client's right:
	proveByManifest
	proveByBlob
)

// lookupKey identifies a lookup of a manifest or a blob. Keys are compared as
// they are and never printed: printed, the repositories {ghcr.io/acme, app} and
// {ghcr.io, acme/app} are the same.
type lookupKey struct {
	repo storage.RepoID
	op   operation
	ref  oci.Reference // with the further media types of the question
}

// negative returns the key under which a "not found" is remembered. A HEAD's
// counts for a GET, too.
func (k lookupKey) negative() lookupKey {
	if k.op != statBlob && k.op != recheckBlob {
		k.op = getManifest
	}
	return k
}

func (k lookupKey) about() (repo storage.RepoID, reference string) {
	if k.ref.IsTag() {
		return k.repo, k.ref.Tag()
	}
	return k.repo, k.ref.Digest().String()
}

// listKey identifies a lookup of a list: the tags of a query, or the referrers of
// a digest.
type listKey struct {
	repo storage.RepoID
	kind listKind
	name string
}

func (k listKey) about() (repo storage.RepoID, reference string) {
	if k.kind == referrerList {
		reference, _, _ = strings.Cut(k.name, "?") // the digest
	}
	return k.repo, reference
}

// lookupID is the key of a lookup. It names the content that the lookup is about.
type lookupID interface {
	comparable
	about() (repo storage.RepoID, reference string)
}

// shared is the key of a lookup for all callers that may wait for each other.
type shared[K lookupID] struct {
	key   K
	trail string // of requests that wait for none of another trail; else ""
	// The ID of the client's credential, if the lookup is made with it; else "".
	client string
}

// apart returns the trail of a request that must not wait for a lookup or a download
// of other requests, and "" for one that may: it comes from a client, no upstream is
// another mirror, or the order of the mirrors' IDs allows it ([via.ID.MayWait]). Two
// mirrors whose upstreams lead to each other would wait for each other otherwise.
func (n *Namespace) apart(ctx context.Context) string {
	trail := via.From(ctx)
	if len(trail) == 0 || n.spec.MayLeadToMirror == nil || !n.spec.MayLeadToMirror() || n.cache.id.MayWait(trail) {
		return ""
	}
	return fmt.Sprint(trail)
}

// standIn reports whether the cache has an answer in place of a failure of the upstream.
type standIn func(ctx context.Context, failure error) bool

// share runs one lookup for all callers with the same key, but apart from those that
// must not wait for it. The lookup is detached
// from its callers: one caller's cancellation does not fail the others. led
// reports whether this caller's request made it run. The lookup belongs to the
// trace of that request; the spans of the others link to it.
//
// standIn reports whether the cache has an answer in place of a failure of the upstream; nil
// means that it has none. With such an answer a caller does not wait while the upstream is
// asked again: share returns the first failure, and the lookup goes on without the caller.
//
// A lookup waits for a place of its namespace, and share returns a *BusyError if there is
// none in time: soon if standIn says that the cache has an answer.
func share[K lookupID, V any](ctx context.Context, n *Namespace, lookups *flight.Group[shared[K], V], key K, standIn standIn, lookup func(context.Context) (V, error)) (value V, led bool, err error) {
	asked := askedBy(ctx, n, key)
	terms := flight.Terms{Admit: n.admit(standIn)}
	if standIn != nil {
		terms.Heed = func(setback error) bool { return standIn(ctx, setback) }
	}
	lookup = bulk.Within(n.longFetched, lookup)
	run := func(ctx context.Context, setback func(error)) (V, error) {
		limited, cancel := context.WithTimeout(ctx, maxLookupTime)
		defer cancel()
		if standIn != nil {
			limited = upstream.OnSetback(limited, setback)
		}
		value, err := lookup(limited)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			repo, reference := key.about()
			err = upstream.NewTooSlow(n.FirstUpstream(), repo.Name, reference)
		}
		return value, err
	}
	if len(via.From(ctx)) > 0 {
		ctx = via.Watch(ctx)
	}
	answer, err := lookups.DoOn(ctx, asked, terms, run)
	if inLoopOfAnother(ctx, answer) {
		asked.trail = fmt.Sprint("only ", via.From(ctx))
		answer, err = lookups.DoOn(ctx, asked, terms, run)
	}
	return answer.Value, answer.Led, outcome(ctx, answer, err)
}

// join is share for a caller that need not start a lookup. It reports false if none that
// serves the caller is under way. It allocates nothing, and standIn does not outlive it.
func join[K lookupID, V any](ctx context.Context, n *Namespace, lookups *flight.Group[shared[K], V], key K, standIn standIn) (value V, ok bool, err error) {
	answer, ok, err := lookups.Join(ctx, askedBy(ctx, n, key), func(setback error) bool { return standIn(ctx, setback) })
	if !ok || inLoopOfAnother(ctx, answer) {
		return value, false, nil
	}
	return answer.Value, true, outcome(ctx, answer, err)
}

// askedBy returns the key of a lookup for one of its callers.
func askedBy[K lookupID](ctx context.Context, n *Namespace, key K) shared[K] {
	return shared[K]{key, n.apart(ctx), upstream.ClientOf(ctx)}
}

// admit returns a function that waits for a place for a lookup.
func (n *Namespace) admit(standIn standIn) flight.Admit {
	ifBusy := func(ctx context.Context) bool { return standIn != nil && standIn(ctx, n.busy()) }
	return func(ctx context.Context) (release func(), err error) {
		if ok, err := n.places.acquire(ctx, ifBusy); !ok {
			return nil, cmp.Or(err, error(n.busy()))
		}
		return n.places.release, nil
	}
}

// inLoopOfAnother reports whether another client's request began a lookup and had passed a
// mirror that it was sent to again, or only claimed that. The caller's has not, and joins none
// but its like.
func inLoopOfAnother[V any](ctx context.Context, answer flight.Result[V]) bool {
	return !answer.Led && answer.Leader != nil && via.Looped(answer.Leader) && !slices.Equal(via.From(answer.Leader), via.From(ctx))
}

// outcome returns the error of a lookup for one of its callers, and links the caller's span
// to the lookup.
func outcome[V any](ctx context.Context, answer flight.Result[V], err error) error {
	// The upstream's requests are spans of another client's trace.
	if !answer.Led && answer.Leader != nil {
		if leader := trace.SpanContextFromContext(answer.Leader); leader.IsSampled() {
			trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: leader})
		}
	}
	if failure, ok := errors.AsType[*flight.PanicError](err); ok {
		return fmt.Errorf("a lookup panicked. This is a bug in the mirror. Please report it: %w", failure)
	}
	return err
}

// negative is a definite "not found" of an upstream: a registry's word to a GET.
type negative struct {
	err   error
	words int // the length of the error's text
	until time.Time
}

// size returns the memory of the strings of an entry of the cache. The words of an
// error are bounded, and those of a chain's members add up.
func (n negative) size(key negativeKey) int {
	return len(key.client) + len(key.repo.Namespace) + len(key.repo.Name) + key.ref.Size() + n.words
}

// negativeKey identifies a remembered "not found". Some registries hide content in this way
// from clients without a right to it, so it is that of one credential.
type negativeKey struct {
	lookupKey
	client string
}

// negativeHit returns the remembered "not found" of a lookup, or nil.
func (c *Cache) negativeHit(ctx context.Context, key lookupKey) error {
	if r, ok := c.negatives.Get(negativeKey{key.negative(), upstream.ClientOf(ctx)}); ok && time.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// rememberNegative keeps a "not found" for as long as the namespace says. Other
// errors, and nil, are not remembered: the next request may succeed.
func (n *Namespace) rememberNegative(ctx context.Context, key lookupKey, err error) {
	if errors.Is(upstream.Doubt(err), upstream.ErrNotFound) && n.spec.NegativeTTL > 0 {
		n.cache.negatives.Add(negativeKey{key.negative(), upstream.ClientOf(ctx)}, negative{err, len(err.Error()), time.Now().Add(n.spec.NegativeTTL - ageOf(err))})
	}
}
