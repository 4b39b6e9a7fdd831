package upstream_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// withRange matches the requests that resume a body.
func withRange(r *http.Request) bool { return r.Header.Get("Range") != "" }

// A body under way that is cut resumes in spite of a limit on blobs, after the pause
// that the upstream asks for if it is short, and else after one of its own. Its requests
// are bounded.
func TestBodyResumesDuringLimit(t *testing.T) {
	refused := func(status int, retryAfter string) []upstreamtest.Effect {
		return []upstreamtest.Effect{upstreamtest.Status(status, ""), upstreamtest.Header("Retry-After", retryAfter)}
	}
	const second = time.Second
	for name, c := range map[string]struct {
		options  []upstreamtest.Option
		limit    upstreamtest.Match    // of the requests that are limited before the cut; nil: nothing
		resuming []upstreamtest.Effect // of the first requests that resume; nil: they succeed
		times    int                   // how many of them
		fails    bool
		least    time.Duration // that the rest takes
		most     time.Duration
		requests int // that resume
	}{
		"blobs are limited":            {nil, upstreamtest.Blobs, nil, 0, false, 0, 0, 1},
		"the CDN is limited":           {[]upstreamtest.Option{upstreamtest.WithCDN(upstreamtest.CDN{})}, upstreamtest.CDNBlobs, nil, 0, false, 0, 0, 1},
		"429, with a short pause":      {nil, nil, refused(429, "7"), 1, false, 7 * second, 7 * second, 2},
		"429, with a long pause":       {nil, nil, refused(429, "600"), 1, false, second / 2, second, 2},
		"429, without a pause":         {nil, nil, refused(429, ""), 1, false, second / 2, second, 2},
		"429 for ever":                 {nil, nil, refused(429, "600"), -1, true, second / 2, second, 2},
		"429 for ever, short pauses":   {nil, nil, refused(429, "2"), -1, true, 2 * second, 2 * second, 2},
		"503, with a short pause":      {nil, nil, refused(503, "4"), 1, false, 4 * second, 4 * second, 2},
		"503, with a fraction":         {nil, nil, refused(503, "1.5"), 1, false, 3 * second / 2, 3 * second / 2, 2},
		"502, with a pause":            {nil, nil, refused(502, "4"), 1, false, 4 * second, 4 * second, 2},
		"503, with a long pause":       {nil, nil, refused(503, "600"), 1, false, second / 2, second, 2},
		"503 of the CDN, with a pause": {[]upstreamtest.Option{upstreamtest.WithCDN(upstreamtest.CDN{})}, nil, refused(503, "4"), 1, false, 4 * second, 4 * second, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(c.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				dgst, other := r.AddBlob("repo", blob), r.AddBlob("repo", []byte("another blob"))
				delivers := upstreamtest.Blobs
				if c.options != nil {
					delivers = upstreamtest.CDNBlobs
				}
				gate := upstreamtest.NewGate()
				r.Fault(delivers, upstreamtest.StallAfter(1000, gate), upstreamtest.CutAfter(1001)).Times(1)
				client := newClient(t, r, on(n))
				b := must[oci.Blob](t)(alone(client).Blob(t.Context(), "repo", dgst, 0, -1))
				defer b.Close()
				if c.limit != nil {
					limited := upstreamtest.All(c.limit, upstreamtest.Path(other.Encoded()))
					r.Fault(limited, refused(429, "600")...).Times(1)
					for range 2 { // told, and then stopped
						_, err := client.Blob(t.Context(), "repo", other, 0, -1)
						wantError(t, err, upstream.ErrRateLimited)
					}
				}
				resumes := r.Fault(upstreamtest.All(delivers, withRange)) // counts
				if c.resuming != nil {
					fault := r.Fault(upstreamtest.All(delivers, withRange), c.resuming...)
					if c.times > 0 {
						fault.Times(c.times)
					}
				}
				start := time.Now()
				gate.Open()
				got, err := io.ReadAll(b)
				if c.fails {
					wantError(t, err, upstream.ErrUnavailable)
				} else if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("got %d bytes: %v", len(got), err)
				}
				if took := time.Since(start); took < c.least || took > c.most {
					t.Errorf("it took %v, want %v to %v", took, c.least, c.most)
				}
				if resumes.Hits() != c.requests {
					t.Errorf("%d requests resume, want %d", resumes.Hits(), c.requests)
				}
			})
		})
	}
}

