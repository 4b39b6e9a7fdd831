package namespace_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// failures are one upstream failure of each class.
var failures = map[upstream.Class]upstreamtest.Effect{
	upstream.ClassNotFound:    upstreamtest.Status(404, ""),
	upstream.ClassDenied:      upstreamtest.Status(403, ""),
	upstream.ClassUnavailable: upstreamtest.Status(500, ""),
	upstream.ClassRateLimited: upstreamtest.Status(429, ""),
}

// TestStale asks for a cached tag while its upstream fails in each way, of a
// namespace that answers each class, and only it, from the cache.
func TestStale(t *testing.T) {
	for class, effect := range failures {
		for served := range failures {
			t.Run(class.String()+" where "+served.String()+" is served", func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r, staleOn(served))
					image := r.AddImage("app", "tag", []byte("a layer"))
					get(t, n, "app", "tag")
					time.Sleep(90 * time.Second)
					r.Fault(upstreamtest.Manifests, effect)
					for _, got := range []answer{get(t, n, "app", "tag"), head(t, n, "app", "tag"), get(t, n, "app", "tag")} {
						if class == served {
							wantManifest(t, got, namespace.Stale, image)
							if want := "up.example"; !strings.Contains(got.warn, want) {
								t.Errorf("the warning %q does not name %s", got.warn, want)
							}
							if want := strings.ReplaceAll(class.String(), "_", " "); !strings.Contains(got.warn, want) {
								t.Errorf("the warning %q does not say %q", got.warn, want)
							}
							if !strings.Contains(got.warn, "1m3") { // and a bit for the retries
								t.Errorf("the warning %q does not tell the age", got.warn)
							}
						} else if upstream.ClassOf(got.err) != class {
							t.Errorf("got %v, want a failure of class %v", got.err, class)
						}
					}
				})
			})
		}
	}
}

func TestMaxStale(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassDenied), maxStale(time.Hour))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(403, ""))
		time.Sleep(time.Hour)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		wantManifest(t, head(t, n, "app", "tag"), namespace.Stale, image)
		time.Sleep(time.Second)
		for _, got := range []answer{get(t, n, "app", "tag"), head(t, n, "app", "tag")} {
			if !errors.Is(got.err, upstream.ErrDenied) {
				t.Errorf("after max_stale: %+v", got)
			}
		}
		// The record stays: once the upstream is back, so is the tag.
		r.ClearFaults()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
	})
}

// TestStaleHerd answers all requests of the same moment at the cost of one request
// upstream.
func TestStaleHerd(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassDenied))
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		r.ResetRequests()
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate), upstreamtest.Status(403, ""))
		together(gate, 10, func(int) {
			wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, image)
		})
		wantRequests(t, r,
			manifestRequest("HEAD", "app", "tag", 403),
			manifestRequest("GET", "app", "tag", 403))
	})
}

// TestStaleWhereTheNewContentFails has HEAD tell of a move, and the GET fail.
func TestStaleWhereTheNewContentFails(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		old := r.AddImage("app", "tag", []byte("old"))
		get(t, n, "app", "tag")
		moved := r.AddImage("app", "tag", []byte("new"))
		fault := r.Fault(upstreamtest.Method("GET"), upstreamtest.Status(500, ""))
		wantManifest(t, get(t, n, "app", "tag"), namespace.Stale, old)
		fault.Remove()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Moved, moved)
	})
}

// TestFailingStore costs the cache, and no client its answer.
func TestFailingStoreOfManifests(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour))
		image := r.AddImage("app", "tag", []byte("a layer"))
		m.store.FailCommit(errors.New("disk full"))
		wantManifest(t, get(t, n, "app", "tag"), namespace.Passed, image)
		wantManifest(t, get(t, n, "app", image.Digest.String()), namespace.Passed, image)
		m.store.FailCommit(nil)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Miss, image)
		wantManifest(t, get(t, n, "app", "tag"), namespace.Hit, image)

		// Stored, but not to be read any more.
		m.store.FailOpen(errors.New("input/output error"))
		r.ResetRequests()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Miss, image)
		wantManifest(t, get(t, n, "app", image.Digest.String()), namespace.Miss, image)
		wantRequests(t, r,
			manifestRequest("GET", "app", image.Digest, 200),
			manifestRequest("GET", "app", image.Digest, 200))
		if m.log.Count("input/output error") != 2 {
			t.Error("the log does not tell of the failing store")
		}
		off := m.namespace("up.example", r, offline)
		if got := get(t, off, "app", "tag"); got.err == nil || isOffline(got.err) {
			t.Errorf("offline, a broken store is told as %v", got.err)
		}
	})
}

// TestEvictedContent is fetched again, and its tag with it.
func TestEvictedContent(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, immutable)
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		for _, ref := range []string{"tag", image.Digest.String()} {
			if err := m.store.Delete(t.Context(), image.Digest); err != nil {
				t.Fatal(err)
			}
			if got := get(t, m.namespace("up.example", r, offline), "app", ref); !isOffline(got.err) {
				t.Errorf("offline: %v", got.err)
			}
			wantManifest(t, get(t, n, "app", ref), namespace.Miss, image)
		}
	})
}

// TestPanicInALookup is an error of the requests that wait for it, and no more.
func TestPanicInALookup(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, func(s *namespace.Spec) { s.Upstreams = nil })
		if got := get(t, n, "app", "tag"); got.err == nil || !strings.Contains(got.err.Error(), "goroutine") {
			t.Errorf("got %v", got.err)
		}
	})
}
