package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/forwarded"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mirror is a handler with all that is behind it.
type mirror struct {
	t         testing.TB
	store     storage.Store
	downloads *download.Group
	cache     *namespace.Cache
	tables    namespace.Current
	gatherer  *prometheus.Registry
	metrics   *registry.Metrics
	handler   *registry.Handler
	access    access.Current // open, until a test locks it
	brokeOff  func(dgst digest.Digest, err error) bool
	log       *logLines
	place     *place // nil: no client is redirected
}

// newMirror returns a mirror in memory of the given blocks.
func newMirror(t testing.TB, specs ...namespace.Spec) *mirror {
	t.Helper()
	store := storagetest.NewMemory(t)
	return newMirrorOver(t, store, store.Records(), store.Spools(), specs...)
}

func newMirrorOver(t testing.TB, store storage.Store, records storage.Records, spools *spool.Dir, specs ...namespace.Spec) *mirror {
	t.Helper()
	m := &mirror{t: t, store: store, gatherer: prometheus.NewRegistry(), log: new(logLines)}
	logger := slog.New(slog.NewJSONHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	pool := jobs.NewPool(4, nil, logger)
	m.downloads = download.NewGroup(download.Options{
		Store: store, Spools: spools, MaxFetches: 8, OnUnattended: namespace.CompleteOrAbandon(pool), Logger: logger,
	})
	m.cache = namespace.NewCache(namespace.CacheOptions{
		Store: store, Spools: spools, Catalog: catalog.New(records, catalog.Options{}), Downloads: m.downloads, Pool: pool, Logger: logger, Links: elsewhere{m},
		OnBrokeOff: func(_ context.Context, dgst digest.Digest, err error) bool {
			return m.brokeOff != nil && m.brokeOff(dgst, err)
		},
	})
	t.Cleanup(func() {
		pool.Close()
		m.downloads.Close()
		m.cache.Close()
	})
	m.metrics = registry.NewMetrics(m.gatherer)
	m.rules(access.Options{Anonymous: true})
	namespace.RegisterMetrics(m.gatherer, &m.tables)
	m.serve(specs...)
	proxies := new(forwarded.Current)
	proxies.Store(forwarded.Proxies{netip.MustParsePrefix("192.0.2.0/24")}) // httptest's clients
	m.handler = registry.New(registry.Options{
		Tables: &m.tables, Cache: m.cache, Metrics: m.metrics, Logger: logger, ID: "weir-me",
		Proxies: proxies,
		Access:  &m.access, Redirects: m.redirects,
		Grants: grants(t),
	})
	return m
}

func grants(t testing.TB) *access.Grants {
	t.Helper()
	g, err := access.NewGrants(nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// rules puts access rules in force.
func (m *mirror) rules(opts access.Options) {
	m.t.Helper()
	if table := m.tables.Load(); table != nil && opts.Blocks == nil {
		for _, ns := range table.Namespaces() {
			opts.Blocks = append(opts.Blocks, access.Block{Key: ns.Key()})
		}
	}
	door, err := access.New(opts)
	if err != nil {
		m.t.Fatal(err)
	}
	m.access.Store(door)
}

// serve puts a table of these blocks in force.
func (m *mirror) serve(specs ...namespace.Spec) {
	m.t.Helper()
	table, err := namespace.NewTable(m.cache, specs)
	if err != nil {
		m.t.Fatal(err)
	}
	m.tables.Store(table)
	m.metrics.SetNamespaces(table)
}

// block returns a block that one registry is the upstream of, by the key
// "up.example", which is its ns, too.
func block(t testing.TB, r *upstreamtest.Registry, change ...func(*namespace.Spec)) namespace.Spec {
	c := upstream.NewClient(upstream.Options{URL: r.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
	t.Cleanup(c.Close)
	spec := namespace.Spec{
		Key: "up.example", Host: "up.example",
		Upstreams:     upstream.NewChain(upstream.ChainOptions{}, c),
		UpstreamHosts: []string{r.Host},
	}
	for _, f := range change {
		f(&spec)
	}
	return spec
}

// pair returns a registry and its mirror.
func pair(t testing.TB, change ...func(*namespace.Spec)) (*upstreamtest.Registry, *mirror) {
	t.Helper()
	r := upstreamtest.New(t)
	return r, newMirror(t, block(t, r, change...))
}

// settle waits until what was downloaded is stored.
func (m *mirror) settle() {
	m.t.Helper()
	if err := m.downloads.Drain(m.t.Context()); err != nil {
		m.t.Error(err)
	}
}

// do asks the handler directly. Headers come as name, value, name, value.
func (m *mirror) do(method, target string, header ...string) *httptest.ResponseRecorder {
	m.t.Helper()
	req := httptest.NewRequestWithContext(m.t.Context(), method, target, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	m.handler.ServeHTTP(w, req)
	return w
}

// server serves the mirror as the binary does, over HTTP/1.1 and h2c.
func (m *mirror) server() *httptest.Server {
	s := httptest.NewUnstartedServer(m.handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	m.t.Cleanup(s.Close)
	return s
}

// client returns a client of one protocol.
func client(t testing.TB, h2c bool) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetHTTP1(!h2c)
	transport.Protocols.SetUnencryptedHTTP2(h2c)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// wantStatus checks a status, and the version header that each answer has.
func wantStatus(t *testing.T, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	wantHeader(t, w.Header(), "Docker-Distribution-API-Version", "registry/2.0")
}

// wantHeader checks headers, which come as name, value; "" is absent.
func wantHeader(t *testing.T, got http.Header, want ...string) {
	t.Helper()
	for i := 0; i < len(want); i += 2 {
		if value := got.Get(want[i]); value != want[i+1] {
			t.Errorf("%s is %q, want %q", want[i], value, want[i+1])
		}
	}
}

// wantError checks that an answer is an OCI error document, and returns its
// message.
func wantError(t *testing.T, w *httptest.ResponseRecorder, status int, code string) string {
	t.Helper()
	wantStatus(t, w, status)
	wantHeader(t, w.Header(), "Content-Type", "application/json")
	var document struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || len(document.Errors) != 1 {
		t.Errorf("no error document: %q, %v", w.Body, err)
		return ""
	}
	if document.Errors[0].Code != code || document.Errors[0].Message == "" {
		t.Errorf("the error is %+v, want %s", document.Errors[0], code)
	}
	return document.Errors[0].Message
}

// logLines is a log of JSON lines.
type logLines struct{ testutil.LogBuffer }

// requests returns the lines of the access log.
func (l *logLines) requests(t *testing.T) []map[string]any {
	t.Helper()
	var lines []map[string]any
	decoder := json.NewDecoder(strings.NewReader(l.String()))
	for {
		var line map[string]any
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		if line["msg"] == "request" {
			lines = append(lines, line)
		}
	}
}
