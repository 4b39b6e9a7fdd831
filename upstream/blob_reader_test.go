package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const blobSize = 100_000

var blob = must2(io.ReadAll(upstreamtest.RandomBlob(blobSize, 1)))

func must2(b []byte, err error) []byte { return b }

func TestBlobRanges(t *testing.T) {
	tests := map[string]struct {
		offset, length int64
		effects        []upstreamtest.Effect
		requests       string // separated by commas
		want           []byte
		size           int64
	}{
		"whole":            {0, -1, nil, "200", blob, blobSize},
		"from":             {10, -1, nil, "bytes=10- 206", blob[10:], blobSize},
		"part":             {10, 20, nil, "bytes=10-29 206", blob[10:30], blobSize},
		"beyond the end":   {99_990, 20, nil, "bytes=99990-100009 206", blob[99_990:], blobSize},
		"ignored":          {10, 20, []upstreamtest.Effect{upstreamtest.IgnoreRange()}, "bytes=10-29 200", blob[10:30], blobSize},
		"chunked":          {0, -1, []upstreamtest.Effect{upstreamtest.Chunked()}, "200", blob, -1},
		"chunked, ignored": {10, -1, []upstreamtest.Effect{upstreamtest.Chunked(), upstreamtest.IgnoreRange()}, "bytes=10- 200,bytes=100000- 200", blob[10:], -1}, // the end is confirmed
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, upstreamtest.WithGzip())
			dgst := r.AddBlob("repo", blob)
			r.Fault(upstreamtest.Blobs, test.effects...)
			b, err := alone(newClient(t, r)).Blob(t.Context(), "repo", dgst, test.offset, test.length)
			if err == nil && (b.Size() != test.size || b.Upstream() != r.Host) {
				t.Errorf("size %d of %s", b.Size(), b.Upstream())
			}
			if got := readBody(t, b, err); !bytes.Equal(got, test.want) {
				t.Errorf("got %d bytes, want %d", len(got), len(test.want))
			}
			wantRequests(t, r, dgst, strings.Split(test.requests, ",")...)
		})
	}
}

// wantRequests compares the requests for a blob, each given by its range and
// status.
func wantRequests(t *testing.T, r *upstreamtest.Registry, dgst digest.Digest, want ...string) {
	t.Helper()
	for i := range want {
		want[i] = "GET /v2/repo/blobs/" + dgst.String() + " " + want[i]
	}
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, r.Requests()); diff != "" {
		t.Error(diff)
	}
}

// Whatever happens to the first of two members, the content is the same.
func TestBodyResumes(t *testing.T) {
	tests := map[string]struct {
		effects       []upstreamtest.Effect
		times         int // 0: always
		first, second []string
	}{
		"cut once":             {[]upstreamtest.Effect{upstreamtest.CutAfter(1000)}, 1, []string{"200", "bytes=1000- 206"}, nil},
		"cut in each answer":   {[]upstreamtest.Effect{upstreamtest.CutEvery(40_000)}, 0, []string{"200", "bytes=40000- 206", "bytes=80000- 206"}, nil},
		"cut before any byte":  {[]upstreamtest.Effect{upstreamtest.CutAfter(0)}, 0, []string{"200", "200"}, []string{"200"}},
		"stalled":              {nil, 1, []string{"200", "bytes=1000- 206"}, nil}, // after 1000 bytes
		"range ignored":        {[]upstreamtest.Effect{upstreamtest.IgnoreRange(), upstreamtest.CutAfter(1000)}, 1, []string{"200", "bytes=1000- 206"}, nil},
		"cut without a length": {[]upstreamtest.Effect{upstreamtest.Chunked(), upstreamtest.CutAfter(1000)}, 1, []string{"200", "bytes=1000- 206"}, nil},
		"never beyond a cut":   {[]upstreamtest.Effect{upstreamtest.IgnoreRange(), upstreamtest.CutAfter(1000)}, 0, []string{"200", "bytes=1000- 200"}, []string{"bytes=1000- 206"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				effects := test.effects
				if effects == nil { // a gate belongs to its bubble
					effects = []upstreamtest.Effect{upstreamtest.StallAfter(1000, upstreamtest.NewGate())}
				}
				first := upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test"))
				second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
				dgst := first.AddBlob("repo", blob)
				second.AddBlob("repo", blob)
				fault := first.Fault(upstreamtest.Blobs, effects...)
				if test.times > 0 {
					fault.Times(test.times)
				}
				chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first, on(n)), newClient(t, second, on(n)))
				b, err := chain.Blob(t.Context(), "repo", dgst, 0, -1)
				if got := readBody(t, b, err); !bytes.Equal(got, blob) {
					t.Errorf("got %d other bytes", len(got))
				}
				wantRequests(t, first, dgst, test.first...)
				wantRequests(t, second, dgst, test.second...)
			})
		})
	}
}

func TestBodyResumesElsewhereWhenTheFirstIsGone(t *testing.T) {
	first, second := upstreamtest.New(t), upstreamtest.New(t)
	dgst := first.AddBlob("repo", blob)
	second.AddBlob("repo", blob)
	first.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1000, upstreamtest.NewGate()))
	chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first), newClient(t, second))
	b, err := chain.Blob(t.Context(), "repo", dgst, 0, 50_000)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	first.Close()
	rest, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(append(head, rest...), blob[:50_000]) || b.Upstream() != second.Host {
		t.Errorf("%d bytes of %s, %v", len(rest), b.Upstream(), err)
	}
	wantRequests(t, second, dgst, "bytes=1000-49999 206")
}

