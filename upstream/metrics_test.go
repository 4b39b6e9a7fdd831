package upstream_test

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// series returns the value of every series, of histograms the count, by its name
// and the values of its labels in the order of the labels' names.
func series(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	all := make(map[string]float64)
	for _, family := range must[[]*dto.MetricFamily](t)(registry.Gather()) {
		for _, m := range family.GetMetric() {
			name := []string{strings.TrimPrefix(family.GetName(), "weir_")}
			for _, label := range m.GetLabel() {
				name = append(name, label.GetValue())
			}
			all[strings.Join(name, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

// nonzero drops the series at zero.
func nonzero(all map[string]float64) map[string]float64 {
	some := maps.Clone(all)
	maps.DeleteFunc(some, func(_ string, value float64) bool { return value == 0 })
	return some
}

func TestMetrics(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		registry := prometheus.NewPedanticRegistry()
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test:5000"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		image := r.AddImage("repo", "latest", []byte("layer"))
		layer := r.AddBlob("repo", blob)
		r.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "76;w=21600")).Times(3)
		metrics := upstream.NewMetrics(registry)
		withMetrics := func(o *upstream.Options) { o.Metrics = metrics }
		c := newClient(t, r, on(n), withMetrics)
		other := newClient(t, r, on(n), withMetrics) // one more of the same host

		const host = " registry.test:5000"
		fresh := series(t, registry)
		if got, want := nonzero(fresh), map[string]float64{"upstream_state available" + host: 1}; !cmp.Equal(got, want) {
			t.Errorf("at the start: %s", cmp.Diff(want, got))
		}
		for _, class := range []string{"ok", "not_found", "denied", "unavailable", "rate_limited"} {
			for _, name := range []string{"upstream_requests_total " + class + " manifest" + host, "upstream_requests_total " + class + " blob" + host,
				"upstream_requests_total " + class + " tags" + host, "upstream_requests_total " + class + " referrers" + host, "token_requests_total " + class + host} {
				if _, ok := fresh[name]; !ok {
					t.Errorf("%s is missing at the start", name)
				}
			}
		}

		must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		b, err := alone(c).Blob(t.Context(), "repo", layer, 0, -1)
		readBody(t, b, err)
		b.Reject()
		c.Manifest(t.Context(), "repo", oci.ByTag("absent"))
		r.Fault(upstreamtest.Any, upstreamtest.Status(429, ""))
		c.Tags(t.Context(), "repo", nil)
		c.Tags(t.Context(), "repo", nil) // cools down: no request
		want := map[string]float64{
			"token_requests_total ok" + host:                    1,
			"upstream_bytes_total" + host:                       float64(image.Size + blobSize),
			"upstream_corrupt_total" + host:                     1,
			"upstream_ratelimit_limit" + host:                   100,
			"upstream_ratelimit_remaining" + host:               76,
			"upstream_request_duration_seconds" + host:          4,
			"upstream_requests_total not_found manifest" + host: 1,
			"upstream_requests_total ok blob" + host:            1,
			"upstream_requests_total ok manifest" + host:        1,
			"upstream_requests_total rate_limited tags" + host:  1,
			"upstream_requests_total unavailable blob" + host:   1,
			"upstream_cooldown list" + host:                     1,
			"upstream_state rate_limited" + host:                1,
		}
		if got := nonzero(series(t, registry)); !cmp.Equal(got, want) {
			t.Error(cmp.Diff(want, got))
		}
		time.Sleep(time.Minute)
		if got := series(t, registry); got["upstream_cooldown list"+host] != 0 || got["upstream_state available"+host] != 1 || got["upstream_state rate_limited"+host] != 0 {
			t.Errorf("after the cooldown: %v", got)
		}

		c.Close()
		if got := nonzero(series(t, registry)); got["upstream_bytes_total"+host] == 0 {
			t.Errorf("what an upstream's other client counted is gone: %v", got)
		}
		other.Close()
		// A request of a closed client ends, and counts for no client.
		r.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "75;w=21600"))
		c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if got := series(t, registry); len(got) != 0 {
			t.Errorf("of an upstream without clients there is %v", got)
		}
	})
}

// An upstream's state follows its circuit breaker and its lies, and several
// clients of one host count as the worst of them.
func TestUpstreamState(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		registry := prometheus.NewPedanticRegistry()
		metrics := upstream.NewMetrics(registry)
		withMetrics := func(o *upstream.Options) { o.Metrics = metrics }
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		r.AddImage("repo", "latest", []byte("layer"))
		c := newClient(t, r, on(n), withMetrics)
		newClient(t, r, on(n), withMetrics)
		expect := func(state string) {
			t.Helper()
			states := 0
			for name, value := range nonzero(series(t, registry)) {
				if strings.HasPrefix(name, "upstream_state") {
					if states++; name != "upstream_state "+state+" registry.test:80" || value != 1 {
						t.Errorf("%s is %v, want %s", name, value, state)
					}
				}
			}
			if states != 1 {
				t.Errorf("it is in %d states, want one", states)
			}
		}
		expect("available")
		r.Close()
		for range 3 {
			c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		}
		expect("unreachable")
		time.Sleep(10 * time.Second)
		expect("probing")
		r.Reopen()
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		expect("available")
		for i := range 3 {
			dgst := digest.FromString(fmt.Sprint("blob ", i))
			r.AddBlobAs("repo", dgst, []byte("not that"))
			b := must[oci.Blob](t)(alone(c).Blob(t.Context(), "repo", dgst, 0, -1))
			must[[]byte](t)(io.ReadAll(b))
			b.Reject()
			b.Close()
		}
		expect("corrupt")
	})
}

// Metrics name an upstream by host and port, also where its URL leaves the port
// out.
func TestMetricLabelHasThePort(t *testing.T) {
	for raw, want := range map[string]string{
		"https://Registry.test":     "registry.test:443",
		"http://registry.test":      "registry.test:80",
		"https://registry.test:444": "registry.test:444",
		"https://[::1]/team":        "[::1]:443",
	} {
		target, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewRegistry()
		c := upstream.NewClient(upstream.Options{URL: target, Metrics: upstream.NewMetrics(registry)})
		if got, ok := series(t, registry)["upstream_cooldown manifest "+want]; !ok || got != 0 {
			t.Errorf("%s: no series of %s that is 0", raw, want)
		}
		c.Close()
	}
}
