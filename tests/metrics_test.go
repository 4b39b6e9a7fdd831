package tests

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// families returns all metrics.
func families(t *testing.T, w *harness.Weir) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(w.Get(t, "/metrics").Body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// Every metric is there with its labels. Their values are words of the
// configuration and fixed words, never words of a client's request.
func TestMetrics(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	upstream.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "42;w=21600"))
	limited := upstreamtest.New(t)
	limited.Fault(upstreamtest.Any, upstreamtest.Status(429, ""))
	image := upstream.AddImage("group/unmistakable-name", "unmistakable-tag", []byte("a layer"))
	w := harness.StartWeir(t, s3test.New(t).Config()+block("mirror", upstream)+block("limited", limited))

	name := "mirror/group/unmistakable-name"
	manifest := w.Get(t, manifestPath(name, "unmistakable-tag"))
	expectContent(t, "miss", manifest, image.Digest, statusStored)
	expectContent(t, "revalidated", w.Get(t, manifestPath(name, "unmistakable-tag")), image.Digest, statusRevalidated)
	expectContent(t, "hit", w.Get(t, manifestPath(name, image.Digest.String())), image.Digest, statusHit)
	layer := contentOf(t, manifest.Body)[1]
	expectContent(t, "blob", w.Get(t, blobPath(name, layer)), layer, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	for path, status := range map[string]int{
		"/v2/": 200, "/v2/" + name + "/tags/list": 200, "/v2/" + name + "/referrers/" + image.Digest.String(): 200,
		manifestPath("limited/unmistakable-name", "v1"): 429, manifestPath("nowhere/unmistakable-name", "v1"): 404,
		"/v2/unmistakable-name/..": 404, "/unmistakable-name": 404, "/v2/_catalog": 200,
	} {
		expect(t, path, w.Get(t, path), status, "")
	}
	expect(t, "write", w.Do(t, http.MethodPut, manifestPath(name, "v2")), http.StatusUnauthorized, "")

	families := families(t, w)
	for metric, labels := range map[string]string{
		"weir_requests_total":                               "cache namespace operation status",
		"weir_request_duration_seconds":                     "namespace operation",
		"weir_served_bytes_total":                           "cache namespace",
		"weir_upstream_requests_total":                      "class operation upstream",
		"weir_upstream_request_duration_seconds":            "upstream",
		"weir_upstream_bytes_total":                         "upstream",
		"weir_upstream_ratelimit_remaining":                 "upstream",
		"weir_upstream_ratelimit_limit":                     "upstream",
		"weir_upstream_cooldown":                            "operation upstream",
		"weir_token_requests_total":                         "result upstream",
		"weir_token_cache_total":                            "layer result",
		"weir_downloads":                                    "",
		"weir_download_readers":                             "",
		"weir_tag_checks_behind_total":                      "namespace result",
		"weir_prefetched_bytes_total":                       "namespace",
		"weir_prefetched_unused_bytes_total":                "namespace",
		"weir_jobs":                                         "state",
		"weir_jobs_total":                                   "result",
		"weir_store_bytes":                                  "",
		"weir_store_objects":                                "",
		"weir_config_last_reload_successful":                "",
		"weir_config_last_reload_success_timestamp_seconds": "",
		"weir_build_info":                                   "revision version",
		"weir_s3_operations_total":                          "operation result",
		"weir_s3_operation_seconds":                         "operation",
		"weir_s3_bytes_total":                               "direction",
		"weir_s3_paused":                                    "",
		"weir_tier_uploads_total":                           "result",
		"weir_tier_record_writes_total":                     "result",
		"weir_tier_uploads_waiting":                         "",
	} {
		family := families[metric]
		if len(family.GetMetric()) == 0 {
			t.Errorf("%s is missing", metric)
		}
		for _, m := range family.GetMetric() {
			var have []string
			for _, label := range m.GetLabel() {
				have = append(have, label.GetName())
			}
			if slices.Sort(have); strings.Join(have, " ") != labels {
				t.Errorf("%s has the labels %q, want %q", metric, have, labels)
			}
		}
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", metric)
		}
	}
	exposition := string(w.Get(t, "/metrics").Body)
	for _, text := range []string{"unmistakable", "nowhere", image.Digest.Encoded(), layer.Encoded()} {
		if strings.Contains(exposition, text) {
			t.Errorf("the metrics name %s:\n%s", text, exposition)
		}
	}

	for _, c := range []struct {
		want   float64
		metric string
		labels []string
	}{
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "manifest", "status", "200", "cache", "miss"}},
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "manifest", "status", "200", "cache", "revalidated"}},
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "manifest", "status", "200", "cache", "hit"}},
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "blob", "status", "200", "cache", "miss"}},
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "tags", "status", "200"}},
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "referrers", "status", "200"}},
		{1, "weir_requests_total", []string{"namespace", "mirror", "operation", "other", "status", "401", "cache", "none"}},
		{1, "weir_requests_total", []string{"namespace", "limited", "operation", "manifest", "status", "429", "cache", "none"}},
		{3, "weir_request_duration_seconds", []string{"namespace", "mirror", "operation", "manifest"}},
		{float64(len(manifest.Body)), "weir_served_bytes_total", []string{"namespace", "mirror", "cache", "hit"}},
		{1, "weir_upstream_requests_total", []string{"upstream", limited.Host, "operation", "manifest", "class", "rate_limited"}},
		{100, "weir_upstream_ratelimit_limit", []string{"upstream", upstream.Host}},
		{42, "weir_upstream_ratelimit_remaining", []string{"upstream", upstream.Host}},
		{0, "weir_upstream_cooldown", []string{"upstream", upstream.Host}},
		{1, "weir_upstream_cooldown", []string{"upstream", limited.Host, "operation", "manifest"}},
		{0, "weir_upstream_cooldown", []string{"upstream", limited.Host, "operation", "blob"}},
		{1, "weir_token_requests_total", []string{"upstream", upstream.Host, "result", "ok"}},
		{2, "weir_store_objects", nil},
		{float64(len(manifest.Body) + len("a layer")), "weir_store_bytes", nil},
		{1, "weir_build_info", nil},
	} {
		if got := w.Metric(t, c.metric, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.metric, c.labels, got, c.want)
		}
	}
}

