// Package namespace decides what a mirrored registry means: which configured
// block answers a name, what of it is served from the cache, when an upstream
// is asked, and what is served when that fails.
//
// A [Table] is an immutable set of namespaces; [Live] holds the one in force,
// and each request loads it once. A [Namespace] is one block: its upstreams,
// its tag policy, its manner of failing. All namespaces share one [Cache], the
// state that outlives a change of configuration: the store and its catalog,
// the running downloads, the lookups under way, and the pool of background jobs.
//
// The package knows neither the configuration's syntax nor HTTP handlers.
package namespace

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/namespace/route"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// ErrOffline says that content is not cached and its namespace is offline.
var ErrOffline = errors.New("not cached, and the namespace is offline")

// Spec describes a namespace. All of it is fixed once a table is made.
type Spec struct {
	// Key is the first path segments of the names that the namespace serves.
	Key string
	// Host is the value of the ns parameter that selects it; "" for none.
	Host string
	// Default is whether it serves every name that no other key matches.
	Default bool
	// Upstreams answers for the registry that the namespace mirrors: one
	// registry, or a chain of them.
	Upstreams oci.Registry
	// UpstreamHosts names the upstreams, for messages.
	UpstreamHosts []string
	// DockerHub is whether one of the upstreams is Docker Hub, where a name of
	// one segment is short for one below library/.
	DockerHub bool

	// ImmutableTags is whether tags never move once they are cached, but for
	// those that match one of the exclusions (regexp2 syntax, unanchored).
	ImmutableTags           bool
	ImmutableTagsExclusions []string
	// TagTTL is how long a checked tag is served without asking again.
	TagTTL time.Duration
	// NegativeTTL is how long an upstream's "not found" is remembered.
	NegativeTTL time.Duration
	// ServeStaleOn are the failures that are answered from the cache, with
	// what was checked no longer than MaxStale ago (0: no limit).
	ServeStaleOn []upstream.Class
	MaxStale     time.Duration
	// Offline is whether upstreams are never contacted.
	Offline bool

	// MaxManifest is the largest manifest, in bytes, that is read from the store;
	// 0 means [oci.DefaultMaxManifest]. The upstreams have the same limit.
	MaxManifest int64

	// Warm are the images to keep in the cache.
	Warm []keepwarm.Image
}

func (s Spec) rule() route.Rule {
	return route.Rule{Key: s.Key, Host: s.Host, Default: s.Default, DockerHub: s.DockerHub}
}

// Namespace is one mirrored registry. Its methods may be called concurrently.
type Namespace struct {
	spec   Spec
	cache  *Cache
	policy *tagPolicy
	logger *slog.Logger
}

func newNamespace(cache *Cache, spec Spec) (*Namespace, error) {
	logger := cache.logger.With("namespace", spec.Key)
	spec.MaxManifest = cmp.Or(spec.MaxManifest, oci.DefaultMaxManifest)
	policy, err := newTagPolicy(spec, logger)
	if err != nil {
		return nil, fmt.Errorf("namespace %q: %w", spec.Key, err)
	}
	return &Namespace{spec: spec, cache: cache, policy: policy, logger: logger}, nil
}

// Key returns the block's key. It is what metrics are labelled with.
func (n *Namespace) Key() string { return n.spec.Key }

// Host returns the value of the ns parameter that selects the namespace.
func (n *Namespace) Host() string { return n.spec.Host }

// FirstUpstream returns the host of the upstream that is asked first.
func (n *Namespace) FirstUpstream() string {
	if len(n.spec.UpstreamHosts) == 0 {
		return n.spec.Key
	}
	return n.spec.UpstreamHosts[0]
}

// UpstreamKey returns what the configuration calls the upstream of a host, or
// all of the namespace's upstreams where the host does not tell which one it is.
func (n *Namespace) UpstreamKey(host string) string {
	key, found := fmt.Sprintf("repository.%q.upstream", n.spec.Key), -1
	for i, h := range n.spec.UpstreamHosts {
		if !strings.EqualFold(h, host) {
			continue
		}
		if found >= 0 {
			return key
		}
		found = i
	}
	if found < 0 {
		return key
	}
	return fmt.Sprintf("%s[%d]", key, found)
}

// repoID returns the identity of one of the namespace's repositories in the cache.
func (n *Namespace) repoID(repo string) storage.RepoID {
	return storage.RepoID{Namespace: n.spec.Key, Name: repo}
}

// offline returns the error for content that is not cached, while upstreams must
// not be contacted.
func (n *Namespace) offline(content string) error {
	return fmt.Errorf("%s: %w: remove offline = true from repository.%q to fetch it from %s",
		content, ErrOffline, n.spec.Key, n.FirstUpstream())
}

// stale reports whether an upstream's failure is answered with what was last
// checked at the given time, and returns the outcome of such an answer.
func (n *Namespace) stale(err error, checked time.Time) (o Outcome, ok bool) {
	class := upstream.ClassOf(err)
	if !slices.Contains(n.spec.ServeStaleOn, class) || n.tooOld(checked) {
		return Outcome{}, false
	}
	return Outcome{
		Cache: Stale, Upstream: n.FirstUpstream(), Failure: class,
		Warning: fmt.Sprintf("%s is %s; served from the cache, last checked %s ago",
			n.FirstUpstream(), strings.ReplaceAll(class.String(), "_", " "), time.Since(checked).Round(time.Second)),
	}, true
}

// tooOld reports whether what was last checked at the given time is no longer
// served when an upstream fails.
func (n *Namespace) tooOld(checked time.Time) bool {
	return n.spec.MaxStale > 0 && time.Since(checked) > n.spec.MaxStale
}
