package namespace_test

import (
	"errors"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func rechecking(s *namespace.Spec) { s.RecheckPossession = 24 * time.Hour }

// TestWithdrawnRight has an upstream withdraw a repository's right to an image, and asks
// for each part by digest, and for the immutable tag, before and after the time.
func TestWithdrawnRight(t *testing.T) {
	for name, tc := range map[string]struct {
		effect upstreamtest.Effect
		want   error // nil: served
		back   bool  // served again at once when the upstream answers as before
	}{
		"still there": {nil, nil, true},
		"not found":   {upstreamtest.Status(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`), upstream.ErrNotFound, true},
		"denied":      {upstreamtest.Status(403, ""), upstream.ErrDenied, true},
		"refused":     {upstreamtest.Status(401, ""), upstream.ErrDenied, true},
		"limited":     {upstreamtest.Status(429, ""), nil, true},
		"broken":      {upstreamtest.Status(500, ""), nil, true},
		"dropped":     {upstreamtest.Drop(), nil, true},
		"a page":      {upstreamtest.Status(404, "<html>"), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, rechecking, immutable, staleOn(upstream.ClassUnavailable, upstream.ClassRateLimited))
				content := []byte("a layer")
				image := r.AddImage("app", "v1", content)
				dgst := r.AddBlob("app", content)
				get(t, n, "app", "v1")
				wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, content)
				if tc.effect != nil {
					r.Fault(upstreamtest.Any, tc.effect)
				}
				r.ResetRequests()
				uses := map[string]func() error{
					"tag":             func() error { return get(t, n, "app", "v1").err },
					"manifest":        func() error { return get(t, n, "app", image.Digest.String()).err },
					"HEAD":            func() error { return head(t, n, "app", image.Digest.String()).err },
					"blob":            func() error { return getBlob(t, n, "app", dgst).err },
					"HEAD of a blob":  func() error { _, err := n.HeadBlob(t.Context(), "app", dgst); return err },
					"blob, once more": func() error { return getBlob(t, n, "app", dgst).err },
				}
				time.Sleep(23 * time.Hour)
				for use, ask := range uses {
					if err := ask(); err != nil {
						t.Errorf("%s, before the time: %v", use, err)
					}
				}
				wantRequests(t, r)
				time.Sleep(2 * time.Hour)
				for use, ask := range uses {
					if err := ask(); !errors.Is(err, tc.want) || tc.want == nil && err != nil {
						t.Errorf("%s: %v", use, err)
					}
				}
				if tc.want == nil && len(r.Requests()) > 12 { // a dropped request is repeated
					t.Errorf("asked too often: %q", r.Requests())
				}
				if tc.want != nil {
					if got := getBlob(t, m.namespace("up.example", r, offline), "app", dgst); !isOffline(got.err) {
						t.Errorf("the link is still there: %v", got.err)
					}
				}
				r.ClearFaults()
				time.Sleep(20 * time.Minute) // past any cooldown
				for use, ask := range uses {
					if err := ask(); err != nil {
						t.Errorf("%s, when the right is back: %v", use, err)
					}
				}
			})
		})
	}
}

// TestRecheckIsShared has a right that is old checked by one HEAD for all.
func TestRecheckIsShared(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, rechecking)
		content := []byte("a layer")
		dgst := r.AddBlob("app", content)
		getBlob(t, n, "app", dgst)
		r.ResetRequests()
		time.Sleep(25 * time.Hour)
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Blobs, upstreamtest.Hold(gate))
		together(gate, 20, func(int) {
			if b, err := n.HeadBlob(t.Context(), "app", dgst); err != nil || b.Cache != namespace.Revalidated {
				t.Errorf("got %+v, %v", b, err)
			}
		})
		wantRequests(t, r, blobRequest("HEAD", "app", dgst, "200"))
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Hit, content)
		wantRequests(t, r)
		// Other blocks do not recheck.
		time.Sleep(1000 * time.Hour)
		wantBlob(t, getBlob(t, m.namespace("up.example", r), "app", dgst), namespace.Hit, content)
		wantRequests(t, r)
	})
}
