package namespace_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	regexp2.StopTimeoutClock() // a goroutine of the package's, not of a test
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// mirror is a cache with all that it is made of, and the registries that its
// namespaces read.
type mirror struct {
	t         *testing.T
	network   *upstreamtest.Network
	store     *storagetest.Memory
	catalog   *catalog.Catalog
	pool      *jobs.Pool
	checks    *jobs.Pool
	ahead     *jobs.Pool
	downloads *download.Group
	cache     *namespace.Cache
	log       *testutil.LogBuffer
}

// bubble runs a test in fake time, with a network in memory.
func bubble(t *testing.T, test func(t *testing.T, m *mirror)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newMirror(t, 4, nil)) })
}

// newMirror returns a mirror with a pool of the given size.
func newMirror(t *testing.T, pool int, metrics *jobs.Metrics) *mirror {
	t.Helper()
	store := storagetest.NewMemory(t)
	return newMirrorOver(t, store, store, pool, metrics)
}

// newMirrorOver returns a mirror over a store that decorates one in memory.
func newMirrorOver(t *testing.T, memory *storagetest.Memory, store storage.Store, pool int, metrics *jobs.Metrics) *mirror {
	t.Helper()
	return newMirrorWith(t, memory, store, pool, metrics, "")
}

// newMirrorOf returns the mirror that has an ID among others.
func newMirrorOf(t *testing.T, id via.ID) *mirror {
	t.Helper()
	store := storagetest.NewMemory(t)
	return newMirrorWith(t, store, store, 4, nil, id)
}

func newMirrorWith(t *testing.T, memory *storagetest.Memory, store storage.Store, pool int, metrics *jobs.Metrics, id via.ID, change ...func(*namespace.CacheOptions)) *mirror {
	t.Helper()
	m := &mirror{t: t, network: upstreamtest.NewNetwork(), store: memory, log: new(testutil.LogBuffer)}
	logger := slog.New(slog.NewTextHandler(m.log, nil))
	m.catalog = catalog.New(m.store.Records(), catalog.Options{Logger: logger})
	m.pool, m.checks = jobs.NewPool(pool, metrics, logger), jobs.NewPool(pool, nil, logger)
	m.ahead = jobs.NewPool(pool, nil, logger)
	content := storage.NewHealth(logger, "content")
	m.downloads = download.NewGroup(download.Options{
		Store: store, Spools: memory.Spools(), MaxFetches: 8,
		OnUnattended: namespace.CompleteOrAbandon(m.pool), Health: content, Logger: logger,
	})
	options := namespace.CacheOptions{
		Store: store, Spools: memory.Spools(), Catalog: m.catalog, Downloads: m.downloads, Pool: m.pool, Checks: m.checks, Prefetches: m.ahead,
		Content: content, Records: storage.NewHealth(logger, "records"), Logger: logger, ID: id,
	}
	for _, f := range change {
		f(&options)
	}
	m.cache = namespace.NewCache(options)
	t.Cleanup(func() {
		m.checks.Close()
		m.ahead.Close()
		m.pool.Close()
		m.downloads.Close()
		m.cache.Close()
	})
	return m
}

// registry starts an upstream on the mirror's network.
func (m *mirror) registry(host string, options ...upstreamtest.Option) *upstreamtest.Registry {
	m.t.Helper()
	return upstreamtest.New(m.t, append(options, upstreamtest.WithNetwork(m.network, host))...)
}

// namespace returns the namespace of a block with one upstream.
func (m *mirror) namespace(key string, r *upstreamtest.Registry, change ...func(*namespace.Spec)) *namespace.Namespace {
	m.t.Helper()
	return m.chain(key, []*upstreamtest.Registry{r}, change...)
}

// chain returns the namespace of a block with several upstreams.
func (m *mirror) chain(key string, registries []*upstreamtest.Registry, change ...func(*namespace.Spec)) *namespace.Namespace {
	m.t.Helper()
	return m.fallingBack(key, nil, registries, change...)
}

// client returns a client of a registry.
func (m *mirror) client(r *upstreamtest.Registry) *upstream.Client {
	m.t.Helper()
	c := upstream.NewClient(upstream.Options{
		URL: r.URL, MaxRedirects: 5, ConnectTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second,
		DialContext: m.network.DialContext,
	})
	m.t.Cleanup(c.Close)
	return c
}

// fallingBack is chain with classes after which the next upstream is asked about a tag.
func (m *mirror) fallingBack(key string, fallbackOn []upstream.Class, registries []*upstreamtest.Registry, change ...func(*namespace.Spec)) *namespace.Namespace {
	m.t.Helper()
	spec := namespace.Spec{Key: key}
	var members []upstream.Member
	for _, r := range registries {
		members = append(members, m.client(r))
		spec.UpstreamHosts = append(spec.UpstreamHosts, r.Host)
	}
	spec.Upstreams = upstream.NewChain(upstream.ChainOptions{FallbackOn: fallbackOn}, members...)
	for _, f := range change {
		f(&spec)
	}
	table, err := namespace.NewTable(m.cache, []namespace.Spec{spec})
	if err != nil {
		m.t.Fatal(err)
	}
	return table.Namespaces()[0]
}

