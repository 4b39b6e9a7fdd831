package tests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Clients that want the same blob at once share one download.
func TestManyClientsOneDownload(t *testing.T) {
	t.Parallel()
	const clients, size = 32, 64 * mib
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", size, 1)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("mirror", upstream))

	pulls := make([]*harness.Pulling, clients)
	for i := range pulls {
		pulls[i] = w.Pull(t, blobPath("mirror/org/app", dgst))
	}
	w.MetricIs(t, clients, "weir_download_readers")
	gate.Open()
	outcomes := make(map[string]int)
	for i, p := range pulls {
		p.Whole(t, fmt.Sprint("client ", i), dgst)
		outcomes[p.Header.Get("Cache-Status")]++
	}
	if outcomes[statusStored] != 1 || outcomes[statusCollapsed] != clients-1 {
		t.Errorf("outcomes %v, want one that stored and %d that joined", outcomes, clients-1)
	}
	expectWire(t, upstream, "all clients", "GET "+blobPath("org/app", dgst)+" 200")
	w.MetricIs(t, 0, "weir_downloads")
	w.ExpectIntact(t)
}

// A client that leaves early has still made the mirror want the blob.
func TestClientThatLeavesFillsTheCache(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", size, 2)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/5, gate))
	w := harness.StartWeir(t, block("mirror", upstream))

	resp := w.Open(t, blobPath("mirror/org/app", dgst))
	if _, err := io.CopyN(io.Discard, resp.Body, size/10); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	w.MetricIs(t, 1, "weir_jobs", "state", "running")
	gate.Open()
	w.MetricIs(t, 1, "weir_jobs_total", "result", "done")
	if got := w.Metric(t, "weir_jobs_total"); got != 1 {
		t.Errorf("%v jobs have ended, want 1", got)
	}

	upstream.ResetRequests()
	a := w.Get(t, blobPath("mirror/org/app", dgst))
	expectContent(t, "warm", a, dgst, statusHit)
	expectWire(t, upstream, "warm")
}

// A client that does not read holds back neither the download nor the others.
func TestSlowClientHoldsBackNobody(t *testing.T) {
	t.Parallel()
	const size = 32 * mib
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", size, 3)
	w := harness.StartWeir(t, block("mirror", upstream))

	slow := w.OpenSlow(t, blobPath("mirror/org/app", dgst))
	digester := digest.Canonical.Digester()
	body := io.TeeReader(slow.Body, digester.Hash())
	if _, err := io.CopyN(io.Discard, body, 1); err != nil {
		t.Fatal(err)
	}
	var others []*harness.Pulling
	for range 4 {
		others = append(others, w.Pull(t, blobPath("mirror/org/app", dgst)))
	}
	for i, p := range others {
		p.Whole(t, fmt.Sprint("client ", i), dgst)
	}
	w.MetricIs(t, 0, "weir_downloads")
	if _, err := io.Copy(io.Discard, body); err != nil || digester.Digest() != dgst {
		t.Errorf("the slow client got %s and %v, want %s", digester.Digest(), err, dgst)
	}
	expectWire(t, upstream, "all clients", "GET "+blobPath("org/app", dgst)+" 200")
}

// A body that is not the digest's never comes to its end anywhere, and is not
// kept.
func TestCorruptBlob(t *testing.T) {
	t.Parallel()
	const size = 4 * mib
	upstream := upstreamtest.New(t)
	large := addRandom(t, upstream, "org/app", size, 4)
	small := addRandom(t, upstream, "org/app", 10*kib, 5)
	gate := upstreamtest.NewGate()
	fault := upstream.Fault(upstreamtest.Blobs, upstreamtest.Corrupt(9*kib), upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("mirror", upstream))

	var pulls []*harness.Pulling
	for range 4 {
		pulls = append(pulls, w.Pull(t, blobPath("mirror/org/app", large)))
	}
	w.MetricIs(t, 4, "weir_download_readers")
	gate.Open()
	for i, p := range pulls {
		p.Wait(t)
		if p.Status == http.StatusOK && p.Err == nil || p.Length >= size {
			t.Errorf("client %d: status %d, %d bytes, error %v", i, p.Status, p.Length, p.Err)
		}
	}
	// Nothing of a small one has been passed on before it is known to be
	// corrupt, so the client can be told.
	a := w.Get(t, blobPath("mirror/org/app", small))
	expect(t, "small", a, http.StatusBadGateway, "")
	if a.ErrorCode() != "UNAVAILABLE" {
		t.Errorf("small: %s", a.Body)
	}
	w.MetricIs(t, 0, "weir_downloads")
	if files := w.Stored(t, "blobs"); len(files) > 0 {
		t.Errorf("stored: %q", files)
	}

	fault.Remove()
	expectContent(t, "mended", w.Get(t, blobPath("mirror/org/app", large)), large, statusStored)
	expectContent(t, "mended", w.Get(t, blobPath("mirror/org/app", small)), small, statusStored)
}

