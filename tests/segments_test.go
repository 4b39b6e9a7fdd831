package tests

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// segmentedBlob is a large blob of a registry that sends ranges. The stream of the whole blob
// stalls after 5 MiB, so that a pull of it gets its segments and nothing more.
func segmentedBlob(t *testing.T, upstream *upstreamtest.Registry, seed uint64) (content []byte, stalled *upstreamtest.Gate) {
	t.Helper()
	content = random(t, 64*mib, seed)
	dgst := upstream.AddBlob("org/app", content)
	stalled = upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.Header("Accept-Ranges", "bytes"))
	upstream.Fault(upstreamtest.Path(dgst.Encoded()), upstreamtest.StallAfter(5*mib, stalled)).Times(1)
	return content, stalled
}

// A large blob comes in four streams at once, and each byte of it once.
func TestLargeBlobComesInSegments(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	content, stalled := segmentedBlob(t, upstream, 300)
	w := harness.StartWeir(t, block("mirror", upstream))
	p := w.Pull(t, blobPath("mirror/org/app", digest.FromBytes(content)))
	w.MetricIs(t, 3, "weir_download_segments_total", "result", "complete")
	requests := upstream.Requests()
	if parts := slices.DeleteFunc(slices.Clone(requests), func(r string) bool { return !strings.HasSuffix(r, " 206") }); len(requests) != 4 || len(parts) != 3 {
		t.Errorf("the upstream was asked %q, want one request for the blob and three for segments of it", requests)
	}
	stalled.Open()
	if p.Wait(t); p.Err != nil || p.Digest != digest.FromBytes(content) {
		t.Errorf("%d other bytes, %v", p.Length, p.Err)
	}
	w.MetricIs(t, 0, "weir_downloads")
	if got := w.Metric(t, "weir_upstream_bytes_total"); got != float64(len(content)) {
		t.Errorf("%v bytes came for a blob of %d: %q", got, len(content), upstream.Requests())
	}
	w.ExpectIntact(t)
}

// A mirror that is killed while segments are ahead of a gap leaves nothing that the next one
// takes for content.
func TestKillAmongSegments(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	content, stalled := segmentedBlob(t, upstream, 301)
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("mirror", upstream))
	path := blobPath("mirror/org/app", digest.FromBytes(content))
	p := w.Pull(t, path)
	w.MetricIs(t, 3, "weir_download_segments_total", "result", "complete")
	w.Kill()
	stalled.Open()
	if p.Wait(t); p.Err == nil {
		t.Errorf("the client took %d of %d bytes for whole", p.Length, len(content))
	}
	next := harness.StartWeirIn(t, dir, block("mirror", upstream))
	if a := next.Get(t, path); !bytes.Equal(a.Body, content) {
		t.Errorf("the next mirror sent %d bytes, want %d", len(a.Body), len(content))
	}
	next.MetricIs(t, 0, "weir_downloads")
	harness.Eventually(t, "the leftovers are gone", func() bool { return len(next.Stored(t, "tmp")) == 1 })
	next.ExpectIntact(t)
}

// A member of a block that lies in one of its segments is blamed: its client gets no end, and the
// next one the blob from the second member.
func TestLieInASegment(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ at int64 }{
		"in the first segment": {at: 13 * mib}, "in a later one": {at: 40 * mib}, "in the last one": {at: 64*mib - 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			liar, honest := upstreamtest.New(t), upstreamtest.New(t)
			content, stalled := segmentedBlob(t, liar, 303)
			dgst := honest.AddBlob("org/app", content)
			segment := func(r *http.Request) bool { return upstreamtest.Blobs(r) && r.Header.Get("Range") != "" }
			lie := liar.Fault(segment, upstreamtest.Corrupt(c.at))
			w := harness.StartWeir(t, blockOf("mirror", nil, at(liar), at(honest)))
			path := blobPath("mirror/org/app", dgst)
			p := w.Pull(t, path)
			w.MetricIs(t, 3, "weir_download_segments_total", "result", "complete")
			stalled.Open()
			if p.Wait(t); p.Err == nil || p.Length >= int64(len(content)) {
				t.Errorf("the client took %d bytes for whole", p.Length)
			}
			if lie.Hits() < 3 {
				t.Errorf("the liar was asked for %d segments", lie.Hits())
			}
			w.MetricIs(t, 0, "weir_downloads")
			liar.ResetRequests()
			w.Pull(t, path).Whole(t, "the next client", dgst)
			if asked := liar.Requests(); len(asked) > 0 {
				t.Errorf("the liar was asked again: %q", asked)
			}
			w.ExpectIntact(t)
		})
	}
}

// With one stream as the rule, a blob comes in one, however large it is.
func TestSegmentsAreOff(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	content, stalled := segmentedBlob(t, upstream, 302)
	stalled.Open()
	w := harness.StartWeir(t, block("mirror", upstream)+"segments = 1\n")
	if a := w.Get(t, blobPath("mirror/org/app", digest.FromBytes(content))); !bytes.Equal(a.Body, content) {
		t.Errorf("%d other bytes", len(a.Body))
	}
	expectWire(t, upstream, "the whole", "GET "+blobPath("org/app", digest.FromBytes(content))+" 200")
}
