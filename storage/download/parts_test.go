package download_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
)

// wire is an upstream that counts the bytes that it sends, and fails as its fields say.
type wire struct {
	body     []byte
	noSize   bool
	noRanges bool
	lieAt    int64                     // an answer that begins there has one wrong byte; 0: none
	cutAt    int64                     // an answer that begins there breaks off after 1 MiB; 0: none
	gates    map[int64]<-chan struct{} // answers that begin there wait, or end with their context

	mu       sync.Mutex
	requests []string
	sent     int64
	open     int
	rejected int
}

func (w *wire) source(repo storage.RepoID) download.Source {
	return download.Source{Repository: repo, Open: w.serve}
}

func (w *wire) serve(ctx context.Context, offset, length int64) (*download.Stream, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, fmt.Sprintf("%d+%d", offset, length))
	if w.noRanges && oci.IsPart(ctx) {
		return nil, oci.ErrNoRange
	}
	body := w.body
	end := int64(len(body))
	if length >= 0 {
		end = min(end, offset+length)
	}
	if offset > end {
		return nil, errors.New("416")
	}
	if w.lieAt > 0 && w.lieAt == offset {
		body = bytes.Clone(body)
		body[offset+9] ^= 1
	}
	failAfter := int64(-1)
	if w.cutAt > 0 && w.cutAt == offset {
		failAfter = 1 << 20
	}
	size := int64(len(body))
	if w.noSize {
		size = -1
	}
	w.open++
	return &download.Stream{
		ReadCloser: &packets{ctx: ctx, wire: w, rest: body[offset:end], gate: w.gates[offset], failAfter: failAfter},
		Size:       size, Origin: repoHost, Proves: true,
		Reject: func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.rejected++
			return false
		},
	}, nil
}

// expect compares the requests, if they are given, and the bytes that were sent. The requests
// of a part and of the download beside it go out at once, in any order.
func (w *wire) expect(t *testing.T, sent int, requests ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := slices.Sorted(slices.Values(w.requests))
	if want := slices.Sorted(slices.Values(requests)); len(want) > 0 && !slices.Equal(got, want) {
		t.Errorf("requests %v, want %v", got, want)
	}
	if w.sent != int64(sent) {
		t.Errorf("%d bytes came from upstream, want %d: %v", w.sent, sent, w.requests)
	}
	if w.open != 0 {
		t.Errorf("%d streams are open", w.open)
	}
}

// packets is the body of one answer.
type packets struct {
	ctx       context.Context
	wire      *wire
	rest      []byte
	gate      <-chan struct{}
	failAfter int64 // -1: never
}

func (p *packets) Read(b []byte) (int, error) {
	if p.gate != nil {
		select {
		case <-p.gate:
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	switch {
	case p.ctx.Err() != nil:
		return 0, p.ctx.Err()
	case p.failAfter == 0:
		return 0, errCut
	case len(p.rest) == 0:
		return 0, io.EOF
	}
	n := min(len(b), len(p.rest), 64<<10)
	if p.failAfter > 0 {
		n = min(n, int(p.failAfter))
		p.failAfter -= int64(n)
	}
	copy(b, p.rest[:n])
	p.rest = p.rest[n:]
	p.wire.mu.Lock()
	defer p.wire.mu.Unlock()
	p.wire.sent += int64(n)
	return n, nil
}

func (p *packets) Close() error {
	p.wire.mu.Lock()
	defer p.wire.mu.Unlock()
	p.wire.open--
	return nil
}

const mib = 1 << 20

// stretch is a range of a client. An end of -1 is that of the content, of which the client
// reads up to stop.
type stretch struct{ start, end, stop int }

// read reads a range as http.ServeContent does.
func (s *setup) read(ctx context.Context, src download.Source, body []byte, r stretch) error {
	src.Start, src.End = int64(r.start), int64(r.end)
	obj, reader, err := s.Open(ctx, digest.FromBytes(body), src)
	if err != nil {
		return err
	}
	var content io.ReadSeekCloser = reader
	if obj != nil {
		content = obj.Content
	}
	defer content.Close()
	if reader != nil {
		if _, err := reader.Wait(int64(r.start), int64(r.end)); err != nil {
			return err
		}
	}
	if _, err := content.Seek(int64(r.start), io.SeekStart); err != nil {
		return err
	}
	got := make([]byte, r.stop-r.start)
	if n, err := io.ReadFull(content, got); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if !bytes.Equal(got, body[r.start:r.stop]) {
		return errors.New("other bytes")
	}
	return nil
}

// The bytes of a range are fetched once, however the ranges of clients lie, and whatever comes
// after them.
func TestRangesFillTheSpool(t *testing.T) {
	body := random(40 * mib)
	whole := stretch{0, -1, len(body)}
	for name, tc := range map[string]struct {
		ranges   []stretch
		requests []string // nil: any
	}{
		"one in the middle": {[]stretch{{8 * mib, 16 * mib, 16 * mib}}, []string{"0+8388608", "8388608+8388608", "16777216+-1"}},
		"at the end":        {[]stretch{{30 * mib, -1, 40 * mib}}, nil},
		"behind each other": {[]stretch{{30 * mib, 32 * mib, 32 * mib}, {20 * mib, 24 * mib, 24 * mib}, {2 * mib, 6 * mib, 6 * mib}}, nil},
		"overlapping":       {[]stretch{{10 * mib, 14 * mib, 14 * mib}, {12 * mib, 18 * mib, 18 * mib}, {10 * mib, 18 * mib, 18 * mib}}, nil},
		// A chunk of containerd 2: an open-ended range that is closed at the chunk's end.
		"chunks":     {[]stretch{{8 * mib, -1, 16 * mib}, {16 * mib, -1, 24 * mib}, {24 * mib, -1, 32 * mib}, {32 * mib, -1, 40 * mib}}, nil},
		"of 300 KiB": {[]stretch{{9 * mib, 9*mib + 300<<10, 9*mib + 300<<10}, {29 * mib, 29*mib + 300<<10, 29*mib + 300<<10}}, nil},
	} {
		for _, together := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, together: %v", name, together), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSetup(t, func(o *download.Options) {
						o.OnUnattended = func(d *download.Download) {
							go d.Complete(context.Background()) //nolint:errcheck // the next reader tells
						}
					})
					defer s.Close()
					// The download itself is held up, so that each range is far ahead of it.
					w := &wire{body: body, gates: map[int64]<-chan struct{}{}}
					gate := make(chan struct{})
					w.gates[0] = gate
					var reading sync.WaitGroup
					for _, r := range tc.ranges {
						reading.Go(func() {
							if err := s.read(t.Context(), w.source(ours), body, r); err != nil {
								t.Errorf("range %v: %v", r, err)
							}
						})
						synctest.Wait() // the download begins for the first one
						if !together {
							reading.Wait()
						}
					}
					reading.Wait()
					close(gate)
					for range 3 {
						reading.Go(func() {
							if err := s.read(t.Context(), w.source(ours), body, whole); err != nil {
								t.Errorf("the whole: %v", err)
							}
						})
					}
					reading.Wait()
					if err := s.Drain(t.Context()); err != nil {
						t.Fatal(err)
					}
					w.expect(t, len(body), tc.requests...)
				})
			})
		}
	}
}