// Where the first upstream delivers the wrong bytes, the second one is asked.
func TestCorruptBlobFromTheFirstUpstream(t *testing.T) {
	t.Parallel()
	first, second := upstreamtest.New(t), upstreamtest.New(t)
	dgst := addRandom(t, first, "org/app", mib, 6)
	addRandom(t, second, "org/app", mib, 6)
	first.Fault(upstreamtest.Blobs, upstreamtest.Corrupt(0))
	w := harness.StartWeir(t, blockOf("mirror", nil, at(first), at(second)))

	if p := w.Pull(t, blobPath("mirror/org/app", dgst)).Wait(t); p.Err == nil && p.Digest != dgst {
		t.Errorf("the client took %d corrupt bytes for whole", p.Length)
	}
	expectContent(t, "again", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, "")
	expectWire(t, first, "first", "GET "+blobPath("org/app", dgst)+" 200")
	expectWire(t, second, "second", "GET "+blobPath("org/app", dgst)+" 200")

	// Of a small one no client has seen a byte yet, and none notices.
	small := addRandom(t, first, "org/app", 10*kib, 11)
	addRandom(t, second, "org/app", 10*kib, 11)
	expectContent(t, "small", w.Get(t, blobPath("mirror/org/app", small)), small, statusStored)
	expectWire(t, second, "small", "GET "+blobPath("org/app", small)+" 200")
	w.ExpectIntact(t)
}

// A download that breaks goes on where it stopped, and no client notices.
func TestDownloadResumes(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	for _, c := range []struct {
		name   string
		faults func(first *upstreamtest.Registry)
		first  []string // in place of BLOB: the blob's path
		second []string
	}{
		{
			"same", func(first *upstreamtest.Registry) {
				first.Fault(upstreamtest.Blobs, upstreamtest.CutAfter(5*mib)).Times(1)
			},
			[]string{"GET BLOB 200", fmt.Sprintf("GET BLOB bytes=%d- 206", 5*mib)}, nil,
		},
		{
			"often", func(first *upstreamtest.Registry) {
				first.Fault(upstreamtest.Blobs, upstreamtest.CutEvery(6*mib))
			},
			[]string{"GET BLOB 200", fmt.Sprintf("GET BLOB bytes=%d- 206", 6*mib), fmt.Sprintf("GET BLOB bytes=%d- 206", 12*mib)}, nil,
		},
		{
			"next", func(first *upstreamtest.Registry) {
				first.Fault(upstreamtest.Blobs, upstreamtest.CutAfter(5*mib)).Times(1)
				first.Fault(func(r *http.Request) bool { return r.Header.Get("Range") != "" }, upstreamtest.Status(404, ""))
			},
			[]string{"GET BLOB 200", fmt.Sprintf("GET BLOB bytes=%d- 404", 5*mib)},
			[]string{fmt.Sprintf("GET BLOB bytes=%d- 206", 5*mib)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first, second := upstreamtest.New(t), upstreamtest.New(t)
			dgst := addRandom(t, first, "org/app", size, 7)
			addRandom(t, second, "org/app", size, 7)
			c.faults(first)
			w := harness.StartWeir(t, blockOf("mirror", nil, at(first), at(second)))
			w.Pull(t, blobPath("mirror/org/app", dgst)).Whole(t, "the client", dgst)
			expectWire(t, first, "first", withBlob(c.first, "org/app", dgst)...)
			expectWire(t, second, "second", withBlob(c.second, "org/app", dgst)...)
			if got := w.Metric(t, "weir_upstream_bytes_total"); got >= 1.1*size {
				t.Errorf("%v bytes came from upstream for a blob of %d", got, size)
			}
			w.ExpectIntact(t)
		})
	}
}

func withBlob(requests []string, repo string, dgst digest.Digest) []string {
	var list []string
	for _, request := range requests {
		list = append(list, strings.Replace(request, "BLOB", blobPath(repo, dgst), 1))
	}
	return list
}

