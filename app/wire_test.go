package app

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/registry"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/storagetest"
)

// wire is the API over namespaces in memory, with the sentences of this package.
type wire struct {
	t         testing.TB
	downloads *download.Group
	cache     *namespace.Cache
	access    access.Current
	handler   http.Handler
}

func newWire(t testing.TB, specs ...namespace.Spec) *wire {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	store := storagetest.NewMemory(t)
	pool := jobs.NewPool(4, nil, logger)
	w := &wire{t: t}
	w.downloads = download.NewGroup(download.Options{
		Store: store, Spools: store.Spools(), MaxFetches: 8, OnUnattended: namespace.CompleteOrAbandon(pool), Logger: logger,
	})
	var err error
	w.cache = namespace.NewCache(namespace.CacheOptions{
		Store: store, Spools: store.Spools(), Catalog: catalog.New(store.Records(), catalog.Options{}), Downloads: w.downloads, Pool: pool, Logger: logger,
	})
	t.Cleanup(func() {
		w.cache.Close()
		pool.Close()
		w.downloads.Close()
	})
	table, err := namespace.NewTable(w.cache, specs)
	if err != nil {
		t.Fatal(err)
	}
	var tables namespace.Current
	tables.Store(table)
	rules, err := access.New(access.Options{Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	w.access.Store(rules)
	grants, err := access.NewGrants(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.handler = registry.New(registry.Options{
		Access: &w.access, Grants: grants, Tables: &tables, Cache: w.cache, Explain: explain, Metrics: registry.NewMetrics(prometheus.NewRegistry()), Logger: logger, ID: "weir-me",
	})
	return w
}

func (w *wire) do(method, target string, header http.Header) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(w.t.Context(), method, target, nil)
	maps.Copy(req.Header, header)
	w.handler.ServeHTTP(r, req)
	return r
}

func wantStatus(t *testing.T, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d: %s", w.Code, status, w.Body)
	}
}

// wantError checks that an answer is an OCI error document, and returns its
// message.
func wantError(t *testing.T, w *httptest.ResponseRecorder, status int, code string) string {
	t.Helper()
	wantStatus(t, w, status)
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

// wantHeader checks headers, which come as name, value; "" is absent.
func wantHeader(t *testing.T, got http.Header, want ...string) {
	t.Helper()
	for i := 0; i < len(want); i += 2 {
		if value := got.Get(want[i]); value != want[i+1] {
			t.Errorf("%s is %q, want %q", want[i], value, want[i+1])
		}
	}
}
