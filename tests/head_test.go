package tests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// falseRefusals are answers that say less than they seem to about a tag that is
// cached. Each is of an upstream of its own.
var falseRefusals = []struct {
	name   string
	match  upstreamtest.Match
	effect upstreamtest.Effect
	tag    string // the Cache-Status of the tag
	asked  []string
}{
	{"head-400", isHead, upstreamtest.Status(400, ""), statusRevalidated, []string{"HEAD 400", "GET 200", "GET 200", "GET 200"}},
	{"head-404", isHead, upstreamtest.Status(404, ""), statusRevalidated, []string{"HEAD 404", "GET 200", "GET 200", "GET 200"}},
	{"head-406", isHead, upstreamtest.Status(406, ""), statusRevalidated, []string{"HEAD 406", "GET 200", "GET 200", "GET 200"}},
	{"head-410", isHead, upstreamtest.Status(410, ""), statusRevalidated, []string{"HEAD 410", "GET 200", "GET 200", "GET 200"}},
	{"head-500", isHead, upstreamtest.Status(500, ""), statusRevalidated, []string{"HEAD 500", "GET 200", "GET 200", "GET 200"}},
	{"head-501", isHead, upstreamtest.Status(501, ""), statusRevalidated, []string{"HEAD 501", "GET 200", "GET 200", "GET 200"}},
	{"head-page", isHead, upstreamtest.Header("Content-Type", "text/html"), statusRevalidated, []string{"HEAD 200", "GET 200", "GET 200", "GET 200"}},
	{"head-silent", isHead, upstreamtest.OmitDigest(), statusRevalidated, []string{"HEAD 200", "GET 200", "GET 200", "GET 200"}},
	{"page-404", upstreamtest.Any, upstreamtest.Status(404, "<html>404"), statusStale, nil},
	{"ingress", upstreamtest.Any, upstreamtest.Status(404, "default backend - 404"), statusStale, nil},
	{"tls-port", upstreamtest.Any, upstreamtest.Status(400, "<html>The plain HTTP request was sent to HTTPS port"), statusStale, nil},
	{"unsupported", upstreamtest.Any, upstreamtest.Status(400, `{"errors":[{"code":"UNSUPPORTED"}]}`), statusStale, nil},
	{"paged", upstreamtest.Any, upstreamtest.Status(400, `{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}`), statusStale, nil},
	{"too-many", upstreamtest.Any, upstreamtest.Status(400, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), statusStale, nil},
}

func isHead(r *http.Request) bool { return r.Method == http.MethodHead }

// No refusal but a registry's word takes a cached tag from its clients. A tag that is
// not there any more is told from one by the GET.
func TestFalseRefusals(t *testing.T) {
	t.Parallel()
	var config strings.Builder
	var upstreams []*upstreamtest.Registry
	for _, c := range falseRefusals {
		upstream := upstreamtest.New(t)
		upstreams = append(upstreams, upstream)
		config.WriteString(block(c.name, upstream))
	}
	w := harness.StartWeir(t, config.String())
	for i, c := range falseRefusals {
		upstream, path := upstreams[i], manifestPath(c.name+"/org/app", "v1")
		image := upstream.AddImage("org/app", "v1", []byte("a layer"))
		expectContent(t, c.name, w.Get(t, path), image.Digest, statusStored)
		upstream.ResetRequests()
		fault := upstream.Fault(c.match, c.effect)
		for range 2 {
			expectContent(t, c.name, w.Get(t, path), image.Digest, c.tag)
		}
		expect(t, c.name+", HEAD", w.Do(t, http.MethodHead, path), http.StatusOK, c.tag)
		if c.asked != nil {
			var want []string
			for _, request := range c.asked {
				method, status, _ := strings.Cut(request, " ")
				want = append(want, method+" "+manifestPath("org/app", "v1")+" "+status)
			}
			expectWire(t, upstream, c.name, want...)
		}
		fault.Remove()
		upstream.Untag("org/app", "v1")
		if c.name != "too-many" { // the upstream is not asked during its limit
			expect(t, c.name+", gone", w.Get(t, path), http.StatusNotFound, "")
		}
	}
}

// The blob of an upstream whose HEAD is useless can be pulled after a HEAD, and through
// a second repository that has it.
func TestFalseRefusalsOfBlobs(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	dgst := upstream.AddBlob("org/one", []byte("a layer"))
	upstream.AddBlob("org/two", []byte("a layer"))
	upstream.Fault(isHead, upstreamtest.Status(404, ""))
	w := harness.StartWeir(t, block("mirror", upstream))
	expect(t, "HEAD", w.Do(t, http.MethodHead, blobPath("mirror/org/one", dgst)), http.StatusOK, statusPassed)
	expectWire(t, upstream, "HEAD", "HEAD "+blobPath("org/one", dgst)+" 404", "GET "+blobPath("org/one", dgst)+" bytes=0-0 206")
	expectContent(t, "GET", w.Get(t, blobPath("mirror/org/one", dgst)), dgst, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	upstream.ResetRequests()
	expectContent(t, "another repository", w.Get(t, blobPath("mirror/org/two", dgst)), dgst, statusRevalidated)
	expectWire(t, upstream, "another repository", "GET "+blobPath("org/two", dgst)+" 200")
}
