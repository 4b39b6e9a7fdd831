// Package namespace decides how requests for a mirrored registry are answered: from the
// cache or from its upstream, and from the cache after all if the upstream fails.
//
// A [Table] is an immutable set of namespaces; [Current] holds the one in force,
// and each request loads it once. A [Namespace] is one mirrored registry: its
// upstreams, how long its tags stay fresh, which failures it answers from the
// cache. All namespaces share one [Cache], the state that outlives a change of
// configuration: the store and its catalog, the running downloads, the lookups
// under way, and the pool of background jobs.
//
// A request takes these steps, each in a file of its own:
//
//	table.go, route/    which namespace serves the name
//	manifest.go         is the manifest in the cache, and fresh? else ask once for all
//	lookup.go           one lookup for all that ask at once; remembered "not found"s
//	places.go           how many lookups run at once
//	possession.go       may this repository serve bytes that another one brought
//	proof.go            does the upstream have the bytes that another repository brought
//	lending.go          may the bytes of another namespace be used at all
//	behind.go           checks of tags behind their answers
//	tags.go             which manifest a tag names: the only writer of tags
//	store.go            keep a manifest
//	remove.go           take an image out of the cache
//	pins.go             keep an image from eviction
//	blob.go             join or start the download of a blob
//	listing.go          tags and referrers
//	rights.go           may this client have it, where the upstream decides
//	outcome.go          how the answer came about
//
// Background work stands in packages of its own: jobs, keepwarm. The package knows
// neither the syntax of the configuration nor HTTP handlers.
package namespace

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/bulk"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/namespace/route"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// OfflineError says that content is not cached and its namespace is offline.
type OfflineError struct {
	Content   string // such as "tag v1"
	Namespace string // its key
	Upstream  string // the host that would be asked first; empty if there is none
}

func (e *OfflineError) Error() string {
	return e.Content + ": not cached, and the namespace is offline"
}

// Spec describes a namespace. All of it is fixed once a table is made.
type Spec struct {
	// Key is the first path segments of the names that the namespace serves.
	Key string
	// Host is the value of the ns parameter that selects it; "" for none.
	Host string
	// Default is set if it serves every name that no other key matches.
	Default bool
	// Upstreams answers for the registry that the namespace mirrors: one
	// registry, or a chain of them.
	Upstreams oci.Registry
	// UpstreamHosts names the upstreams, for messages.
	UpstreamHosts []string
	// MayLeadToMirror reports whether an upstream may be another mirror; nil: none is.
	MayLeadToMirror func() bool
	// DockerHub is set if the namespace mirrors Docker Hub, where a name of one
	// segment is short for one below library/.
	DockerHub bool
	// Added is set if a page has added the namespace, so that it takes no names from others.
	Added bool

	// ImmutableTags is set if cached tags never move, except those that match one
	// of the exclusions (regexp2 syntax, unanchored).
	ImmutableTags           bool
	ImmutableTagsExclusions []string
	// TagTTL is how long a checked tag is served without asking again.
	TagTTL time.Duration
	// TagSWR is how much longer it is served at once, and checked behind the answer.
	TagSWR time.Duration
	// NegativeTTL is how long an upstream's "not found" is remembered.
	NegativeTTL time.Duration
	// ServeStaleOn are the failures that are answered from the cache, with tags
	// and lists that were checked no longer than MaxStale ago (0: no limit).
	ServeStaleOn []upstream.Class
	MaxStale     time.Duration
	// RecheckPossession is how long a repository's right to a blob holds before its
	// upstream is asked again; 0: for ever.
	RecheckPossession time.Duration
	// Unshared is set if content of the namespace is never used for another one.
	Unshared bool
	// Prefetch is set if the other layers of an image are downloaded when a client pulls one.
	Prefetch bool
	// Offline is set if upstreams are never contacted.
	Offline bool

	// OnBehalf is set if the rights of each client at the upstream decide what it may
	// pull. A verdict of the upstream holds for AuthCheckTTL and, while the upstream is
	// away, for AuthStaleGrace longer.
	OnBehalf       bool
	AuthCheckTTL   time.Duration
	AuthStaleGrace time.Duration
	// Grant exchanges a client's credential, and Place is what such a credential is for.
	// Both are set if OnBehalf is.
	Grant func(ctx context.Context, repo string) (upstream.Grant, error)
	Place upstream.Place

	// MaxManifest is the largest manifest, in bytes, that is read from the store;
	// 0 means [oci.DefaultMaxManifest]. The upstreams have the same limit.
	MaxManifest int64

	// Warm are the images to keep in the cache.
	Warm []keepwarm.Image
}

// Rule returns the names that the namespace serves.
func (s Spec) Rule() route.Rule {
	return route.Rule{Key: s.Key, Host: s.Host, Default: s.Default, DockerHub: s.DockerHub, Added: s.Added}
}

// Namespace is one mirrored registry. Its methods may be called concurrently.
type Namespace struct {
	spec   Spec
	space  string // that its repositories have in the cache
	cache  *Cache
	policy *tagPolicy
	places *places // of lookups
	logger *slog.Logger

	longFetched, longKept *bulk.Share // of the cache's places
}

