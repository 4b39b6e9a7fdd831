package app

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
)

func adviceNamespace(t *testing.T, hosts ...string) *namespace.Namespace {
	t.Helper()
	cache := namespace.NewCache(namespace.CacheOptions{
		Catalog: catalog.New(storagetest.NewMemory(t).Records(), catalog.Options{}),
		Logger:  slog.New(slog.DiscardHandler),
	})
	table, err := namespace.NewTable(cache, []namespace.Spec{{Key: "ghcr.io", UpstreamHosts: hosts}})
	if err != nil {
		t.Fatal(err)
	}
	return table.Namespaces()[0]
}

func TestUpstreamKey(t *testing.T) {
	ns := adviceNamespace(t, "Mirror.example:5000", "ghcr.io", "twice.example", "twice.example")
	for host, want := range map[string]string{
		"mirror.example:5000": `repository."ghcr.io".upstream[0]`,
		"ghcr.io":             `repository."ghcr.io".upstream[1]`,
		"twice.example":       `repository."ghcr.io".upstream`,
		"elsewhere.example":   `repository."ghcr.io".upstream`,
	} {
		if got := upstreamKey(ns, host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	ns := adviceNamespace(t, "ghcr.io")
	for want, err := range map[string]error{
		`tag 1.2: not cached, and the namespace is offline. Remove offline = true from repository."ghcr.io" to fetch it from ghcr.io`: &namespace.OfflineError{Content: "tag 1.2", Namespace: "ghcr.io", Upstream: "ghcr.io"},
		"another failure": errors.New("another failure"),
	} {
		if got := explain(ns, err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Advice for an upstream names the key or the host that it is about, and each reason
// has its own.
func TestEachUpstreamReasonHasARemedy(t *testing.T) {
	seen := make(map[string]upstream.Remedy)
	for r := upstream.NoRemedy + 1; r <= upstream.RaiseLimits; r++ {
		advice := upstreamRemedy(r, "ghcr.io", `repository."ghcr.io".upstream[0]`)
		if other, twice := seen[advice]; advice == "" || twice {
			t.Errorf("the remedy for reason %d is %q, as for reason %d", r, advice, other)
		}
		seen[advice] = r
	}
	if advice := upstreamRemedy(upstream.NoRemedy, "ghcr.io", "key"); advice != "" {
		t.Errorf("without a reason the advice is %q", advice)
	}
}

// A name that no namespace answers has no upstream to blame.
func TestExplainWithoutNamespace(t *testing.T) {
	failed := &upstream.Error{Host: "ghcr.io", Class: upstream.ClassDenied}
	if got := explain(nil, failed); got != failed.Error() {
		t.Errorf("%q", got)
	}
}
