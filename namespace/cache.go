package namespace

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/bulk"
	"github.com/weirhq/weir/internal/flight"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
)

// maxRemembered is how many negative answers, and how many tags whose manifests are
// pending, are kept in memory. An entry takes about 500 bytes, and more than 1 KiB if a
// client sends further media types. maxRememberedBytes bounds each of the two, since
// clients choose the names, and upstreams the words.
const (
	maxRemembered      = 16384
	maxRememberedBytes = 12 << 20
)

// maxLong is how many long documents are in memory at once, each of another namespace. One
// of 8 MiB takes about 40 MiB while it is decoded and kept. Two slow upstreams leave a place
// to the others.
const maxLong = 3

// Cache is the state that all namespaces share and that outlives a change of
// configuration.
type Cache struct {
	store     storage.Store
	spools    *spool.Dir
	catalog   *catalog.Catalog
	downloads *download.Group
	origins   []download.Origin
	links     Links   // may be nil
	answers   Answers // nil: they are not shared
	sharing   *sharing
	pool      *jobs.Pool
	checkPool *jobs.Pool
	// prefetchPool runs the jobs that prefetch layers, served has the manifests that clients of a
	// repository have read last, and ahead the layers that were prefetched.
	prefetchPool *jobs.Pool
	served       *bounded.Cache[storage.RepoID, []servedManifest]
	serving      sync.Mutex // held while an entry of served changes
	ahead        ahead
	removals     *removals
	content      *storage.Health
	records      *storage.Health
	brokeOff     func(ctx context.Context, dgst digest.Digest, err error) bool
	logger       *slog.Logger
	id           via.ID

	// Lookups under way, each shared by all callers with the same key.
	lookups   *flight.Scope
	manifests *flight.Group[shared[lookupKey], found]
	access    *flight.Group[shared[lookupKey], ocispec.Descriptor]
	tags      *flight.Group[shared[listKey], *Tags]
	referrers *flight.Group[shared[listKey], *Referrers]
	listings  *flight.Group[struct{}, []storage.RepoID]
	recalls   *flight.Group[digest.Digest, bool]

	// Places for long documents: those that lookups read and keep, and kept ones. No
	// caller waits for an upstream while it has one of the second kind.
	longFetched, longKept *bulk.Pool

	repositories repositories
	lenders      atomic.Pointer[lenders] // nil: all namespaces share their content

	negatives *bounded.Cache[negativeKey, negative]
	// Failures of checks that ran behind an answer, for the next requests.
	failedChecks *bounded.Cache[tagID, failedCheck]
	checked      checkCounters
	rights       *bounded.Cache[rightKey, right]
	book         *tagBook
	// subjects holds manifests whose empty lists of referrers may be kept, and the
	// artifact types of those that were.
	subjects *bounded.Cache[content, []string]
}

// CacheOptions are the parts of a Cache.
type CacheOptions struct {
	Store      storage.Store
	Spools     *spool.Dir
	Catalog    *catalog.Catalog
	Downloads  *download.Group   // over the same store and spools
	Origins    []download.Origin // those of Downloads
	Links      Links             // where clients can read by themselves; may be nil
	Answers    Answers           // of upstreams, shared by replicas; may be nil
	Commons    Commons           // what replicas share in addition to answers; may be nil
	Pool       *jobs.Pool        // of background jobs
	Checks     *jobs.Pool        // of those that check tags behind their answers; nil if no namespace has a TagSWR
	Prefetches *jobs.Pool        // of those that prefetch layers; nil if no namespace has Prefetch
	Content    *storage.Health   // of the store; may be nil
	Records    *storage.Health   // of the catalog's records; may be nil
	// OnBrokeOff, if set, is called for stored content that could not be sent to its end. It
	// reports whether the store is the cause, and then takes the content out of it.
	OnBrokeOff func(ctx context.Context, dgst digest.Digest, err error) bool
	Logger     *slog.Logger
	ID         via.ID // of this process
}

// NewCache returns a cache over a store. The caller closes it before the store.
func NewCache(o CacheOptions) *Cache {
	lookups := flight.NewScope()
	return &Cache{
		store: o.Store, spools: o.Spools, catalog: o.Catalog, downloads: o.Downloads, origins: o.Origins, links: o.Links, answers: o.Answers, sharing: newSharing(o.Commons, o.Logger), pool: o.Pool, checkPool: o.Checks, prefetchPool: o.Prefetches,
		content: o.Content, records: o.Records, brokeOff: o.OnBrokeOff, logger: o.Logger, id: o.ID,

		lookups:   lookups,
		manifests: flight.NewGroup[shared[lookupKey], found](lookups),
		access:    flight.NewGroup[shared[lookupKey], ocispec.Descriptor](lookups),
		tags:      flight.NewGroup[shared[listKey], *Tags](lookups),
		referrers: flight.NewGroup[shared[listKey], *Referrers](lookups),
		listings:  flight.NewGroup[struct{}, []storage.RepoID](lookups),
		recalls:   flight.NewGroup[digest.Digest, bool](lookups),

		longFetched: bulk.NewPool(maxLong),
		longKept:    bulk.NewPool(2), // its callers wait for the disk only

		served: bounded.New(maxRemembered, maxRememberedBytes, func(key storage.RepoID, manifests []servedManifest) int {
			return len(key.Namespace) + len(key.Name) + len(manifests)*servedSize
		}),
		removals:     newRemovals(),
		failedChecks: bounded.New(maxRemembered, maxRememberedBytes, func(key tagID, f failedCheck) int { return f.size(key) }),
		negatives:    bounded.New(maxRemembered, maxRememberedBytes, func(key negativeKey, n negative) int { return n.size(key) }),
		rights:       bounded.New(maxRights, maxRightBytes, func(key rightKey, r right) int { return r.size(key) }),
		book:         newTagBook(o),
		subjects:     bounded.New(maxRemembered, maxRememberedBytes, func(key content, types []string) int { return key.size() + len(strings.Join(types, " ")) }),
	}
}

// Drain refuses new lookups and waits until none is under way. It returns ctx's
// error if ctx is done first.
func (c *Cache) Drain(ctx context.Context) error { return c.lookups.Drain(ctx) }

// Close cancels the lookups under way and waits for their end. From then on the
// cache reads and writes neither the store nor the catalog by itself.
func (c *Cache) Close() {
	c.lookups.Close()
	c.sharing.close()
}

// putLink records that a repository may serve a blob, even if the client has left. It
// reports whether the record was written.
func (c *Cache) putLink(ctx context.Context, repo storage.RepoID, desc ocispec.Descriptor) bool {
	ok := recorded(c.records, c.catalog.PutLink(context.WithoutCancel(ctx), repo, desc), repo, "digest", desc.Digest)
	if ok {
		c.repositories.add(repo)
	}
	return ok
}

// recorded notes in the health of the records whether a record could be written.
// A missing record costs an upstream request after a restart, and nothing before.
func recorded(health *storage.Health, err error, repo storage.RepoID, attrs ...any) bool {
	if err != nil {
		health.Failed(err, append(attrs, "repository", repo.String())...)
		return false
	}
	health.Succeeded()
	return true
}