func newNamespace(cache *Cache, spec Spec) (*Namespace, error) {
	logger := cache.logger.With("namespace", spec.Key)
	spec.MaxManifest = cmp.Or(spec.MaxManifest, oci.DefaultMaxManifest)
	policy, err := newTagPolicy(spec, logger)
	if err != nil {
		return nil, fmt.Errorf("namespace %q: %w", spec.Key, err)
	}
	return &Namespace{
		spec: spec, space: spec.space(), cache: cache, policy: policy, places: newPlaces(), logger: logger,
		longFetched: cache.longFetched.Share(1), longKept: cache.longKept.Share(1),
	}, nil
}

// Key returns the first segments of the names that the namespace serves. Metrics
// are labelled with it.
func (n *Namespace) Key() string { return n.spec.Key }

// Host returns the value of the ns parameter that selects the namespace, or "".
func (n *Namespace) Host() string { return n.spec.Host }

// OnBehalf reports whether the rights of each client at the upstream decide what it may pull.
// Then the context of each request needs the client's credential ([upstream.OnBehalf]).
func (n *Namespace) OnBehalf() bool { return n.spec.OnBehalf }

// Place returns what a client's credential is for, if OnBehalf.
func (n *Namespace) Place() upstream.Place { return n.spec.Place }

// Grant exchanges the client's credential of a context for a token of the upstream
// ([upstream.Client.Grant]).
func (n *Namespace) Grant(ctx context.Context, repo string) (upstream.Grant, error) {
	return n.spec.Grant(ctx, repo)
}

func (n *Namespace) offline(content string) *OfflineError {
	return &OfflineError{Content: content, Namespace: n.Key(), Upstream: n.FirstUpstream()}
}

// FirstUpstream returns the host of the upstream that is asked first.
func (n *Namespace) FirstUpstream() string {
	// Messages need a name, and the key is one.
	if len(n.spec.UpstreamHosts) == 0 {
		return n.spec.Key
	}
	return n.spec.UpstreamHosts[0]
}

// UpstreamHosts returns the hosts of the upstreams, in the order in which they are
// asked.
func (n *Namespace) UpstreamHosts() []string { return slices.Clone(n.spec.UpstreamHosts) }

// Repository returns the identity of one of the namespace's repositories in the cache.
func (n *Namespace) Repository(repo string) storage.RepoID { return n.repoID(repo) }

// repoID returns the identity of one of the namespace's repositories in the cache.
func (n *Namespace) repoID(repo string) storage.RepoID {
	return storage.RepoID{Namespace: n.space, Name: repo}
}

// space returns the namespace of the repositories of a block in the cache. Where the rights
// of clients decide, it is one of the upstream too: a right to what the block has from this
// upstream is none to what it had from another one, before a reload.
func (s Spec) space() string {
	if !s.OnBehalf {
		return s.Key
	}
	const enough = 8 // bytes, which tell the upstreams of one block apart
	sum := sha256.Sum256([]byte(s.Place.String()))
	return s.Key + "@" + hex.EncodeToString(sum[:enough])
}

// stale returns the outcome of an answer from the cache that stands in for an
// upstream's failure. It reports false if the namespace does not answer such a
// failure from the cache, or if the answer was checked too long ago.
func (n *Namespace) stale(ctx context.Context, repo storage.RepoID, kind proof, err error, checked time.Time) (o Outcome, ok bool) {
	class := upstream.ClassOf(upstream.Doubt(err))
	if !n.standsIn(ctx, repo, kind, upstream.Doubt(err)) {
		return Outcome{}, false
	}
	reason := fmt.Sprintf("%s is %s", n.FirstUpstream(), strings.ReplaceAll(class.String(), "_", " "))
	// Without a lookup nothing is known about the upstream, as if it were unavailable.
	_, busy := errors.AsType[*BusyError](err)
	if busy {
		class, reason = upstream.ClassUnavailable, "the mirror has too many lookups of "+n.Key()
	}
	if !slices.Contains(n.spec.ServeStaleOn, class) || n.tooOld(checked) {
		return Outcome{}, false
	}
	age := "at an unknown time" // the clock ran ahead at the last check
	if !checked.IsZero() {
		age = time.Since(checked).Round(time.Second).String() + " ago"
	}
	o = Outcome{Cache: Stale, Upstream: n.FirstUpstream(), Checked: checked, Failure: class, Warning: reason + "; served from the cache, last checked " + age}
	if busy {
		o.Failure = upstream.ClassOK
	}
	return o, true
}

// staleFor returns a function that reports whether an answer from the cache that was checked
// at a time stands in for a failure.
func (n *Namespace) staleFor(repo storage.RepoID, kind proof, checked time.Time) standIn {
	return func(ctx context.Context, failure error) bool {
		_, ok := n.stale(ctx, repo, kind, failure, checked)
		return ok
	}
}

// tooOld reports whether a tag or list that was checked at a time is no longer
// served when an upstream fails.
func (n *Namespace) tooOld(checked time.Time) bool {
	return n.spec.MaxStale > 0 && time.Since(checked) > n.spec.MaxStale
}
