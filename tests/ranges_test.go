package tests

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// One request costs one request upstream, however many ranges it asks for.
func TestRangesCostOneRequest(t *testing.T) {
	t.Parallel()
	const size = 4 * mib
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream))
	for i, tc := range []struct {
		name   string
		ranges int
		step   int
		status int
	}{
		{"a lazy puller's", 12, 300 * kib, http.StatusPartialContent},
		{"thousands", 3053, kib, http.StatusOK},
		{"backwards", 12, -300 * kib, http.StatusOK},
		{"the same", 12, 0, http.StatusOK},
	} {
		dgst := addRandom(t, upstream, "org/app", size, uint64(70+i))
		specs := make([]string, tc.ranges)
		for j := range specs {
			from := j*tc.step + max(0, -tc.step*tc.ranges)
			specs[j] = fmt.Sprintf("%d-%d", from, from+9)
		}
		a := w.Get(t, blobPath("mirror/org/app", dgst), "Range", "bytes="+strings.Join(specs, ","))
		expect(t, tc.name, a, tc.status, "")
		if tc.status == http.StatusOK && digest.FromBytes(a.Body) != dgst {
			t.Errorf("%s: %d bytes, want the whole blob", tc.name, len(a.Body))
		}
		expectWire(t, upstream, tc.name, "GET "+blobPath("org/app", dgst)+" 200")
	}
}

// The bytes of a range of a cold blob come once, and the blob around them later.
func TestRangesOfAColdBlobComeOnce(t *testing.T) {
	t.Parallel()
	const size = 32 * mib
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream))
	for i, tc := range []struct {
		name   string
		ranges []string // of clients, at once
	}{
		{"a quarter", []string{"8388608-16777215"}},
		{"to the end", []string{"8388608-"}},
		{"the last quarter", []string{"25165824-33554431"}},
		{"a megabyte", []string{"16777216-17825791"}},
		{"the same range of 32 clients", slices.Repeat([]string{"16777216-25165823"}, 32)},
	} {
		content := random(t, size, uint64(90+i))
		dgst := upstream.AddBlob("org/app", content)
		before := w.Metric(t, "weir_upstream_bytes_total")
		var clients sync.WaitGroup
		for _, r := range tc.ranges {
			clients.Go(func() {
				a := w.Get(t, blobPath("mirror/org/app", dgst), "Range", "bytes="+r)
				expect(t, tc.name, a, http.StatusPartialContent, "")
				var from int64
				fmt.Sscanf(r, "%d-", &from)
				if !bytes.Equal(a.Body, content[from:from+int64(len(a.Body))]) {
					t.Errorf("%s: other bytes", tc.name)
				}
			})
		}
		clients.Wait()
		if a := w.Get(t, blobPath("mirror/org/app", dgst)); digest.FromBytes(a.Body) != dgst {
			t.Errorf("%s: the whole has %d other bytes", tc.name, len(a.Body))
		}
		if got := w.Metric(t, "weir_upstream_bytes_total") - before; got != size {
			t.Errorf("%s: %v bytes came from upstream for a blob of %d: %q", tc.name, got, size, upstream.Requests())
		}
		upstream.ResetRequests()
	}
	w.ExpectIntact(t)
}

// Clients that ask for ranges far ahead, and do not read them, take no more connections
// to the upstream than max_concurrent_fetches, and hold up no other client.
func TestUnreadRangesTakeBoundedPlaces(t *testing.T) {
	t.Parallel()
	const size, places, attackers = 32 * mib, 8, 60
	upstream := upstreamtest.New(t)
	large := upstream.AddRandomBlob("org/app", size, 80)
	small := addRandom(t, upstream, "org/app", mib, 81)
	// The download of the large blob hangs, so that every range is ahead of it.
	// It may end where the first range begins, if that was there before it.
	fromStart := func(r *http.Request) bool { return !ranged(r) || strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") }
	upstream.Fault(upstreamtest.All(upstreamtest.Path(large.Encoded()), fromStart), upstreamtest.StallAfter(kib, upstreamtest.NewGate()))
	w := harness.StartWeir(t, fmt.Sprintf("[global]\nmax_concurrent_fetches = %d\n", places)+block("mirror", upstream))
	for i := range attackers {
		conn, err := net.Dial("tcp", w.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		harness.Must(t, conn.(*net.TCPConn).SetReadBuffer(4*kib))
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: mirror\r\nRange: bytes=%d-\r\n\r\n", blobPath("mirror/org/app", large), 4*mib+i*kib)
		harness.Must(t, err)
	}
	w.MetricIs(t, attackers, "weir_download_readers")
	time.Sleep(time.Second) // further requests would come now
	requests := 0
	for _, r := range upstream.Log() {
		var from, to int
		_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
		// The few bytes between the beginnings of two ranges come at once, and need no connection any more.
		if brief := err == nil && to-from < 64*kib; strings.Contains(r.URI, large.Encoded()) && !brief {
			requests++
		}
	}
	if t.Logf("%d clients made %d requests upstream", attackers, requests); requests > places {
		t.Errorf("%d clients that do not read have %d connections to the upstream, want %d at most: %q", attackers, requests, places, upstream.Requests())
	}
	started := time.Now()
	expectContent(t, "another blob", w.Get(t, blobPath("mirror/org/app", small)), small, statusStored)
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("another blob took %s", took)
	}
}

// A client of HTTP/1.1 that pauses in the middle of a stored blob, which the kernel
// sends, gets the rest.
func TestPauseInAStoredBlob(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	upstream := upstreamtest.New(t)
	content := random(t, size, 82)
	dgst := upstream.AddBlob("org/app", content)
	w := harness.StartWeir(t, block("mirror", upstream))
	expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	resp := w.OpenSlow(t, blobPath("mirror/org/app", dgst))
	time.Sleep(500 * time.Millisecond)
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
