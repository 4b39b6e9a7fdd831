package app

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func newTestClients(t *testing.T) *clients {
	t.Helper()
	tokens := tokencache.New(tokencache.NewMemory(16), nil)
	c := newClients(tokens, nil, nil, "", discard())
	t.Cleanup(func() {
		c.close()
		tokens.Close()
	})
	return c
}

// apply makes a set of one upstream the current one and returns its
// client.
func apply(t *testing.T, c *clients, u config.Upstream, maxManifestSize int64) *upstream.Client {
	t.Helper()
	next := make(clientSet)
	client, err := c.get(next, u, contentLimits{manifest: maxManifestSize})
	if err != nil {
		t.Fatal(err)
	}
	c.commit(next)
	return client
}

// A client lasts for as long as nothing about its upstream changes, the content
// of its files included.
func TestClientsAreReused(t *testing.T) {
	certificate, key := upstreamtest.New(t, upstreamtest.WithClientCertificates()).ClientCertificateFiles()
	roots := filepath.Join(t.TempDir(), "ca.crt")
	copyFile(t, certificate, roots)
	base := config.Upstream{
		URL: config.URL{Scheme: "https", Host: "ghcr.io"}, Username: "reader", Password: "one", MaxRedirect: 5, ServerCABundle: roots,
		ClientCertificate: certificate, ClientPrivateKey: key,
	}
	c := newTestClients(t)
	first := apply(t, c, base, 1000)
	if apply(t, c, base, 1000) != first {
		t.Error("an upstream that did not change got another client")
	}
	for what, change := range map[string]func(u *config.Upstream, size *int64){
		"the password":                     func(u *config.Upstream, _ *int64) { u.Password = "two" },
		"the URL":                          func(u *config.Upstream, _ *int64) { u.URL.Host = "quay.io" },
		"segments":                         func(u *config.Upstream, _ *int64) { u.Segments = 2 },
		"max_redirect":                     func(u *config.Upstream, _ *int64) { u.MaxRedirect = 6 },
		"the client certificate":           func(u *config.Upstream, _ *int64) { u.ClientCertificate, u.ClientPrivateKey = "", "" },
		"max_manifest_size":                func(_ *config.Upstream, size *int64) { *size = 2000 },
		"the content of the CA bundle":     func(*config.Upstream, *int64) { appendTo(t, roots, "\n") },
		"the content of the CA bundle, II": func(*config.Upstream, *int64) { appendTo(t, roots, "\n") },
	} {
		before := apply(t, c, base, 1000)
		u, size := base, int64(1000)
		change(&u, &size)
		if apply(t, c, u, size) == before {
			t.Errorf("the client was kept although %s changed", what)
		}
	}
}

// Blocks that name the same upstream share its client.
func TestClientsAreShared(t *testing.T) {
	c := newTestClients(t)
	next := make(clientSet)
	u := config.Upstream{URL: config.URL{Scheme: "https", Host: "ghcr.io"}}
	one, err := c.get(next, u, contentLimits{manifest: 1})
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.get(next, u, contentLimits{manifest: 1})
	if err != nil {
		t.Fatal(err)
	}
	if one != two {
		t.Error("two clients of one upstream")
	}
	c.commit(next)
}

// A set that is given up changes nothing.
func TestDroppedSet(t *testing.T) {
	c := newTestClients(t)
	u := config.Upstream{URL: config.URL{Scheme: "https", Host: "ghcr.io"}}
	first := apply(t, c, u, 1)
	next := make(clientSet)
	if _, err := c.get(next, config.Upstream{URL: config.URL{Scheme: "https", Host: "quay.io"}}, contentLimits{manifest: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.get(next, config.Upstream{URL: config.URL{Scheme: "https", Host: "quay.io"}, ServerCABundle: "missing"}, contentLimits{manifest: 1}); err == nil {
		t.Error("no error for a file that is missing")
	}
	if apply(t, c, u, 1) != first {
		t.Error("the current client was lost")
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(content))
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(content)+text)
}

// A configuration that turns out to be of no use leaves no client behind.
func TestDroppedClientsAreClosed(t *testing.T) {
	c := newTestClients(t)
	watching := watchers{}
	c.cooldowns = watching
	kept := config.Upstream{URL: config.URL{Scheme: "https", Host: "ghcr.io"}}
	apply(t, c, kept, 1000)
	next := make(clientSet)
	for _, u := range []config.Upstream{kept, {URL: config.URL{Scheme: "https", Host: "quay.io"}}} {
		if _, err := c.get(next, u, contentLimits{manifest: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	c.drop(next)
	if len(watching) != 1 || !watching["ghcr.io:443"] {
		t.Errorf("these are left: %v", watching)
	}
}

// watchers are the upstreams whose clients are not closed.
type watchers map[string]bool

func (w watchers) Limit(string, string, string, time.Time) {}

func (w watchers) Subscribe(upstream, _, _ string, _ func(time.Time)) (stop func()) {
	w[upstream] = true
	return func() { delete(w, upstream) }
}