// Small ranges cost their bytes twice, since they are not worth a request behind each of them.
func TestSmallRangesAreReadThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		body := random(20 * mib)
		w := &wire{body: body}
		gate := make(chan struct{})
		w.gates = map[int64]<-chan struct{}{0: gate}
		front := s.reader(t, t.Context(), digest.FromBytes(body), w.source(ours))
		defer front.Close()
		for at := 4 * mib; at < 20*mib; at += 2 * mib {
			if err := s.read(t.Context(), w.source(ours), body, stretch{at, at + 1000, at + 1000}); err != nil {
				t.Error(err)
			}
		}
		close(gate)
		if got, err := readAll(front); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		w.expect(t, len(body)+8*1000)
		if len(w.requests) != 9 {
			t.Errorf("requests %v, want one for the whole and one for each of 8 ranges", w.requests)
		}
	})
}

// A range that many clients read at once is asked for once, also by a client that comes when it
// ends.
func TestRangeOfManyIsAskedOnce(t *testing.T) {
	const ranges, clients, length = 100, 8, 100
	s := newSetup(t, nil)
	defer s.Close()
	body := random(6 * mib)
	gate := make(chan struct{})
	w := &wire{body: body, gates: map[int64]<-chan struct{}{0: gate}}
	front := s.reader(t, t.Context(), digest.FromBytes(body), w.source(ours))
	defer front.Close()
	var reading sync.WaitGroup
	for n := range ranges {
		at := 4*mib + n*length
		for range clients {
			reading.Go(func() {
				if err := s.read(t.Context(), w.source(ours), body, stretch{at, at + length, at + length}); err != nil {
					t.Error(err)
				}
			})
		}
		reading.Wait()
	}
	close(gate)
	if got, err := readAll(front); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	w.expect(t, len(body)+ranges*length)
	if len(w.requests) != 1+ranges {
		t.Errorf("%d requests, want one for the whole and one for each of %d ranges", len(w.requests), ranges)
	}
}

// A wrong byte of a range makes the whole content wrong, however small the range is and
// whatever came with the download: it is in the file. Each stream is blamed, and the readers of
// the whole never see the end.
func TestLieInARange(t *testing.T) {
	for _, length := range []int{1000, 2 * mib} {
		for _, seen := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d bytes, seen: %v", length, seen), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSetup(t, nil)
					defer s.Close()
					body := random(20 * mib)
					gate := make(chan struct{})
					w := &wire{body: body, lieAt: 10 * mib, gates: map[int64]<-chan struct{}{0: gate}}
					front := s.reader(t, t.Context(), digest.FromBytes(body), w.source(ours))
					defer front.Close()
					if err := s.read(t.Context(), w.source(ours), body, stretch{10 * mib, 10*mib + length, 10*mib + length}); err == nil {
						t.Error("the lie has no effect")
					}
					close(gate)
					if !seen {
						synctest.Wait()
					}
					got, err := readAll(front)
					if !errors.Is(err, storage.ErrCorrupt) || len(got) > len(body)-spool.TailHold {
						t.Errorf("%d bytes, %v, want ErrCorrupt and a withheld tail", len(got), err)
					}
					if s.stored(t, digest.FromBytes(body)) {
						t.Error("wrong bytes are stored")
					}
					if w.rejected < 2 {
						t.Errorf("%d streams are blamed, want all", w.rejected)
					}
				})
			})
		}
	}
}