// named is the key of a job in tests.
type named string

func (n named) String() string { return string(n) }
func (n named) Block() string  { return string(n) }

func offline(s *namespace.Spec)   { s.Offline = true }
func immutable(s *namespace.Spec) { s.ImmutableTags = true }

func tagTTL(d time.Duration) func(*namespace.Spec) {
	return func(s *namespace.Spec) { s.TagTTL = d }
}

func negativeTTL(d time.Duration) func(*namespace.Spec) {
	return func(s *namespace.Spec) { s.NegativeTTL = d }
}

func maxStale(d time.Duration) func(*namespace.Spec) {
	return func(s *namespace.Spec) { s.MaxStale = d }
}

func staleOn(classes ...upstream.Class) func(*namespace.Spec) {
	return func(s *namespace.Spec) { s.ServeStaleOn = classes }
}

// answer is the answer to a client, in a form that is easy to compare.
type answer struct {
	Cache namespace.CacheStatus
	Body  string // of a GET
	desc  ocispec.Descriptor
	warn  string
	err   error

	checked time.Time
	overdue time.Duration
}

func reference(t *testing.T, text string) oci.Reference {
	t.Helper()
	ref, err := oci.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func isOffline(err error) bool {
	_, ok := errors.AsType[*namespace.OfflineError](err)
	return ok
}

// get pulls a manifest.
func get(t *testing.T, n *namespace.Namespace, repo, ref string) answer {
	t.Helper()
	return read(t)(n.Manifest(t.Context(), repo, reference(t, ref)))
}

func read(t *testing.T) func(m *namespace.Manifest, err error) answer {
	return func(m *namespace.Manifest, err error) answer {
		t.Helper()
		if err != nil {
			return answer{err: err}
		}
		defer m.Content.Close()
		body, err := io.ReadAll(m.Content)
		if err != nil {
			t.Errorf("reading a manifest: %v", err)
		}
		if m.Descriptor.Digest.Algorithm().FromBytes(body) != m.Descriptor.Digest || m.Descriptor.Size != int64(len(body)) {
			t.Errorf("the body is not that of %s with %d bytes: %q", m.Descriptor.Digest, m.Descriptor.Size, body)
		}
		return answer{Cache: m.Cache, Body: string(body), desc: m.Descriptor, warn: m.Warning, checked: m.Checked, overdue: m.Overdue}
	}
}

// head asks for a manifest's descriptor.
func head(t *testing.T, n *namespace.Namespace, repo, ref string) answer {
	t.Helper()
	m, err := n.Head(t.Context(), repo, reference(t, ref))
	if err != nil {
		return answer{err: err}
	}
	if m.Content != nil {
		t.Error("a HEAD has content")
	}
	return answer{Cache: m.Cache, desc: m.Descriptor, warn: m.Warning, checked: m.Checked, overdue: m.Overdue}
}

// wantManifest checks the cache status of an answer and the manifest that it names.
func wantManifest(t *testing.T, got answer, cache namespace.CacheStatus, want ocispec.Descriptor) {
	t.Helper()
	if got.err != nil {
		t.Errorf("failed: %v", got.err)
		return
	}
	if got.Cache != cache {
		t.Errorf("Cache-Status is %v, want %v", got.Cache, cache)
	}
	if diff := cmp.Diff(want, got.desc); diff != "" {
		t.Errorf("descriptor: %s", diff)
	}
	if (got.warn != "") != (cache == namespace.Stale) {
		t.Errorf("the warning is %q", got.warn)
	}
}

// wantRequests checks the requests to an upstream since the last check.
func wantRequests(t *testing.T, r *upstreamtest.Registry, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, r.Requests()); diff != "" {
		t.Errorf("requests to %s: %s", r.Host, diff)
	}
	r.ResetRequests()
}

func manifestRequest(method, repo string, ref any, status int) string {
	return fmt.Sprintf("%s /v2/%s/manifests/%s %d", method, repo, ref, status)
}

func blobRequest(method, repo string, dgst digest.Digest, rest string) string {
	return fmt.Sprintf("%s /v2/%s/blobs/%s %s", method, repo, dgst, rest)
}

// together runs n calls at once. They have all got as far as they can before
// the gate opens.
func together(gate *upstreamtest.Gate, n int, call func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { call(i) })
	}
	synctest.Wait()
	gate.Open()
	all.Wait()
}

// recordKeys returns the keys of all records.
func (m *mirror) recordKeys(t *testing.T) (keys []string) {
	t.Helper()
	for key, err := range m.store.Records().List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}
