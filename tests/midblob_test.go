package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// tail is the end of a blob, which clients get only when its digest is
// verified.
const tail = 32 * kib

// ranged matches requests that resume.
func ranged(r *http.Request) bool { return r.Header.Get("Range") != "" }

// Wherever and however a download breaks off, the client gets the whole of it in
// the same answer, and hardly a byte comes twice.
func TestMidBlobCut(t *testing.T) {
	t.Parallel()
	const size = 2 * mib
	cuts := []int64{0, 1, 4095, size / 3, size - tail - 1, size - tail, size - tail + 1, size - 1}
	for i, c := range []struct {
		name     string
		options  []upstreamtest.Option
		once     func(cut int64) []upstreamtest.Effect // at the first request of each blob
		resuming []upstreamtest.Effect                 // at its later ones
		limit    float64                               // how often the size may come from upstream
	}{
		{"same", nil, nil, nil, 1.1},
		{"next", nil, nil, []upstreamtest.Effect{upstreamtest.Status(503, "")}, 1.1},
		{"next-first-lost-it", nil, nil, []upstreamtest.Effect{upstreamtest.Status(404, "")}, 1.1},
		{"limited", nil, nil, []upstreamtest.Effect{upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "1")}, 1.1},
		{"no-length", nil, func(cut int64) []upstreamtest.Effect {
			return []upstreamtest.Effect{upstreamtest.Chunked(), upstreamtest.CutAfter(cut)}
		}, []upstreamtest.Effect{upstreamtest.Chunked()}, 1.1},
		{"stall", nil, func(cut int64) []upstreamtest.Effect {
			return []upstreamtest.Effect{upstreamtest.StallAfter(cut, upstreamtest.NewGate())}
		}, nil, 1.1},
		{"http2", []upstreamtest.Option{upstreamtest.WithTLS()}, nil, nil, 1.1},
		{"range-ignored", nil, nil, []upstreamtest.Effect{upstreamtest.IgnoreRange()}, 2.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first, second := upstreamtest.New(t, c.options...), upstreamtest.New(t)
			settings := []string{"read_timeout_secs = 2"}
			if c.name == "http2" {
				settings = append(settings, fmt.Sprintf("server_ca_bundle = %q", first.CAFile()))
			}
			w := harness.StartWeir(t, blockOf("mirror", nil, at(first, settings...), at(second)))
			for j, cut := range cuts {
				dgst := addRandom(t, first, "org/app", size, uint64(1000*(i+1)+j))
				addRandom(t, second, "org/app", size, uint64(1000*(i+1)+j))
				once := []upstreamtest.Effect{upstreamtest.CutAfter(cut)}
				if c.once != nil {
					once = c.once(cut)
				}
				blob := upstreamtest.Path(dgst.Encoded())
				first.Fault(blob, once...).Times(1)
				first.Fault(upstreamtest.All(blob, ranged), c.resuming...)
				before := w.Metric(t, "weir_upstream_bytes_total")
				w.Pull(t, blobPath("mirror/org/app", dgst)).Whole(t, fmt.Sprint("cut at ", cut), dgst)
				if got := w.Metric(t, "weir_upstream_bytes_total") - before; got > c.limit*size {
					t.Errorf("cut at %d: %v bytes came from upstream for a blob of %d", cut, got, size)
				}
				first.ClearFaults()
			}
			w.ExpectIntact(t)
		})
	}
}

// A CDN's URL that expired while its connection broke is asked for again.
func TestMidBlobExpiredURL(t *testing.T) {
	t.Parallel()
	const size, cut = 2 * mib, mib
	upstream := upstreamtest.New(t, upstreamtest.WithCDN(upstreamtest.CDN{}))
	dgst := addRandom(t, upstream, "org/app", size, 21000)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.CDNBlobs, upstreamtest.StallAfter(cut, gate)).Times(1)
	w := harness.StartWeir(t, block("mirror", upstream))
	p := w.Pull(t, blobPath("mirror/org/app", dgst))
	arrived(t, gate, 1)
	upstream.ExpireURLs()
	upstream.CloseCDN()
	upstream.ReopenCDN()
	p.Whole(t, "the client", dgst)
	requests := upstream.Requests()
	if len(requests) < 2 || requests[0] != "GET "+blobPath("org/app", dgst)+" 307" {
		t.Errorf("the registry was asked %q", requests)
	}
	if got := w.Metric(t, "weir_upstream_bytes_total"); got > 1.1*size {
		t.Errorf("%v bytes came from upstream for a blob of %d", got, size)
	}
}

// An upstream that restarts in the middle of downloads, with no other one to
// ask, costs time and no client's pull.
func TestUpstreamRestarts(t *testing.T) {
	t.Parallel()
	const size, clients = 2 * mib, 8
	upstream := upstreamtest.New(t)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(size/2, gate)).Times(clients)
	w := harness.StartWeir(t, block("mirror", upstream))
	var pulls []*harness.Pulling
	var blobs []digest.Digest
	for i := range clients {
		blobs = append(blobs, addRandom(t, upstream, "org/app", size, uint64(20000+i)))
		pulls = append(pulls, w.Pull(t, blobPath("mirror/org/app", blobs[i])))
	}
	arrived(t, gate, clients)
	upstream.Close()
	w.MetricIs(t, 1, "weir_upstream_cooldown", "operation", "blob")
	upstream.Reopen()
	for i, p := range pulls {
		p.Whole(t, fmt.Sprint("client ", i), blobs[i])
	}
}
