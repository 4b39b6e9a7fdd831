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
