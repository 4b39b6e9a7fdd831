package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/flight"
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
)

// lookupKey identifies a lookup of a manifest or a blob. Keys are compared as
// they are and never printed: printed, the repositories {ghcr.io/acme, app} and
// {ghcr.io, acme/app} are the same.
type lookupKey struct {
	repo storage.RepoID
	op   operation
	ref  oci.Reference
}

// negative returns the key under which a "not found" is remembered. A HEAD's
// counts for a GET, too.
func (k lookupKey) negative() lookupKey {
	if k.op != statBlob {
		k.op = getManifest
	}
	return k
}

// listKey identifies a lookup of a list: the tags of a query, or the referrers of
// a digest.
type listKey struct {
	repo storage.RepoID
	kind listKind
	name string
}

// share runs one lookup for all callers with the same key. The lookup is detached
// from its callers: one caller's cancellation does not fail the others. led
// reports whether this caller's request made it run. The lookup belongs to the
// trace of that request; the spans of the others link to it.
func share[K comparable, V any](ctx context.Context, lookups *flight.Group[K, V], key K, lookup func(context.Context) (V, error)) (value V, led bool, err error) {
	answer, err := lookups.Do(ctx, key, lookup)
	if failure, ok := errors.AsType[*flight.PanicError](err); ok {
		err = fmt.Errorf("a lookup panicked. This is a bug of the mirror, please report it: %w", failure)
	}
	// The upstream's requests are spans of another client's trace.
	if !answer.Led && answer.Leader != nil {
		if leader := trace.SpanContextFromContext(answer.Leader); leader.IsSampled() {
			trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: leader})
		}
	}
	return answer.Value, answer.Led, err
}

// negative is a definite "not found" of an upstream: a registry's word to a GET.
type negative struct {
	err   error
	until time.Time
}

// negativeHit returns the remembered "not found" of a lookup, or nil.
func (c *Cache) negativeHit(key lookupKey) error {
	if r, ok := c.negatives.Get(key.negative()); ok && time.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// rememberNegative keeps a "not found" for as long as the namespace says. Other
// errors, and nil, are not remembered: the next request may succeed.
func (n *Namespace) rememberNegative(key lookupKey, err error) {
	if errors.Is(upstream.Doubt(err), upstream.ErrNotFound) && n.spec.NegativeTTL > 0 {
		n.cache.negatives.Add(key.negative(), negative{err, time.Now().Add(n.spec.NegativeTTL)})
	}
}