// The failures of a range are those of the range.
func TestRangeFails(t *testing.T) {
	const at = 10 * mib
	for name, tc := range map[string]struct {
		wire   *wire
		change func(*download.Options)
		want   error // of the range
		twice  int   // bytes that may come twice
	}{
		"it breaks off":       {wire: &wire{cutAt: at}, want: errCut, twice: mib},
		"no ranges":           {wire: &wire{noRanges: true}},
		"no room":             {change: noRoom, twice: 80 * mib},
		"one place for both":  {change: func(o *download.Options) { o.MaxFetches = 1 }},
		"no size":             {wire: &wire{noSize: true}, twice: 4 * mib},
		"two places for both": {change: func(o *download.Options) { o.MaxFetches = 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, tc.change)
				defer s.Close()
				w := tc.wire
				if w == nil {
					w = new(wire)
				}
				w.body = random(20 * mib)
				gate := make(chan struct{})
				w.gates = map[int64]<-chan struct{}{0: gate}
				dgst := digest.FromBytes(w.body)
				front := s.reader(t, t.Context(), dgst, w.source(ours))
				synctest.Wait()
				var reading sync.WaitGroup
				reading.Go(func() {
					if err := s.read(t.Context(), w.source(ours), w.body, stretch{at, at + 4*mib, at + 4*mib}); !errors.Is(err, tc.want) {
						t.Errorf("the range: %v, want %v", err, tc.want)
					}
				})
				synctest.Wait()
				close(gate)
				if got, err := readAll(front); err != nil || !bytes.Equal(got, w.body) {
					t.Errorf("the whole: %d bytes, %v", len(got), err)
				}
				reading.Wait()
				front.Close()
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				if w.open != 0 || w.sent > int64(len(w.body)+tc.twice) {
					t.Errorf("%d streams are open, %d bytes came: %v", w.open, w.sent, w.requests)
				}
			})
		})
	}
}

// A range whose upstream falls silent does not hold up the download.
func TestSilentRangeIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		body := random(20 * mib)
		gate, never := make(chan struct{}), make(chan struct{})
		w := &wire{body: body, gates: map[int64]<-chan struct{}{0: gate, 10 * mib: never}}
		front := s.reader(t, t.Context(), digest.FromBytes(body), w.source(ours))
		defer front.Close()
		ctx, leave := context.WithCancel(t.Context())
		var reading sync.WaitGroup
		reading.Go(func() {
			// It waits for the part, and then for the download, which has come to it.
			_ = s.read(ctx, w.source(ours), body, stretch{10 * mib, 16 * mib, 16 * mib})
		})
		synctest.Wait()
		close(gate)
		time.AfterFunc(time.Minute, func() { close(never) }) // for the stream of the download
		if got, err := readAll(front); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		leave()
		reading.Wait()
		if w.requests[len(w.requests)-1] != "10485760+6291456" {
			t.Errorf("the download did not ask itself: %v", w.requests)
		}
	})
}

// A range whose client leaves, and a shutdown, end the part.
func TestRangeEndsWithItsDownload(t *testing.T) {
	for name, end := range map[string]func(*setup, *download.Reader, context.CancelFunc){
		"its clients leave": func(_ *setup, front *download.Reader, leave context.CancelFunc) { leave(); front.Close() },
		"shutdown":          func(s *setup, _ *download.Reader, leave context.CancelFunc) { leave(); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, func(o *download.Options) { o.OnUnattended = (*download.Download).Abandon })
				defer s.Close()
				body := random(20 * mib)
				never := make(chan struct{})
				w := &wire{body: body, gates: map[int64]<-chan struct{}{0: never, 10 * mib: never}}
				front := s.reader(t, t.Context(), digest.FromBytes(body), w.source(ours))
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				var reading sync.WaitGroup
				reading.Go(func() {
					if err := s.read(ctx, w.source(ours), body, stretch{10 * mib, 16 * mib, 16 * mib}); err == nil {
						t.Error("the range came to its end")
					}
				})
				synctest.Wait()
				end(s, front, leave)
				reading.Wait()
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.open != 0 {
					t.Errorf("%d streams are open", w.open)
				}
			})
		})
	}
}

// noRoom leaves no room for any byte.
func noRoom(o *download.Options) { o.Spools = spool.NewDir(os.TempDir(), 1<<62, nil) }
