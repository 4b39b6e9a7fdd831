package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/singleflight"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
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
	catalog *storage.Catalog
	flights *storage.Flights
	pool    *Pool
	content *storage.Health
	records *storage.Health
	log     *slog.Logger

	lookups   singleflight.Group // of manifests, lists and proofs under way
	ended     sync.WaitGroup     // of the same
	refusals  *lru.Cache[question, refusal]
	announced *lru.Cache[content, announcement]
}

// question is what an upstream was asked about one repository.
type question struct {
	repo storage.Repository
	op   string
	ref  string
}

func (q question) String() string { return fmt.Sprintf("%s %s %s", q.op, q.repo, q.ref) }

// refusal is a definite "not found" that is remembered for a while.
type refusal struct {
	err   error
	until time.Time
}

// content is a digest within a repository.
type content struct {
	repo   storage.Repository
	digest digest.Digest
}

// announcement is what a client's HEAD taught about a tag whose content is not
// cached. Docker follows such a HEAD with a GET by digest, which then makes
// the tag known.
type announcement struct {
	tag string
	storage.Tag
}

// CacheOptions are what a Cache is made of.
type CacheOptions struct {
	Store   storage.Store
	Spools  *spool.Dir
	Catalog *storage.Catalog
	Flights *storage.Flights // over the same store and spools
	Pool    *Pool            // of background jobs
	Content *storage.Health  // of the store; may be nil
	Records *storage.Health  // of the catalog's records; may be nil
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
	return &Cache{
		store: o.Store, spools: o.Spools, catalog: o.Catalog, flights: o.Flights, pool: o.Pool,
		content: o.Content, records: o.Records, log: o.Logger,
		refusals: refusals, announced: announced,
	}, nil
}

// Wait returns when no lookup is under way.
func (c *Cache) Wait() { c.ended.Wait() }

// Repositories returns the repositories that have something cached, sorted.
func (c *Cache) Repositories(ctx context.Context) ([]storage.Repository, error) {
	return c.catalog.Repositories(ctx)
}

// shared is the answer of a lookup, with the span of the request that made it
// run.
type shared[T any] struct {
	value  T
	leader trace.SpanContext
}

// share runs one lookup for all who ask the same question at once. The lookup
// is detached from its callers: who leaves fails nobody else's. A panic of it
// becomes an error, since no caller's recover could keep it from ending the
// process. led reports whether this caller's request made it run. The lookup
// belongs to the trace of that one; the spans of the others link to it.
func share[T any](ctx context.Context, c *Cache, q question, lookup func(context.Context) (T, error)) (value T, led bool, err error) {
	detached := context.WithoutCancel(ctx)
	ran := make(chan struct{}, 1)
	c.ended.Add(1)
	answer := c.lookups.DoChan(q.String(), func() (_ any, err error) {
		ran <- struct{}{}
		defer func() {
			if failure := recover(); failure != nil {
				err = fmt.Errorf("panic in a lookup; this is a bug of the mirror, please report it: %v\n%s", failure, debug.Stack())
			}
		}()
		value, err := lookup(detached)
		return shared[T]{value, trace.SpanContextFromContext(ctx)}, err
	})
	done := make(chan singleflight.Result, 1)
	go func() {
		defer c.ended.Done()
		done <- <-answer
	}()
	select {
	case result := <-done:
		got, _ := result.Val.(shared[T])
		led = len(ran) > 0
		if !led && got.leader.IsSampled() {
			trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: got.leader})
		}
		return got.value, led, result.Err
	case <-ctx.Done():
		return value, false, context.Cause(ctx)
	}
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
func (c *Cache) keep(ctx context.Context, repo storage.Repository, tag string, m *oci.Manifest) bool {
	desc, checked := m.Descriptor, time.Now()
	err := c.put(ctx, c.spools.CreateNow, desc.Digest, m.Body)
	if !errors.Is(err, spool.ErrBusy) {
		return c.kept(ctx, err, repo, tag, desc, checked)
	}
	c.pool.Submit(fmt.Sprintf("store %s of %s:%s", desc.Digest, repo, tag), func(ctx context.Context) error {
		err := c.put(ctx, c.spools.Create, desc.Digest, m.Body)
		c.kept(ctx, err, repo, tag, desc, checked)
		return nil // the health of the store tells of a failure
	})
	return false
}

// kept records a manifest that was stored, unless that failed.
func (c *Cache) kept(ctx context.Context, failure error, repo storage.Repository, tag string, desc ocispec.Descriptor, checked time.Time) bool {
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
		c.putTag(ctx, repo, tag, storage.Tag{Descriptor: desc, Checked: checked})
	}
	return true
}

// arrived records the tag that was announced for a manifest which is now
// cached, unless that was long ago or more is known about the tag by now.
func (c *Cache) arrived(ctx context.Context, repo storage.Repository, dgst digest.Digest) {
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

func (c *Cache) putTag(ctx context.Context, repo storage.Repository, tag string, value storage.Tag) {
	c.recorded(c.catalog.PutTag(ctx, repo, tag, value), repo, "tag", tag)
}

func (c *Cache) putLink(ctx context.Context, repo storage.Repository, desc ocispec.Descriptor) bool {
	return c.recorded(c.catalog.PutLink(ctx, repo, desc), repo, "digest", desc.Digest)
}

// recorded notes how writing a record ended. One that could not be written costs
// an upstream request after a restart, and nothing before.
func (c *Cache) recorded(err error, repo storage.Repository, attrs ...any) bool {
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