func TestBodyGivesUp(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		first := upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test"))
		second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
		dgst := first.AddBlob("repo", blob)
		second.AddBlobAs("repo", dgst, blob[1:]) // another size
		first.Fault(upstreamtest.Blobs, upstreamtest.IgnoreRange(), upstreamtest.CutAfter(1000))
		chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first, on(n)), newClient(t, second, on(n)))
		b := must[oci.Blob](t)(chain.Blob(t.Context(), "repo", dgst, 0, -1))
		defer b.Close()
		got, err := io.ReadAll(b)
		if wantError(t, err, upstream.ErrUnavailable); !bytes.Equal(got, blob[:1000]) {
			t.Errorf("%d bytes", len(got))
		}
		for _, want := range []string{"first.test", "second.test", "size was 100000 and is now 99999"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v lacks %q", err, want)
			}
		}
		if _, again := b.Read(make([]byte, 1)); again != err {
			t.Errorf("the error changed to %v", again)
		}
		wantRequests(t, first, dgst, "200", "bytes=1000- 200", "bytes=1000- 200")
		wantRequests(t, second, dgst, "bytes=1000- 206", "bytes=1000- 206", "bytes=1000- 206")
	})
}

func TestBodyStallIsATimeout(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		dgst := r.AddBlob("repo", blob)
		r.Fault(upstreamtest.Blobs, upstreamtest.IgnoreRange(), upstreamtest.StallAfter(2, upstreamtest.NewGate()))
		b := must[oci.Blob](t)(alone(newClient(t, r, on(n))).Blob(t.Context(), "repo", dgst, 0, -1))
		defer b.Close()
		for range 2 {
			if n, err := b.Read(make([]byte, 1)); n != 1 {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // a slow reader is no stall
		}
		wantRequests(t, r, dgst, "200")
		start := time.Now()
		_, err := io.ReadAll(b)
		if e := wantError(t, err, upstream.ErrUnavailable); !e.Timeout() || time.Since(start) < 15*time.Second || time.Since(start) > 16*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestBodyEndsWithItsContext(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
		dgst := r.AddBlob("repo", blob)
		r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1000, upstreamtest.NewGate()))
		ctx, cancel := context.WithCancel(t.Context())
		b := must[oci.Blob](t)(alone(newClient(t, r, on(n))).Blob(ctx, "repo", dgst, 0, -1))
		defer b.Close()
		go func() {
			synctest.Wait()
			cancel()
		}()
		got, err := io.ReadAll(b)
		if !errors.Is(err, context.Canceled) || len(got) != 1000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		wantRequests(t, r, dgst, "200")
	})
}

func TestExpiredURLIsAskedForAgain(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithCDN(upstreamtest.CDN{}))
	dgst := r.AddBlob("repo", blob)
	r.Fault(upstreamtest.CDNBlobs, upstreamtest.CutAfter(1000)).Times(1)
	b := must[oci.Blob](t)(alone(newClient(t, r)).Blob(t.Context(), "repo", dgst, 0, -1))
	r.ExpireURLs()
	if got := readBody(t, b, nil); !bytes.Equal(got, blob) {
		t.Errorf("got %d other bytes", len(got))
	}
	wantRequests(t, r, dgst, "307", "bytes=1000- 307")
}

func TestRejectedMemberIsAskedLast(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		first := upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test"))
		second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
		dgst := first.AddBlob("repo", blob)
		second.AddBlob("repo", blob)
		first.Fault(upstreamtest.Blobs, upstreamtest.Corrupt(77)).Times(1)
		chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first, on(n)), newClient(t, second, on(n)))
		from := func() (string, bool) {
			t.Helper()
			b, err := chain.Blob(t.Context(), "repo", dgst, 0, -1)
			good := bytes.Equal(readBody(t, b, err), blob)
			if !good && !b.Reject() {
				t.Error("the second member is sane, yet nowhere else to go")
			}
			return b.Upstream(), good
		}
		for _, want := range []struct {
			host string
			good bool
			wait time.Duration
		}{{first.Host, false, 0}, {second.Host, true, 0}, {first.Host, true, 10 * time.Minute}} {
			time.Sleep(want.wait)
			if host, good := from(); host != want.host || good != want.good {
				t.Errorf("got %s, %v, want %v", host, good, want)
			}
		}
	})
}

func TestAnswerMustBeginWhereAsked(t *testing.T) {
	for _, contentRange := range []string{"bytes 0-99989/100000", ""} {
		r := upstreamtest.New(t)
		dgst := r.AddBlob("repo", blob)
		r.Fault(upstreamtest.Blobs, upstreamtest.Header("Content-Range", contentRange))
		_, err := alone(newClient(t, r)).Blob(t.Context(), "repo", dgst, 10, -1)
		wantError(t, err, upstream.ErrUnavailable)
	}
}

// Many downloads at once over HTTP/2, each cut on its way.
func TestConcurrentResume(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithTLS(), upstreamtest.WithBearer(upstreamtest.Bearer{}))
	c := newClient(t, r, func(o *upstream.Options) { o.RootCAs = r.RootCAs() })
	r.Fault(upstreamtest.Blobs, upstreamtest.CutEvery(1<<20))
	var group errgroup.Group
	for seed := range uint64(16) {
		dgst := r.AddRandomBlob("repo", 3<<20+5, seed)
		group.Go(func() error {
			b, err := alone(c).Blob(t.Context(), "repo", dgst, 0, -1)
			if err != nil {
				return err
			}
			defer b.Close()
			verifier := dgst.Verifier()
			if _, err := io.Copy(verifier, b); err != nil {
				return err
			}
			if !verifier.Verified() {
				return upstream.ErrDigestMismatch
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
