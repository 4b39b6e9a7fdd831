package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// segmented is a client of a registry from which a blob comes in segments.
type segmented struct {
	*upstreamtest.Registry
	client   *upstream.Client
	chain    *upstream.Chain
	content  []byte
	dgst     digest.Digest
	assembly *oci.Assembly
}

func newSegmented(t *testing.T, r *upstreamtest.Registry, change ...func(*upstream.Options)) *segmented {
	t.Helper()
	s := &segmented{Registry: r, content: bytes.Repeat([]byte("segments "), 1000), assembly: new(oci.Assembly)}
	s.dgst = r.AddBlob("app", s.content)
	r.Fault(upstreamtest.Any, upstreamtest.Header("Accept-Ranges", "bytes"), upstreamtest.Header("Etag", `"one"`))
	s.client = newClient(t, r, append(change, func(o *upstream.Options) { o.Segments = 4 })...)
	s.chain = alone(s.client)
	return s
}

// whole opens the blob, and returns in how many streams it may come.
func (s *segmented) whole(t *testing.T) int {
	t.Helper()
	b, err := s.chain.Blob(oci.WithAssembly(t.Context(), s.assembly), "app", s.dgst, 0, -1)
	if got := readBody(t, b, err); !bytes.Equal(got, s.content) {
		t.Errorf("%d other bytes", len(got))
	}
	host, segmenter := s.assembly.Segmenter()
	if host != s.client.Host() {
		t.Errorf("the host is %q", host)
	}
	return segmenter.Segments()
}

func (s *segmented) segment(ctx context.Context) (oci.Blob, error) {
	return s.chain.Blob(oci.WithAssembly(oci.WithSegment(ctx, s.client.Host()), s.assembly), "app", s.dgst, 100, 50)
}

// Blobs come in segments from a registry that is known to send ranges.
func TestSegmentsNeedRanges(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.example"))
		s := newSegmented(t, r, on(n))
		if got := s.whole(t); got != 4 {
			t.Errorf("%d streams", got)
		}
		b, err := s.segment(t.Context())
		if got := readBody(t, b, err); !bytes.Equal(got, s.content[100:150]) {
			t.Errorf("the segment is %q", got)
		}
		none := r.Fault(upstreamtest.Any, upstreamtest.Header("Accept-Ranges", "none"))
		if got := s.whole(t); got != 1 {
			t.Errorf("without ranges: %d streams", got)
		}
		none.Remove()
		silent := r.Fault(upstreamtest.Any, upstreamtest.Header("Accept-Ranges", ""))
		if got := s.whole(t); got != 1 {
			t.Errorf("with an answer that tells nothing: %d streams", got)
		}
		b, err = s.chain.Blob(t.Context(), "app", s.dgst, 100, 50)
		readBody(t, b, err)
		if got := s.whole(t); got != 4 {
			t.Errorf("after a range: %d streams", got)
		}
		silent.Remove()
	})
}

// A registry that refuses a segment delivers blobs in one stream for an hour. The refusal says
// nothing about the blob or the registry.
func TestRefusedSegments(t *testing.T) {
	for name, tc := range map[string]struct {
		effects []upstreamtest.Effect
		single  bool
	}{
		"429":          {[]upstreamtest.Effect{upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600")}, true},
		"403":          {[]upstreamtest.Effect{upstreamtest.Status(403, "")}, true},
		"the whole":    {[]upstreamtest.Effect{upstreamtest.IgnoreRange()}, true},
		"another size": {[]upstreamtest.Effect{upstreamtest.Truncate(5000)}, true},
		"another ETag": {[]upstreamtest.Effect{upstreamtest.Header("Etag", `"two"`)}, true},
		"500":          {[]upstreamtest.Effect{upstreamtest.Status(500, "")}, false},
		"404":          {[]upstreamtest.Effect{upstreamtest.Status(404, "")}, false},
		"cut":          {[]upstreamtest.Effect{upstreamtest.Drop()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.example"))
				s := newSegmented(t, r, on(n))
				s.whole(t)
				fault := r.Fault(upstreamtest.All(upstreamtest.Blobs, func(r *http.Request) bool { return r.Header.Get("Range") != "" }), tc.effects...)
				for range 5 {
					if b, err := s.segment(t.Context()); !errors.Is(err, oci.ErrNoRange) {
						t.Fatalf("segment %v, %v", b, err)
					}
				}
				fault.Remove()
				want := 4
				if tc.single {
					want = 1
				}
				// Neither a cooldown nor a circuit breaker refuses the blob.
				if got := s.whole(t); got != want {
					t.Errorf("%d streams, want %d", got, want)
				}
				time.Sleep(time.Hour - time.Second)
				if got := s.whole(t); got != want {
					t.Errorf("nearly an hour later: %d streams, want %d", got, want)
				}
				time.Sleep(2 * time.Second)
				if got := s.whole(t); got != 4 {
					t.Errorf("an hour later: %d streams", got)
				}
			})
		})
	}
}

// Segments go over HTTP/1.1 to a registry that has HTTP/2, whose streams would share one
// connection, and to the host that is named alone.
func TestSegmentsHaveConnections(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithTLS())
	versions := make(chan int, 10)
	r.Fault(func(req *http.Request) bool { versions <- req.ProtoMajor; return false })
	s := newSegmented(t, r, func(o *upstream.Options) { o.RootCAs = r.RootCAs() })
	s.whole(t)
	b, err := s.segment(t.Context())
	readBody(t, b, err)
	if whole, segment := <-versions, <-versions; whole != 2 || segment != 1 {
		t.Errorf("the blob comes over HTTP/%d, and a segment over HTTP/%d", whole, segment)
	}
	r.ResetRequests()
	ctx := oci.WithSegment(t.Context(), "other.example")
	if _, err := s.chain.Blob(ctx, "app", s.dgst, 100, 50); err == nil || len(r.Requests()) > 0 {
		t.Errorf("a segment of another host: %v, requests %q", err, r.Requests())
	}
}
