package namespace_test

import (
	"testing"
	"testing/synctest"

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
// joined it gets the answer all the same.
func TestClientLeavesALookup(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "tag", []byte("a layer"))
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		if _, err := n.Manifest(cancelled(t), "app", oci.ByTag("tag")); err == nil {
			t.Error("a client that has left got an answer")
		}
		synctest.Wait()
		together(gate, 1, func(int) {
			wantManifest(t, get(t, n, "app", "tag"), namespace.Collapsed, image)
		})
		wantRequests(t, r, manifestRequest("GET", "app", "tag", 200))
	})
}