// A body under way survives an outage of some seconds, of whichever hosts and however
// few connects fail during it. It continues within moments of their return.
func TestBodySurvivesOutage(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		cdn    bool
		second int    // what the other member says about blobs; 0: it is away as well
		from   string // the host that comes back; "": both
		silent bool   // connects are not refused, they hang
		outage time.Duration
	}{
		"a restart":               {outage: s},
		"a slow restart":          {outage: 3 * s},
		"a long restart":          {outage: 12 * s},
		"the first one comes":     {from: "first.test", outage: 3 * s},
		"the second one comes":    {from: "second.test", outage: 3 * s},
		"silence":                 {silent: true, outage: 3 * s},
		"the other one lacks it":  {second: 404, outage: 3 * s},
		"the other one is broken": {second: 500, outage: 3 * s},
		"the CDN restarts":        {cdn: true, second: 404, outage: 3 * s},
		"the CDN, for longer":     {cdn: true, second: 404, outage: 12 * s},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				options := []upstreamtest.Option{upstreamtest.WithNetwork(n, "first.test")}
				if c.cdn {
					options = append(options, upstreamtest.WithCDN(upstreamtest.CDN{}))
				}
				first := upstreamtest.New(t, options...)
				second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
				dgst := first.AddBlob("repo", blob)
				second.AddBlob("repo", blob)
				closed, reopened := []func(){first.Close, second.Close}, map[string]func(){"first.test": first.Reopen, "second.test": second.Reopen}
				switch {
				case c.cdn:
					closed, reopened = []func(){first.CloseCDN}, map[string]func(){"cdn.first.test": first.ReopenCDN}
				case c.second != 0:
					closed = closed[:1]
				}
				if c.second != 0 {
					second.Fault(upstreamtest.Blobs, upstreamtest.Status(c.second, ""))
				}
				first.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1000, upstreamtest.NewGate())).Times(1)
				first.Fault(upstreamtest.CDNBlobs, upstreamtest.StallAfter(1000, upstreamtest.NewGate())).Times(1)
				chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first, on(n)), newClient(t, second, on(n)))
				b := must[oci.Blob](t)(chain.Blob(t.Context(), "repo", dgst, 0, -1))
				defer b.Close()
				head := make([]byte, 1000)
				must[int](t)(io.ReadFull(b, head))

				start := time.Now()
				for _, stop := range closed {
					stop()
				}
				for host := range reopened {
					n.Hang(host+":80", c.silent)
				}
				time.AfterFunc(c.outage, func() {
					for host, reopen := range reopened {
						if c.from == "" || c.from == host {
							n.Hang(host+":80", false)
							reopen()
						}
					}
				})
				rest, err := io.ReadAll(b)
				if err != nil || !bytes.Equal(append(head, rest...), blob) {
					t.Errorf("got %d bytes: %v", len(rest), err)
				}
				// A connect that hung when the hosts came back lasts for two seconds.
				if took := time.Since(start); took < c.outage || took > c.outage+4*s {
					t.Errorf("it took %v", took)
				}
				dials := 0
				for host := range reopened {
					dials += n.Dials(host + ":80")
				}
				if most := 8 + 2*len(reopened)*int(c.outage/s); dials > most {
					t.Errorf("%d connects, want at most %d", dials, most)
				}
			})
		})
	}
}

// The next part of a body under way, such as the next window of a range, is opened with
// the patience of a stream that broke off. The first part fails at once.
func TestNextPartOfABody(t *testing.T) {
	refused := func(status int, retryAfter string) []upstreamtest.Effect {
		return []upstreamtest.Effect{upstreamtest.Status(status, ""), upstreamtest.Header("Retry-After", retryAfter)}
	}
	for name, c := range map[string]struct {
		away     time.Duration         // 0: it is not
		effects  []upstreamtest.Effect // of the first answers
		times    int
		want     error // nil: the part comes
		requests int
	}{
		"a restart":            {3 * time.Second, nil, 0, nil, 1},
		"a limit":              {0, refused(429, "3"), 1, nil, 2},
		"maintenance":          {0, refused(503, "3"), 1, nil, 2},
		"a limit without end":  {0, refused(429, "600"), -1, upstream.ErrRateLimited, 3},
		"an outage":            {time.Hour, nil, 0, upstream.ErrUnavailable, 0},
		"the blob is gone":     {0, refused(404, ""), -1, upstream.ErrNotFound, 1},
		"it is denied":         {0, refused(403, ""), -1, upstream.ErrDenied, 3},
		"it is denied, by one": {0, refused(403, ""), 1, nil, 2},
	} {
		for _, continues := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, continuation %v", name, continues), func(t *testing.T) {
				inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
					r := upstreamtest.New(t, upstreamtest.WithNetwork(n, firstAddr))
					dgst := r.AddBlob("repo", blob)
					client := newClient(t, r, on(n))
					if c.effects != nil {
						fault := r.Fault(upstreamtest.Blobs, c.effects...)
						if c.times > 0 {
							fault.Times(c.times)
						}
					}
					if c.away > 0 {
						r.Close()
						reopen := time.AfterFunc(c.away, r.Reopen)
						defer reopen.Stop()
					}
					ctx, start := t.Context(), time.Now()
					if continues {
						ctx = oci.WithContinuation(ctx)
					}
					b, err := alone(client).Blob(ctx, "repo", dgst, 1000, 500)
					took := time.Since(start)
					if !continues {
						if err == nil || took != 0 || len(r.Requests()) > 1 {
							t.Errorf("%v after %v and %q", err, took, r.Requests())
						}
						return
					}
					if c.want != nil {
						wantError(t, err, c.want)
					} else if got := readBody(t, b, err); !bytes.Equal(got, blob[1000:1500]) {
						t.Errorf("got %d other bytes", len(got))
					}
					contents := slices.DeleteFunc(r.Requests(), func(request string) bool { return !strings.Contains(request, dgst.String()) })
					if took > 20*time.Second || len(contents) != c.requests {
						t.Errorf("%q within %v, want %d requests", contents, took, c.requests)
					}
				})
			})
		}
	}
}