// One line for each request has the fields that an operator needs.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", upstream))
	start := time.Now().Add(-time.Second)
	body := w.Get(t, manifestPath("mirror/org/app", "v1")).Body
	w.Get(t, manifestPath("mirror/org/app", image.Digest.String()))
	w.Get(t, manifestPath("mirror/org/app", "v2"))
	upstream.Close()
	w.Get(t, manifestPath("mirror/org/app", "v3"))
	w.Get(t, "/v2/")
	w.Logs(t, `"msg":"request"`, `"path":"/v2/"`)

	var lines []map[string]any
	for line := range strings.Lines(w.Log.String()) {
		entry := make(map[string]any)
		if err := json.NewDecoder(strings.NewReader(line)).Decode(&entry); err != nil && err != io.EOF {
			t.Errorf("%v: %s", err, line)
		}
		if entry["msg"] == "request" {
			lines = append(lines, entry)
		}
	}
	common := []string{"bytes", "cache", "client", "duration_s", "level", "method", "msg", "operation", "reference", "repository", "status", "time", "user_agent"}
	want := []struct {
		fields []string // beside the common ones
		values map[string]any
	}{
		{[]string{"upstream"}, map[string]any{"method": "GET", "repository": "mirror/org/app", "reference": "v1", "status": 200.0, "cache": "miss",
			"bytes": float64(len(body)), "client": "127.0.0.1", "upstream": upstream.Host, "level": "INFO", "operation": "manifest", "user_agent": "Go-http-client/1.1"}},
		{nil, map[string]any{"reference": image.Digest.String(), "cache": "hit", "status": 200.0}},
		{[]string{"error", "upstream"}, map[string]any{"reference": "v2", "status": 404.0, "cache": "none", "level": "INFO"}},
		{[]string{"error", "upstream"}, map[string]any{"reference": "v3", "status": 502.0, "cache": "none", "level": "WARN"}},
	}
	if len(lines) != len(want)+1 {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, c := range want {
		fields := slices.Sorted(slices.Values(append(c.fields, common...)))
		if got := slices.Sorted(maps.Keys(lines[i])); !slices.Equal(got, fields) {
			t.Errorf("line %d has the fields %q, want %q", i, got, fields)
		}
		for field, value := range c.values {
			if lines[i][field] != value {
				t.Errorf("line %d: %s is %v, want %v", i, field, lines[i][field], value)
			}
		}
		if took, ok := lines[i]["duration_s"].(float64); !ok || took <= 0 || took > harness.Patience.Seconds() {
			t.Errorf("line %d: duration_s %v", i, lines[i]["duration_s"])
		}
		at, err := time.Parse(time.RFC3339, lines[i]["time"].(string))
		if err != nil || at.Before(start) || at.After(time.Now()) {
			t.Errorf("line %d: time %v, %v", i, lines[i]["time"], err)
		}
	}
}
