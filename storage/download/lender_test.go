package download_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// lender is a download.Origin that a script drives. Its bytes prove nothing.
type lender struct {
	*origin
	size int64 // that it announces; 0: the true one
}

func (l lender) Open(ctx context.Context, want download.Want) (*download.Stream, error) {
	stream, err := l.open(ctx, want.Offset, -1)
	if err != nil {
		return nil, err
	}
	stream.Proves, stream.Origin = false, "bucket.test"
	if l.size != 0 {
		stream.Size = l.size
	}
	return stream, nil
}

// behind returns a setup whose downloads read from lenders first.
func behind(t *testing.T, lenders ...lender) *setup {
	t.Helper()
	s := newSetup(t, func(o *download.Options) {
		for _, l := range lenders {
			o.Origins = append(o.Origins, l)
		}
	})
	t.Cleanup(s.Close)
	return s
}

// Content of an origin costs no request upstream. Content that it does not have, or does not
// deliver to its end, comes from the next source, from the offset where it broke off.
func TestOriginBreaksOff(t *testing.T) {
	body := random(200_000)
	missing := func() *origin { return &origin{body: body, refuse: storage.ErrNotExist} }
	for name, tc := range map[string]struct {
		lenders  []lender
		upstream []string // its requests
	}{
		"it has all":              {[]lender{{origin: &origin{body: body}}}, []string{}},
		"it has nothing":          {[]lender{{origin: missing()}}, []string{"0+-1"}},
		"it fails":                {[]lender{{origin: &origin{refuse: errors.New("throttled")}}}, []string{"0+-1"}},
		"it breaks off":           {[]lender{{origin: &origin{body: body, failAt: 70_000}}}, []string{"70000+-1 of a body under way"}},
		"it breaks off at once":   {[]lender{{origin: &origin{body: body, failAt: 1}}}, []string{"1+-1 of a body under way"}},
		"the second one has it":   {[]lender{{origin: missing()}, {origin: &origin{body: body}}}, []string{}},
		"the second one goes on":  {[]lender{{origin: &origin{body: body, failAt: 70_000}}, {origin: &origin{body: body}}}, []string{}},
		"both break off":          {[]lender{{origin: &origin{body: body, failAt: 70_000}}, {origin: &origin{body: body, failAt: 90_000}}}, []string{"90000+-1 of a body under way"}},
		"it announces more bytes": {[]lender{{origin: &origin{body: body}, size: 300_000}}, []string{"0+-1"}},
		"it announces fewer":      {[]lender{{origin: &origin{body: body}, size: 100_000}}, []string{"0+-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := &origin{body: body}
			s := behind(t, tc.lenders...)
			src := upstream.source(ours)
			src.Size = int64(len(body))
			got, err := readAll(s.reader(t, t.Context(), digest.FromBytes(body), src))
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			// A request after bytes have come is one of a body under way, with or without these words.
			asked := upstream.asked()
			if len(asked) != len(tc.upstream) || len(asked) == 1 && asked[0][:4] != tc.upstream[0][:4] {
				t.Errorf("the upstream was asked %q, want %q", asked, tc.upstream)
			}
		})
	}
}

