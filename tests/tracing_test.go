package tests

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// receiver receives the spans that are exported by OTLP over HTTP.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*trace.Span
	asked []*http.Request
}

func startReceiver(t *testing.T) *receiver {
	t.Helper()
	r := new(receiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := io.Reader(req.Body)
		if req.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = unpacked
		}
		content, err := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(content, &request) != nil {
			http.Error(w, "not a request to export traces", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, req)
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				r.spans = append(r.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// all returns the spans that have come, in the order in which they began.
func (r *receiver) all() []*trace.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(r.spans), func(a, b *trace.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
}

// find returns the spans of a name.
func find(spans []*trace.Span, name string) (found []*trace.Span) {
	for _, span := range spans {
		if span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// attributes returns the attributes of a span.
func attributes(of []*common.KeyValue) map[string]string {
	values := make(map[string]string)
	for _, pair := range of {
		switch value := pair.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			values[pair.Key] = value.StringValue
		case *common.AnyValue_IntValue:
			values[pair.Key] = fmt.Sprint(value.IntValue)
		}
	}
	return values
}

func linked(a, b *trace.Span) bool {
	return slices.ContainsFunc(a.Links, func(link *trace.Span_Link) bool { return string(link.SpanId) == string(b.SpanId) })
}

// tracingTo is the configuration of a mirror that exports to a receiver. Spans
// leave when the mirror ends, at the latest.
func tracingTo(r *receiver, more string) string {
	return fmt.Sprintf("[observability.tracing]\nendpoint = %q\n%s\n", r.URL, more)
}

const (
	traceID     = "0af7651916cd43dd8448eb211c80319c"
	parentID    = "b7ad6b7169203331"
	traceparent = "00-" + traceID + "-" + parentID + "-01"
)

// A pull by a client that is traced: its requests, the upstream requests that
// they caused, and the download that two of them shared, which has a trace of
// its own.
func TestTraces(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "open-sesame"}), upstreamtest.WithCDN(upstreamtest.CDN{}))
	image := upstream.AddImage("org/app", "1.2", []byte("a layer"))
	blob := upstream.AddRandomBlob("org/app", 3*mib, 1)
	w := harness.StartWeir(t, tracingTo(r, "")+blockOf("ghcr.io", nil, at(upstream, `username = "reader"`, `password = "open-sesame"`)))
	expectContent(t, "the manifest", w.Get(t, manifestPath("ghcr.io/org/app", "1.2"), "Traceparent", traceparent), image.Digest, statusStored)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.CDNBlobs, upstreamtest.StallAfter(mib, gate))
	first := w.Open(t, blobPath("ghcr.io/org/app", blob), "Traceparent", traceparent)
	arrived(t, gate, 1)
	second := w.Open(t, blobPath("ghcr.io/org/app", blob), "Traceparent", traceparent)
	gate.Open()
	for _, resp := range []*http.Response{first, second} {
		if n, err := io.Copy(io.Discard, resp.Body); n != 3*mib || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	expect(t, "a probe", w.Get(t, "/healthz"), http.StatusOK, "")
	w.Logs(t, `"reference":"1.2"`, `"trace_id":"`+traceID+`"`)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	spans := r.all()
	byID := make(map[string]*trace.Span)
	for _, span := range spans {
		byID[string(span.SpanId)] = span
	}
	parent := func(span *trace.Span) string {
		if above := byID[string(span.ParentSpanId)]; above != nil {
			return above.Name
		}
		return hex.EncodeToString(span.ParentSpanId)
	}
	var tree []string
	for _, span := range spans {
		tree = append(tree, parent(span)+" > "+span.Name)
	}
	slices.Sort(tree)
	want := []string{
		" > download", parentID + " > GET blob", parentID + " > GET blob", parentID + " > GET manifest",
		"GET manifest > upstream GET manifest", "download > upstream GET blob", "upstream GET manifest > token request",
	}
	slices.Sort(want)
	if !slices.Equal(tree, want) {
		t.Fatalf("the spans are\n\t%s\nwant\n\t%s", strings.Join(tree, "\n\t"), strings.Join(want, "\n\t"))
	}
	manifest, download := find(spans, "GET manifest")[0], find(spans, "download")[0]
	if a := attributes(manifest.Attributes); hex.EncodeToString(manifest.TraceId) != traceID || a["weir.repository"] != "ghcr.io/org/app" ||
		a["weir.reference"] != "1.2" || a["weir.cache"] != "miss" || a["http.response.status_code"] != "200" {
		t.Errorf("the manifest's span: %v", manifest)
	}
	for _, request := range find(spans, "GET blob") {
		if !linked(request, download) || !linked(download, request) {
			t.Errorf("a request and the download that it read from are not linked: %v", request.Links)
		}
	}
	if a := attributes(download.Attributes); a["weir.bytes"] != fmt.Sprint(3*mib) || a["weir.upstream"] != upstream.URL.Host || hex.EncodeToString(download.TraceId) == traceID {
		t.Errorf("the download's span: %v", download)
	}
	fetch := find(spans, "upstream GET blob")[0]
	if len(fetch.Events) == 0 || fetch.Events[0].Name != "redirect" || attributes(fetch.Attributes)["weir.class"] != "ok" {
		t.Errorf("the upstream request's span: %v", fetch)
	}
	// Nothing that lets its reader in, and nothing of the trace to upstreams.
	exported := fmt.Sprint(spans)
	for _, secret := range []string{"open-sesame", "signature", "Bearer", "Basic"} {
		if strings.Contains(exported, secret) {
			t.Errorf("%q was exported", secret)
		}
	}
	for _, request := range upstream.Log() {
		if request.Header.Get("Traceparent") != "" || request.Header.Get("Tracestate") != "" || request.Header.Get("Baggage") != "" {
			t.Errorf("%s tells of the trace", request)
		}
	}
}

// The download of a replica and that of a replica which follows it are parts of two traces that
// refer to each other.
func TestTracesOfReplicas(t *testing.T) {
	t.Parallel()
	r, upstream, redis := startReceiver(t), upstreamtest.New(t), redistest.Start(t)
	config := tracingTo(r, "") + fmt.Sprintf("[cache.redis]\nurl = %q\n[cluster]\nsecret = %q\npeer_port = 0\n", redis.URL(), strings.Repeat("secret ", 6)) + blockOf("ghcr.io", nil, at(upstream))
	holder, follower := harness.StartWeir(t, config), harness.StartWeir(t, config)
	const received, leases = "weir_cluster_peer_bytes_total", "weir_cluster_lease_total"
	for seed := uint64(0); ; seed++ {
		blob := upstream.AddRandomBlob("org/app", 3*mib, seed)
		path := blobPath("ghcr.io/org/app", blob)
		gate := upstreamtest.NewGate()
		upstream.Fault(upstreamtest.Path(blob.Encoded()), upstreamtest.StallAfter(mib, gate)).Times(1)
		alone := follower.Metric(t, leases, "result", "alone")
		first := holder.Pull(t, path)
		arrived(t, gate, 1)
		second := follower.Pull(t, path)
		harness.Eventually(t, "the second replica follows the first one, or works alone", func() bool {
			return follower.Metric(t, received, "direction", "received") >= mib || follower.Metric(t, leases, "result", "alone") > alone
		})
		gate.Open()
		first.Whole(t, "the holder", blob)
		second.Whole(t, "the follower", blob)
		// A replica that gets no processor for a second is passed over, which is right.
		if follower.Metric(t, leases, "result", "alone") == alone {
			break
		}
		if seed == 4 {
			t.Fatal("the replica worked alone each time")
		}
	}
	for _, w := range []*harness.Weir{holder, follower} {
		if code := w.Terminate(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	downloads := find(r.all(), "download")
	held, followed := downloads[len(downloads)-2], downloads[len(downloads)-1]
	if string(held.TraceId) == string(followed.TraceId) || !linked(held, followed) || !linked(followed, held) {
		t.Errorf("the holder's download %v and the follower's %v do not refer to each other", held, followed)
	}
}

// The span of a failure has its error.
func TestTracesOfFailures(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	upstream := upstreamtest.New(t)
	upstream.Fault(upstreamtest.Any, upstreamtest.Status(http.StatusServiceUnavailable, "database is down"))
	w := harness.StartWeir(t, tracingTo(r, "")+block("ghcr.io", upstream))
	expect(t, "the manifest", w.Get(t, manifestPath("ghcr.io/org/app", "1.2")), http.StatusBadGateway, "")
	w.Terminate(t)
	spans := r.all()
	tries := find(spans, "upstream GET manifest")
	if request := find(spans, "GET manifest"); len(request) != 1 || request[0].Status.GetCode() != trace.Status_STATUS_CODE_ERROR {
		t.Errorf("the request: %v", request)
	}
	if len(tries) < 2 {
		t.Fatalf("there are spans of %d tries: %v", len(tries), spans)
	}
	for i, try := range tries {
		a := attributes(try.Attributes)
		if again := a["http.request.resend_count"]; try.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || a["weir.class"] != "unavailable" ||
			a["http.response.status_code"] != "503" || (i > 0) != (again == fmt.Sprint(i)) {
			t.Errorf("try %d: %v", i+1, try)
		}
	}
}

// A signed URL that cannot be reached is told by its host alone.
func TestTracesKeepSignedURLsBack(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	upstream := upstreamtest.New(t, upstreamtest.WithCDN(upstreamtest.CDN{}))
	blob := upstream.AddRandomBlob("org/app", mib, 1)
	upstream.CloseCDN()
	w := harness.StartWeir(t, tracingTo(r, "")+block("ghcr.io", upstream))
	expect(t, "the blob", w.Get(t, blobPath("ghcr.io/org/app", blob)), http.StatusBadGateway, "")
	w.Terminate(t)
	exported := fmt.Sprint(r.all())
	if !strings.Contains(exported, upstream.CDNHost()) || strings.Contains(exported, "/cdn/") || strings.Contains(exported, "signature") {
		t.Errorf("exported %s", exported)
	}
}

// The client decides whether a request is traced, else the rate does.
func TestTraceSampling(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		more   string
		header []string
		env    []string
		want   bool
	}{
		"all":                       {want: true},
		"none":                      {more: "sampling_rate = 0.0"},
		"none but the client's":     {more: "sampling_rate = 0.0", header: []string{"Traceparent", traceparent}, want: true},
		"the client says no":        {more: "sampling_rate = 1.0", header: []string{"Traceparent", strings.TrimSuffix(traceparent, "1") + "0"}},
		"the environment":           {env: []string{"OTEL_TRACES_SAMPLER=always_off"}},
		"the file, not the sampler": {more: "sampling_rate = 1.0", env: []string{"OTEL_TRACES_SAMPLER=always_off"}, want: true},
		"the SDK is disabled":       {env: []string{"OTEL_SDK_DISABLED=true"}},
		"no exporter":               {env: []string{"OTEL_TRACES_EXPORTER=none"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReceiver(t)
			w := harness.StartWeir(t, tracingTo(r, test.more)+block("ghcr.io", upstreamtest.New(t)), test.env...)
			expect(t, "a request", w.Get(t, manifestPath("ghcr.io/org/app", "1.2"), test.header...), http.StatusNotFound, "")
			w.Terminate(t)
			if got := len(r.all()) > 0; got != test.want {
				t.Errorf("traced: %t, want %t", got, test.want)
			}
			if inLog := w.Log.Count(`"msg":"request"`, `"trace_id"`) > 0; inLog != (test.want || test.header != nil && w.Log.Count("traces are exported") > 0) {
				t.Errorf("a trace_id in the log: %t", inLog)
			}
		})
	}
}

// The standard variables alone are enough, and without either there is nothing.
func TestTracingByEnvironment(t *testing.T) {
	t.Parallel()
	odd := harness.StartWeir(t, block("ghcr.io", upstreamtest.New(t)), "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json")
	odd.Logs(t, `"level":"ERROR"`, `OTEL_EXPORTER_OTLP_PROTOCOL is \"http/json\": set it to \"http/protobuf\" or \"grpc\"`)
	r := startReceiver(t)
	w := harness.StartWeir(t, block("ghcr.io", upstreamtest.New(t)), "OTEL_EXPORTER_OTLP_ENDPOINT="+r.URL, "OTEL_EXPORTER_OTLP_HEADERS=api-key=s3cret", "OTEL_SERVICE_NAME=mirror-1")
	w.Get(t, "/v2/")
	w.Terminate(t)
	if len(r.all()) != 1 || r.asked[0].Header.Get("Api-Key") != "s3cret" || strings.Contains(w.Log.String(), "s3cret") {
		t.Errorf("exported %v", r.all())
	}
	w = harness.StartWeir(t, block("ghcr.io", upstreamtest.New(t)))
	w.Get(t, "/v2/", "Traceparent", traceparent)
	if w.Log.Count("trace") > 0 {
		t.Error("a mirror without tracing speaks of traces")
	}
}

// A receiver that is down costs a line in the log, and no pull.
func TestTracingWithoutReceiver(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "1.2")
	w := harness.StartWeir(t, fmt.Sprintf("[observability.tracing]\nendpoint = \"http://reader:open-sesame@%s\"\n", testutil.FreeAddr(t))+block("ghcr.io", upstream),
		"OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_EXPORTER_OTLP_TIMEOUT=100")
	for range 20 {
		expectContent(t, "a pull", w.Get(t, manifestPath("ghcr.io/org/app", image.Digest.String())), image.Digest, "")
	}
	w.Logs(t, "traces cannot be exported")
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := w.Log.Count(`"level":"WARN"`, "traces cannot be exported"); n != 1 || strings.Contains(w.Log.String(), "open-sesame") {
		t.Errorf("said %d times, want once, without the password", n)
	}
}

// The page has the names of all spans and attributes.
func TestTracesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/tracing.md")
	harness.Must(t, err)
	names := 0
	for _, file := range []string{"../registry/trace.go", "../storage/download/trace.go", "../upstream/trace.go"} {
		source, err := os.ReadFile(file)
		harness.Must(t, err)
		for _, name := range regexp.MustCompile(`"(weir\.[a-z]+)"`).FindAllStringSubmatch(string(source), -1) {
			names++
			if !strings.Contains(string(page), "`"+name[1]+"`") {
				t.Errorf("docs/tracing.md does not have %s", name[1])
			}
		}
	}
	if names < 10 {
		t.Errorf("%d names of attributes", names)
	}
}
