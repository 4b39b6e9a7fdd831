package upstream_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A client knows how its registry is: the last rate limit, failures by class, the latency, and a cooldown with its end.
func TestStatus(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test:5000"))
		r.AddImage("repo", "latest", []byte("layer"))
		c := newClient(t, r, on(n))
		latest := must[oci.Reference](t)(oci.ParseReference("latest"))
		if s := c.Status(); s.Host != "registry.test:5000" || s.State != upstream.StateUnknown || s.Requests != 0 || s.HasLimit || !s.Until.IsZero() {
			t.Errorf("before the first request: %+v", s)
		}
		r.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "76;w=21600")).Times(1)
		if _, err := c.Manifest(t.Context(), "repo", latest); err != nil {
			t.Fatal(err)
		}
		if s := c.Status(); s.State != upstream.StateOK || s.Requests != 1 || len(s.Errors) != 0 || !s.HasLimit || s.Limit != 100 || s.Remaining != 76 || s.Latency < 0 {
			t.Errorf("after an answer: %+v", s)
		}
		r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusTooManyRequests, "TOOMANYREQUESTS"), upstreamtest.Header("Retry-After", "60")).Times(1)
		if _, err := c.Manifest(t.Context(), "repo", latest); err == nil {
			t.Error("no failure")
		}
		if s := c.Status(); s.State != upstream.StateLimited || s.Errors[upstream.ClassRateLimited] != 1 || time.Until(s.Until) > time.Minute || s.Until.Before(time.Now()) {
			t.Errorf("after a 429: %+v", s)
		}
	})
}

// A registry that answers, but with errors only, counts as failing until it answers right. Words about
// content or rights are right answers.
func TestStatusOfABrokenRegistry(t *testing.T) {
	for name, test := range map[string]struct {
		effects []upstreamtest.Effect
		healed  []string // the repositories whose answer ends the failure
	}{
		"errors":            {[]upstreamtest.Effect{upstreamtest.Status(http.StatusInternalServerError, "UNKNOWN")}, []string{"repo", "missing"}},
		"a gateway's pages": {[]upstreamtest.Effect{upstreamtest.Status(http.StatusBadGateway, "")}, []string{"repo", "missing"}},
		"no manifests": {[]upstreamtest.Effect{
			upstreamtest.Status(http.StatusOK, "<html>welcome</html>"), upstreamtest.Header("Content-Type", "text/html"),
		}, []string{"repo"}},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test:5000"))
				r.AddImage("repo", "latest", []byte("layer"))
				c := newClient(t, r, on(n))
				latest := must[oci.Reference](t)(oci.ParseReference("latest"))
				for _, repo := range test.healed {
					r.Fault(upstreamtest.Manifests, test.effects...)
					for range 3 {
						if _, err := c.Manifest(t.Context(), "repo", latest); err == nil {
							t.Error("no failure")
						}
					}
					if s := c.Status(); s.State != upstream.StateFailing {
						t.Errorf("after three failures: %+v", s)
					}
					r.ClearFaults()
					if _, err := c.Manifest(t.Context(), repo, latest); err != nil != (repo == "missing") {
						t.Errorf("%s: %v", repo, err)
					}
					if s := c.Status(); s.State != upstream.StateOK {
						t.Errorf("after an answer about %s: %+v", repo, s)
					}
				}
			})
		})
	}
}
