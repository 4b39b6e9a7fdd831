package upstream_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A failure is reported before the pause after it, if the upstream is asked again, and a
// final one is not. The requests are those of a question without a report.
func TestSetbacks(t *testing.T) {
	for name, c := range map[string]struct {
		effects []upstreamtest.Effect
		times   int // failures
		want    int // reports
	}{
		"none":                 {[]upstreamtest.Effect{upstreamtest.Status(503, "")}, 0, 0},
		"503, once":            {[]upstreamtest.Effect{upstreamtest.Status(503, "")}, 1, 1},
		"503":                  {[]upstreamtest.Effect{upstreamtest.Status(503, "")}, 3, 2},
		"reset":                {[]upstreamtest.Effect{upstreamtest.Drop()}, 3, 2},
		"504, then none":       {[]upstreamtest.Effect{upstreamtest.Status(504, "")}, 2, 2},
		"500":                  {[]upstreamtest.Effect{upstreamtest.Status(500, "")}, 1, 0},
		"404":                  {[]upstreamtest.Effect{upstreamtest.Status(404, "")}, 1, 0},
		"429":                  {[]upstreamtest.Effect{upstreamtest.Status(429, "")}, 1, 0},
		"503 that says when":   {[]upstreamtest.Effect{upstreamtest.Status(503, ""), upstreamtest.Header("Retry-After", "30")}, 1, 0},
		"a body that is short": {[]upstreamtest.Effect{upstreamtest.CutAfter(1)}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				r.AddImage("repo", "latest", []byte("a layer"))
				fault := r.Fault(upstreamtest.Any, c.effects...).Times(c.times)
				client := newClient(t, r, on(n))
				began := time.Now()
				reports := 0
				ctx := upstream.OnSetback(t.Context(), func(err error) {
					if reports++; reports == 1 && time.Since(began) != 0 {
						t.Errorf("reported after %v", time.Since(began))
					}
					if upstream.ClassOf(err) != upstream.ClassUnavailable {
						t.Errorf("reported %v", err)
					}
				})
				_, _ = client.Manifest(ctx, "repo", oci.ByTag("latest"))
				if reports != c.want || fault.Hits() != c.times {
					t.Errorf("%d reports of %d failures, want %d of %d", reports, fault.Hits(), c.want, c.times)
				}
			})
		})
	}
}

// A chain reports a failure only if no further member may answer.
func TestSetbacksOfChain(t *testing.T) {
	for name, c := range map[string]struct {
		fallbackOn []upstream.Class
		want       int
	}{
		"all classes":            {nil, 0},
		"unavailable":            {[]upstream.Class{upstream.ClassUnavailable}, 0},
		"not found":              {[]upstream.Class{upstream.ClassNotFound}, 2},
		"none":                   {[]upstream.Class{}, 2},
		"denied or rate limited": {[]upstream.Class{upstream.ClassDenied, upstream.ClassRateLimited}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				first, second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test")), upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
				second.AddImage("repo", "latest", []byte("a layer"))
				first.Fault(upstreamtest.Any, upstreamtest.Status(503, ""))
				chain := upstream.NewChain(upstream.ChainOptions{FallbackOn: c.fallbackOn}, newClient(t, first, on(n)), newClient(t, second, on(n)))
				ask := func() (reports int) {
					_, _ = chain.Manifest(upstream.OnSetback(t.Context(), func(error) { reports++ }), "repo", oci.ByTag("latest"))
					return reports
				}
				if got := ask(); got != c.want {
					t.Errorf("%d reports, want %d", got, c.want)
				}
				// The last one's failures count in any case.
				second.Fault(upstreamtest.Any, upstreamtest.Status(503, ""))
				if got := ask(); got != 2 {
					t.Errorf("%d reports of all members, want 2", got)
				}
			})
		})
	}
}
