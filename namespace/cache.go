package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/flight"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/upstream"
)

const (
	// remembered is how many refusals and announcements are kept in memory.
	remembered = 16384
	// announcementLife is how long after a HEAD of a tag the content may come
	// that makes the tag known.
	announcementLife = 10 * time.Minute
)

// Cache is what all namespaces share and what outlives a change of
// configuration.
type Cache struct {
	store   storage.Store
	spools  *spool.Dir
	catalog *catalog.Catalog
	flights *download.Group
	pool    *jobs.Pool
	content *storage.Health
	records *storage.Health
	log     *slog.Logger

	// Lookups under way, each shared by all callers of one question.
	lookups   *flight.Scope
	manifests *flight.Group[question, *found]
	proofs    *flight.Group[question, ocispec.Descriptor]
	tags      *flight.Group[question, *Tags]
	referrers *flight.Group[question, *Referrers]

	refusals  *lru.Cache[question, refusal]
	announced *lru.Cache[content, announcement]
}

// question is one question to an upstream about one repository. It is compared
// as it is: printed, the repositories {ghcr.io/acme, app} and {ghcr.io, acme/app}
// are the same.
type question struct {
	repo storage.RepoID
	op   string
	ref  string
}

// refusal is a definite "not found" that is remembered for a while.
type refusal struct {
	err   error
	until time.Time
}

// content is a digest within a repository.
type content struct {
	repo   storage.RepoID
	digest digest.Digest
}

// announcement is what a client's HEAD taught about a tag whose content is not
// cached. Docker follows such a HEAD with a GET by digest, which then makes
// the tag known.
type announcement struct {
	tag string
	catalog.Tag
}

// CacheOptions are what a Cache is made of.
type CacheOptions struct {
	Store   storage.Store
	Spools  *spool.Dir
	Catalog *catalog.Catalog
	Flights *download.Group // over the same store and spools
	Pool    *jobs.Pool      // of background jobs
	Content *storage.Health // of the store; may be nil
	Records *storage.Health // of the catalog's records; may be nil
	Logger  *slog.Logger
}

// NewCache returns a Cache.
func NewCache(o CacheOptions) (*Cache, error) {
	refusals, err := lru.New[question, refusal](remembered)
	if err != nil {
		return nil, err
	}
	announced, err := lru.New[content, announcement](remembered)
	if err != nil {
		return nil, err
	}
	lookups := flight.NewScope()
	return &Cache{
		lookups:   lookups,
		manifests: flight.NewGroup[question, *found](lookups),
		proofs:    flight.NewGroup[question, ocispec.Descriptor](lookups),
		tags:      flight.NewGroup[question, *Tags](lookups),
		referrers: flight.NewGroup[question, *Referrers](lookups),

		store: o.Store, spools: o.Spools, catalog: o.Catalog, flights: o.Flights, pool: o.Pool,
		content: o.Content, records: o.Records, log: o.Logger,
		refusals: refusals, announced: announced,
	}, nil
}

// Drain refuses new lookups and waits until none is under way. It returns ctx's
// error if ctx is done first.
func (c *Cache) Drain(ctx context.Context) error { return c.lookups.Drain(ctx) }

// Close cancels the lookups under way and waits for their end. From then on the
// cache reads and writes neither the store nor the catalog by itself.
func (c *Cache) Close() { c.lookups.Close() }

// Repositories returns the repositories that have something cached, sorted.
func (c *Cache) Repositories(ctx context.Context) ([]storage.RepoID, error) {
	return c.catalog.Repositories(ctx)
}

// share runs one lookup for all callers that ask the same question at once. The
// lookup is detached from its callers: one caller's cancellation does not fail
// the others. led reports whether this caller's request made it run. The lookup
// belongs to the trace of that request; the spans of the others link to it.
func share[T any](ctx context.Context, lookups *flight.Group[question, T], q question, lookup func(context.Context) (T, error)) (value T, led bool, err error) {
	answer, err := lookups.Do(ctx, q, lookup)
	if failure, ok := errors.AsType[*flight.PanicError](err); ok {
		err = fmt.Errorf("a lookup panicked. This is a bug of the mirror, please report it: %w", failure)
	}
	if !answer.Led && answer.Leader != nil {
		if leader := trace.SpanContextFromContext(answer.Leader); leader.IsSampled() {
			trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: leader})
		}
	}
	return answer.Value, answer.Led, err
}