// A range far ahead of a download that does not get on is answered at once, and
// neither delays nor repeats the download.
func TestRangeAheadOfTheDownload(t *testing.T) {
	t.Parallel()
	const size, from, to = 24 * mib, 20 * mib, 20*mib + 64*kib
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", size, 8)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(mib, gate)).Times(1)
	w := harness.StartWeir(t, block("mirror", upstream)+"segments = 1\n")

	whole := w.Pull(t, blobPath("mirror/org/app", dgst))
	arrived(t, gate, 1)
	a := w.Get(t, blobPath("mirror/org/app", dgst), "Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	expectRange(t, "ahead", a, random(t, size, 8), from, to)
	expectWire(t, upstream, "ahead", "GET "+blobPath("org/app", dgst)+" 200",
		fmt.Sprintf("GET %s bytes=%d-%d 206", blobPath("org/app", dgst), from, to-1))
	gate.Open()
	whole.Whole(t, "the whole", dgst)
	expectWire(t, upstream, "the whole")
}

// Parallel ranges of a cold blob all come from one download, or are parts of it where that
// is far behind.
func TestParallelRanges(t *testing.T) {
	t.Parallel()
	const size, parts = 16 * mib, 8
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", size, 9)
	w := harness.StartWeir(t, block("mirror", upstream))

	answers := make([]harness.Answer, parts)
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() {
			answers[i] = w.Get(t, blobPath("mirror/org/app", dgst), "Range",
				fmt.Sprintf("bytes=%d-%d", i*size/parts, (i+1)*size/parts-1))
		})
	}
	group.Wait()
	content := random(t, size, 9)
	for i, a := range answers {
		expectRange(t, fmt.Sprint("part ", i), a, content, i*size/parts, (i+1)*size/parts)
	}
	expectContent(t, "the whole", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, "")
	downloads := 0
	for _, request := range upstream.Requests() {
		if strings.HasSuffix(request, " 200") || strings.Contains(request, "bytes=0-") {
			downloads++
		}
	}
	if downloads != 1 {
		t.Errorf("%d streams from the first byte on, want 1: %q", downloads, upstream.Requests())
	}
	// A small range that was asked for a moment later than the whole may come twice.
	if fetched := w.Metric(t, "weir_upstream_bytes_total"); fetched < size || fetched >= 2*size {
		t.Errorf("%v bytes from upstream for %d: %q", fetched, size, upstream.Requests())
	}
	w.MetricIs(t, 0, "weir_downloads")
	w.ExpectIntact(t)
}

// RFC 9110 sections 13 and 14, cold and warm.
func TestConditionsAndRanges(t *testing.T) {
	t.Parallel()
	const size = 256 * kib
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream))
	cold := func(seed uint64) (path string, dgst digest.Digest, etag string) {
		dgst = addRandom(t, upstream, "org/app", size, seed)
		return blobPath("mirror/org/app", dgst), dgst, `"` + dgst.String() + `"`
	}
	for seed, when := range []string{"cold", "warm"} {
		at := func(n uint64) (path string, dgst digest.Digest, etag string) {
			path, dgst, etag = cold(100 + n)
			if when == "warm" {
				expectContent(t, "warming", w.Get(t, path), dgst, "")
				w.MetricIs(t, 0, "weir_downloads")
			}
			return path, dgst, etag
		}
		n := uint64(10 * seed)
		path, _, etag := at(n + 1)
		expectRange(t, when+": If-Range that holds", w.Get(t, path, "Range", "bytes=1000-1999", "If-Range", etag), random(t, size, 101+n), 1000, 2000)
		path, dgst, _ := at(n + 2)
		expectContent(t, when+": If-Range of something else", w.Get(t, path, "Range", "bytes=1000-1999", "If-Range", `"other"`), dgst, "")
		path, _, _ = at(n + 3)
		expectRange(t, when+": the last bytes", w.Get(t, path, "Range", "bytes=-100"), random(t, size, 103+n), size-100, size)
		path, _, _ = at(n + 4)
		a := w.Get(t, path, "Range", fmt.Sprintf("bytes=%d-", size))
		expect(t, when+": a range behind the end", a, http.StatusRequestedRangeNotSatisfiable, "")
		path, _, etag = at(n + 5)
		a = w.Get(t, path, "If-None-Match", etag)
		expect(t, when+": If-None-Match", a, http.StatusNotModified, "")
		if len(a.Body) > 0 || a.Header.Get("Etag") != etag || a.Header.Get("Docker-Content-Digest") == "" {
			t.Errorf("%s: 304 with %d bytes and %v", when, len(a.Body), a.Header)
		}
	}
}

// An upstream that does not say how long a blob is.
func TestBlobWithoutLength(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", 3*mib, 10)
	upstream.Fault(upstreamtest.Blobs, upstreamtest.Chunked())
	w := harness.StartWeir(t, block("mirror", upstream))

	p := w.Pull(t, blobPath("mirror/org/app", dgst))
	p.Whole(t, "cold", dgst)
	if got := p.Header.Get("Content-Length"); got != "" {
		t.Errorf("cold: Content-Length %s", got)
	}
	w.MetricIs(t, 0, "weir_downloads")
	a := w.Get(t, blobPath("mirror/org/app", dgst))
	expectContent(t, "warm", a, dgst, statusHit)
	if got := a.Header.Get("Content-Length"); got != fmt.Sprint(3*mib) {
		t.Errorf("warm: Content-Length %q", got)
	}
	expectWire(t, upstream, "both", "GET "+blobPath("org/app", dgst)+" 200")
}