// Wrong bytes of an origin never complete, wherever they begin. The origin takes them out,
// and the upstream is not blamed.
func TestCorruptOrigin(t *testing.T) {
	body := random(200_000)
	flip := func(at int) func([]byte) []byte {
		return func(p []byte) []byte { p[at] ^= 1; return p }
	}
	for name, tc := range map[string]struct {
		lender lender
		follow bool // the reader reads while the bytes come
	}{
		"at the start":                      {lender{origin: &origin{body: body, corrupt: flip(0)}}, false},
		"at the end":                        {lender{origin: &origin{body: body, corrupt: flip(199_999)}}, false},
		"at the end, and a reader follows":  {lender{origin: &origin{body: body, corrupt: flip(199_999)}}, true},
		"in a part, the rest from upstream": {lender{origin: &origin{body: body, corrupt: flip(7), failAt: 70_000}}, true},
		"other content of that size":        {lender{origin: &origin{body: random(200_001)[1:]}}, true},
		"shorter":                           {lender{origin: &origin{body: body[:100_000]}}, true},
		"longer":                            {lender{origin: &origin{body: append(bytes.Clone(body), 1)}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := &origin{body: body}
			s := behind(t, tc.lender)
			dgst := digest.FromBytes(body)
			r := s.reader(t, t.Context(), dgst, upstream.source(ours))
			if !tc.follow { // the download starts over before the reader asks for a byte
				awaitAsked(t, upstream)
			}
			got, err := readAll(r)
			switch {
			case err == nil && bytes.Equal(got, body):
			case errors.Is(err, storage.ErrCorrupt) && tc.follow && len(got) < len(body):
			default:
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			r.Close()
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			if tc.lender.rejections() == 0 {
				t.Error("the origin keeps its bytes")
			}
			if upstream.rejections() > 0 {
				t.Error("the upstream is blamed")
			}
			if s.stored(t, dgst) != (err == nil) {
				t.Errorf("stored: %v after %v", s.stored(t, dgst), err)
			}
		})
	}
}

// endless is an origin that tells no size, and whose body never ends.
type endless struct{ read atomic.Int64 }

func (e *endless) Open(context.Context, download.Want) (*download.Stream, error) {
	return &download.Stream{ReadCloser: io.NopCloser(e), Size: -1, Origin: "replica.test", Peer: true, Reject: func() bool { return true }}, nil
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read.Add(int64(len(p))) > 10<<20 {
		return 0, errors.New("nothing ends it")
	}
	return len(p), nil
}

// An origin delivers no more bytes than the content has, as far as a record tells.
func TestEndlessOrigin(t *testing.T) {
	body := random(200_000)
	upstream, evil := &origin{body: body}, &endless{}
	s := newSetup(t, func(o *download.Options) { o.Origins = []download.Origin{evil} })
	t.Cleanup(s.Close)
	src := upstream.source(ours)
	src.Size = int64(len(body))
	r := s.reader(t, t.Context(), digest.FromBytes(body), src)
	awaitAsked(t, upstream)
	if got, err := readAll(r); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if got := evil.read.Load(); got > 1<<20 {
		t.Errorf("%d bytes of it were read for %d", got, len(body))
	}
}

// awaitAsked waits until an upstream is asked.
func awaitAsked(t *testing.T, upstream *origin) {
	t.Helper()
	for len(upstream.asked()) == 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("the upstream is not asked")
		case <-time.After(time.Millisecond):
		}
	}
}

// rejections returns how often the origin was blamed.
func (o *origin) rejections() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rejected
}

// Bytes of an origin prove no right to them: a repository without a link gets none before
// its upstream has shown the same ones.
func TestOriginProvesNothing(t *testing.T) {
	body, refused := random(200_000), errors.New("denied")
	for name, tc := range map[string]struct {
		prove error
		want  error
	}{"shown": {nil, nil}, "refused": {refused, refused}} {
		t.Run(name, func(t *testing.T) {
			l := lender{origin: &origin{body: body}}
			s := behind(t, l)
			src := (&origin{body: body}).source(ours)
			var proofs []int64
			src.Prove = func(_ context.Context, content io.ReadSeeker, have, size int64) error {
				proofs = append(proofs, have)
				if part, err := io.ReadAll(io.LimitReader(content, 1000)); err != nil || !bytes.Equal(part, body[:1000]) {
					t.Errorf("the proof reads %d bytes, %v", len(part), err)
				}
				return tc.prove
			}
			proven := true
			src.Verified = func(_ storage.Info, p bool) { proven = p }
			got, err := readAll(s.reader(t, t.Context(), digest.FromBytes(body), src))
			if !errors.Is(err, tc.want) || err == nil && !bytes.Equal(got, body) || err != nil && len(got) > 0 {
				t.Errorf("read %d bytes, %v, want %v", len(got), err, tc.want)
			}
			s.Close()
			if len(proofs) == 0 || tc.prove == nil && !slices.Contains(proofs, int64(len(body))) {
				t.Errorf("proofs of %v bytes", proofs)
			}
			if proven {
				t.Error("the delivery counts as a proof")
			}
		})
	}
}

// An origin is read if the stored bytes could be used too, and not otherwise.
func TestOriginIsLent(t *testing.T) {
	body := random(1000)
	for name, tc := range map[string]struct {
		change func(*download.Source)
		asked  bool
	}{
		"shared": {func(*download.Source) {}, true},
		"lent":   {func(s *download.Source) { s.Lent = func(context.Context) bool { return true } }, true},
		"kept":   {func(s *download.Source) { s.Lent = func(context.Context) bool { return false } }, false},
		"apart":  {func(s *download.Source) { s.Apart = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := lender{origin: &origin{body: body}}
			s := behind(t, l)
			src := (&origin{body: body}).source(ours)
			tc.change(&src)
			if got, err := readAll(s.reader(t, t.Context(), digest.FromBytes(body), src)); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if asked := len(l.asked()) > 0; asked != tc.asked {
				t.Errorf("the origin was asked: %v, want %v", asked, tc.asked)
			}
		})
	}
}