// refused returns the remembered refusal of a question.
func (c *Cache) refused(q question) error {
	if r, ok := c.refusals.Get(q); ok && time.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// remember keeps a refusal, if err is one, for as long as the namespace says.
func (n *Namespace) remember(q question, err error) {
	if errors.Is(err, upstream.ErrNotFound) && n.spec.NegativeTTL > 0 {
		n.cache.refusals.Add(q, refusal{err, time.Now().Add(n.spec.NegativeTTL)})
	}
}

// put stores a small content that has been verified, in a spool that create
// makes.
func (c *Cache) put(ctx context.Context, create func(size int64) (*spool.Spool, error), dgst digest.Digest, body []byte) error {
	s, err := create(int64(len(body)))
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Write(body); err != nil {
		return err
	}
	if err := s.Complete(); err != nil {
		return err
	}
	return c.store.Commit(ctx, dgst, s)
}

// keep stores a manifest that repo's upstream has just delivered, and records
// that repo possesses it and that tag, if there is one, names it. It reports
// whether it is stored; where it is not, the manifest is served all the same.
// Clients wait for that, so where room has to be made first, a job of the pool
// stores it.
func (c *Cache) keep(ctx context.Context, repo storage.RepoID, tag string, m *oci.Manifest) bool {
	desc, checked := m.Descriptor, time.Now()
	err := c.put(ctx, c.spools.CreateNow, desc.Digest, m.Body)
	if !errors.Is(err, spool.ErrBusy) {
		return c.kept(ctx, err, repo, tag, desc, checked)
	}
	c.pool.Submit(storing{repo, tag, desc.Digest}, func(ctx context.Context) error {
		err := c.put(ctx, c.spools.Create, desc.Digest, m.Body)
		c.kept(ctx, err, repo, tag, desc, checked)
		return nil // the health of the store tells of a failure
	})
	return false
}

// storing is the job that stores a manifest which a tag, if that is not empty,
// names.
type storing struct {
	repo   storage.RepoID
	tag    string
	digest digest.Digest
}

func (s storing) String() string {
	if s.tag == "" {
		return fmt.Sprintf("store %s of %s", s.digest, s.repo)
	}
	return fmt.Sprintf("store %s of %s:%s", s.digest, s.repo, s.tag)
}

// kept records a manifest that was stored, unless that failed.
func (c *Cache) kept(ctx context.Context, failure error, repo storage.RepoID, tag string, desc ocispec.Descriptor, checked time.Time) bool {
	if failure != nil {
		c.content.Failed(failure, "repository", repo.String(), "digest", desc.Digest)
		return false
	}
	c.content.Succeeded()
	if !c.putLink(ctx, repo, desc) {
		return false
	}
	c.arrived(ctx, repo, desc.Digest)
	if tag != "" {
		c.putTag(ctx, repo, tag, catalog.Tag{Descriptor: desc, Checked: checked})
	}
	return true
}

// arrived records the tag that was announced for a manifest which is now
// cached, unless that was long ago or more is known about the tag by now.
func (c *Cache) arrived(ctx context.Context, repo storage.RepoID, dgst digest.Digest) {
	key := content{repo, dgst}
	a, ok := c.announced.Get(key)
	if !ok {
		return
	}
	c.announced.Remove(key)
	known, err := c.catalog.Tag(ctx, repo, a.tag)
	if time.Since(a.Checked) < announcementLife && (err != nil || known.Checked.Before(a.Checked)) {
		c.putTag(ctx, repo, a.tag, a.Tag)
	}
}

func (c *Cache) putTag(ctx context.Context, repo storage.RepoID, tag string, value catalog.Tag) {
	c.recorded(c.catalog.PutTag(ctx, repo, tag, value), repo, "tag", tag)
}

func (c *Cache) putLink(ctx context.Context, repo storage.RepoID, desc ocispec.Descriptor) bool {
	return c.recorded(c.catalog.PutLink(ctx, repo, desc), repo, "digest", desc.Digest)
}

// recorded notes how writing a record ended. One that could not be written costs
// an upstream request after a restart, and nothing before.
func (c *Cache) recorded(err error, repo storage.RepoID, attrs ...any) bool {
	if err != nil {
		c.records.Failed(err, append(attrs, "repository", repo.String())...)
		return false
	}
	c.records.Succeeded()
	return true
}

// bytesContent is a content in memory.
type bytesContent struct{ *bytes.Reader }

func (bytesContent) Close() error { return nil }

func inMemory(body []byte) io.ReadSeekCloser { return bytesContent{bytes.NewReader(body)} }
