package namespace_test

import (
	"context"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestHerdOnOneTag(t *testing.T) {
	for name, ask := range map[string]func(*testing.T, *namespace.Namespace, string, string) answer{"GET": get, "HEAD": head} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r)
				image := r.AddImage("app", "tag", []byte("a layer"))
				get(t, n, "app", "tag")
				r.ResetRequests()
				gate := upstreamtest.NewGate()
				r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
				together(gate, 50, func(int) {
					wantManifest(t, ask(t, n, "app", "tag"), namespace.Revalidated, image)
				})
				wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
			})
		})
	}
}

func TestHerdOnAnUncachedTag(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		r.AddImage("app", "tag", []byte("a layer"))
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		statuses := make(chan namespace.CacheStatus, 50)
		together(gate, 50, func(int) { statuses <- get(t, n, "app", "tag").Cache })
		counts := make(map[namespace.CacheStatus]int)
		for range 50 {
			counts[<-statuses]++
		}
		if counts[namespace.Miss] != 1 || counts[namespace.Collapsed] != 49 {
			t.Errorf("statuses: %v", counts)
		}
		wantRequests(t, r, manifestRequest("GET", "app", "tag", 200))
	})
}

// TestClientLeavesALookup has the client leave that started it. A client that has
// joined it still gets the answer.
func TestClientLeavesALookup(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "tag", []byte("a layer"))
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			if _, err := n.Manifest(ctx, "app", oci.ByTag("tag")); err == nil {
				t.Error("a client that has left got an answer")
			}
		}()
		synctest.Wait()
		leave()
		synctest.Wait()
		together(gate, 1, func(int) {
			wantManifest(t, get(t, n, "app", "tag"), namespace.Collapsed, image)
		})
		wantRequests(t, r, manifestRequest("GET", "app", "tag", 200))
	})
}

// TestLookupEndsWithItsClients has clients ask and leave at once, and the upstream answer
// soon or late. A lookup goes on for two seconds without clients.
func TestLookupEndsWithItsClients(t *testing.T) {
	type ask = func(context.Context, *namespace.Namespace, digest.Digest)
	for name, c := range map[string]struct {
		match upstreamtest.Match
		ask   ask
	}{
		"manifest": {upstreamtest.Manifests, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest) {
			n.Manifest(ctx, "app", oci.ByTag("tag"))
		}},
		"head": {upstreamtest.Manifests, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest) {
			n.Head(ctx, "app", oci.ByTag("tag"))
		}},
		"blob head": {upstreamtest.Blobs, func(ctx context.Context, n *namespace.Namespace, dgst digest.Digest) {
			n.HeadBlob(ctx, "app", dgst)
		}},
		"tags": {upstreamtest.Tags, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest) {
			n.Tags(ctx, "app", url.Values{})
		}},
		"referrers": {upstreamtest.Referrers, func(ctx context.Context, n *namespace.Namespace, dgst digest.Digest) {
			n.Referrers(ctx, "app", dgst, "")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for late, answered := range map[time.Duration]bool{time.Second: true, 4 * time.Second: false} {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r)
					r.AddImage("app", "tag", []byte("a layer"))
					gate := upstreamtest.NewGate()
					r.Fault(c.match, upstreamtest.Hold(gate))
					ctx, leave := context.WithCancel(t.Context())
					go c.ask(ctx, n, digest.FromString("a layer"))
					synctest.Wait()
					leave()
					time.Sleep(late)
					gate.Open()
					synctest.Wait()
					log := r.Log()
					if len(log) != 1 || (log[0].Status != 0) != answered {
						t.Errorf("after %v the upstream has got %v", late, log)
					}
				})
			}
		})
	}
}

// leaving delivers a manifest, and has the lookup's last client leave just before.
type leaving struct {
	oci.Registry
	leave func()
}

func (l leaving) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	m, err := l.Registry.Manifest(ctx, repo, ref)
	l.leave()
	<-ctx.Done()
	return m, err
}

// TestAnswerWithoutClientsIsStored has an answer come in the moment in which the lookup is
// given up.
func TestAnswerWithoutClientsIsStored(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		image := r.AddImage("app", "tag", []byte("a layer"))
		ctx, leave := context.WithCancel(t.Context())
		n := m.namespace("up.example", r, func(s *namespace.Spec) { s.Upstreams = leaving{s.Upstreams, leave} })
		n.Manifest(ctx, "app", oci.ByTag("tag"))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		r.ResetRequests()
		wantManifest(t, get(t, m.namespace("up.example", r, offline), "app", "tag"), namespace.Hit, image)
		wantRequests(t, r)
		if m.log.Count("cannot store") != 0 {
			t.Error("the store counts as failing")
		}
	})
}
