package app

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/weirhq/weir/namespace"
)

func adviceNamespace(t *testing.T, hosts ...string) *namespace.Namespace {
	t.Helper()
	cache, err := namespace.NewCache(namespace.CacheOptions{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
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
		`tag 1.2: not cached, and the namespace is offline. Remove offline = true from repository."ghcr.io" to fetch it from ghcr.io`: &namespace.OfflineError{Content: "tag 1.2"},
		"another failure": errors.New("another failure"),
	} {
		if got := explain(ns, err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
