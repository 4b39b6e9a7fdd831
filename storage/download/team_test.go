package download_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// line is an upstream far away: each stream has a pace of its own, and all of them together
// may have one.
type line struct {
	*wire
	streams  int           // as the registry permits
	together bool          // the pace is that of all streams
	tick     time.Duration // for 64 KiB

	begins func(from int64) error // may refuse a segment
	cut    int64                  // the segment from there breaks off after 1 MiB; 0: none
	silent int64                  // the segment from there says nothing; 0: none
	late   time.Duration          // how long after their last byte the streams of the goroutine end

	mu      sync.Mutex
	active  int
	most    int
	singles []string
}

func (l *line) Segments() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.singles) > 0 {
		return 1
	}
	return l.streams
}

func (l *line) Single(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.singles = append(l.singles, reason)
}

func (l *line) source(repo storage.RepoID) download.Source {
	return download.Source{Repository: repo, Open: l.serve}
}

func (l *line) serve(ctx context.Context, offset, length int64) (*download.Stream, error) {
	if oci.IsSegment(ctx) && l.begins != nil {
		if err := l.begins(offset); err != nil {
			return nil, err
		}
	}
	stream, err := l.wire.serve(ctx, offset, length)
	if err != nil {
		return nil, err
	}
	if !oci.IsSegment(ctx) {
		oci.AssemblyOf(ctx).Began(repoHost, stream.Size, "", l)
	}
	l.mu.Lock()
	l.active++
	l.most = max(l.most, l.active)
	l.mu.Unlock()
	s := &slow{ReadCloser: stream.ReadCloser, ctx: ctx, line: l, left: -1, helps: oci.IsSegment(ctx), mute: oci.IsSegment(ctx) && l.silent == offset}
	if oci.IsSegment(ctx) && l.cut > 0 && l.cut == offset {
		s.left = mib
	}
	stream.ReadCloser = s
	return stream, nil
}

// slow is a stream with a pace.
type slow struct {
	io.ReadCloser
	ctx   context.Context
	line  *line
	left  int // bytes until it breaks off; -1: never
	mute  bool
	helps bool // it is a segment
}

func (s *slow) Read(p []byte) (int, error) {
	if s.mute {
		<-s.ctx.Done()
		return 0, s.ctx.Err()
	}
	if s.left == 0 {
		return 0, errCut
	}
	s.line.mu.Lock()
	tick := s.line.tick
	if s.line.together {
		tick *= time.Duration(s.line.active)
	}
	s.line.mu.Unlock()
	select {
	case <-time.After(tick):
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	n, err := s.ReadCloser.Read(p)
	if err == io.EOF && n == 0 && !s.helps {
		time.Sleep(s.line.late)
	}
	if s.left > 0 {
		s.left = max(0, s.left-n)
	}
	return n, err
}

func (s *slow) Close() error {
	s.line.mu.Lock()
	s.line.active--
	s.line.mu.Unlock()
	return s.ReadCloser.Close()
}

func newLine(body []byte) *line {
	return &line{wire: &wire{body: body}, streams: 4, tick: time.Millisecond}
}

// pull reads a whole blob, and returns how long that took.
func (s *setup) pull(t *testing.T, l *line) time.Duration {
	t.Helper()
	began := time.Now()
	r := s.reader(t, t.Context(), digest.FromBytes(l.body), l.source(ours))
	defer r.Close()
	if n, err := compare(r, l.body); err != nil || n != len(l.body) {
		t.Errorf("%d bytes are right, %v", n, err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	return time.Since(began)
}

// compare reads a blob in small pieces, and returns how many of its bytes are those that
// are wanted. The race detector makes a long buffer slow.
func compare(r io.Reader, want []byte) (n int, err error) {
	buffer := make([]byte, 256<<10)
	for {
		got, err := r.Read(buffer)
		if !bytes.Equal(buffer[:got], want[n:min(n+got, len(want))]) {
			return n, errors.New("the next bytes are wrong")
		}
		n += got
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// A large blob comes in several streams, each byte once, and several times as fast.
func TestSegments(t *testing.T) {
	for name, tc := range map[string]struct {
		size     int
		change   func(*line)
		options  func(*download.Options)
		requests []string // nil: any
		faster   float64  // than one stream, at least
		most     int
	}{
		"64 MiB": {size: 64 * mib, faster: 3, most: 4},
		"20 MiB, of which 16 remain": {size: 20 * mib, faster: 2.2, most: 4,
			requests: []string{"0+-1", "8388608+4194304", "12582912+4194304", "16777216+4194304"}},
		"less than 16 MiB remain": {size: 20*mib - 1, most: 1, requests: []string{"0+-1"}},
		"one stream is the rule":  {size: 24 * mib, change: func(l *line) { l.streams = 1 }, most: 1, requests: []string{"0+-1"}},
		"two streams":             {size: 64 * mib, change: func(l *line) { l.streams = 2 }, faster: 1.7, most: 2},
		"one place":               {size: 24 * mib, options: func(o *download.Options) { o.MaxFetches = 1 }, most: 1, requests: []string{"0+-1"}},
		"two places":              {size: 64 * mib, options: func(o *download.Options) { o.MaxFetches = 2 }, faster: 1.7, most: 2},
		"an unknown size":         {size: 24 * mib, change: func(l *line) { l.noSize = true }, most: 1, requests: []string{"0+-1"}},
		"segments of 16 MiB":      {size: 128 * mib, faster: 3, most: 4},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.size > 20*mib {
				testutil.Long(t, "it downloads a large content")
			}
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, tc.options)
				defer s.Close()
				l := newLine(random(tc.size))
				if tc.change != nil {
					tc.change(l)
				}
				took := s.pull(t, l)
				l.expect(t, tc.size, tc.requests...)
				alone := time.Duration(tc.size/(64<<10)) * time.Millisecond
				if speed := float64(alone) / float64(took); speed < tc.faster {
					t.Errorf("%.1f times as fast as one stream, want %.1f: %v", speed, tc.faster, l.requests)
				}
				if l.most != tc.most || len(l.singles) > 0 {
					t.Errorf("%d streams at once, want %d; %q", l.most, tc.most, l.singles)
				}
			})
		})
	}
}

// Segments are never more than 128 MiB ahead of the watermark, and the file has no more than
// that behind a gap, however long the stream at the watermark takes.
func TestSegmentsStayNear(t *testing.T) {
	testutil.Long(t, "it downloads 256 MiB")
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		l := newLine(random(256 * mib))
		l.begins = func(from int64) error {
			l.wire.mu.Lock()
			defer l.wire.mu.Unlock()
			if from > l.sent+128*mib {
				t.Errorf("a segment begins at %d after %d bytes", from, l.sent)
			}
			return nil
		}
		s.pull(t, l)
		l.expect(t, 256*mib)
	})
}

// A fault of a segment costs the pull nothing but its speed.
func TestSegmentFails(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	first := int64(12 * mib) // of the first segment, behind the 4 MiB and the lead of the stream
	only := func(at int64, err error) func(int64) error {
		return func(from int64) error {
			if from == at || at < 0 {
				return err
			}
			return nil
		}
	}
	refused := fmt.Errorf("429: %w", oci.ErrNoRange)
	for name, tc := range map[string]struct {
		change func(*line)
		twice  int // bytes that may come twice
		most   int
	}{
		"all are refused":               {change: func(l *line) { l.begins = only(-1, refused) }, most: 1},
		"the first one is refused":      {change: func(l *line) { l.begins = only(first, refused) }, twice: 24 * mib},
		"the second one is refused":     {change: func(l *line) { l.begins = only(first+8*mib, refused) }, twice: 24 * mib},
		"a later one is refused":        {change: func(l *line) { l.begins = only(first+24*mib, refused) }, twice: 24 * mib},
		"the first one breaks off":      {change: func(l *line) { l.cut = first }, twice: 4 * mib},
		"the second one breaks off":     {change: func(l *line) { l.cut = first + 8*mib }, twice: 4 * mib},
		"the last one breaks off":       {change: func(l *line) { l.cut = first + 16*mib }, twice: 4 * mib},
		"the first one says nothing":    {change: func(l *line) { l.silent = first }},
		"the second one says nothing":   {change: func(l *line) { l.silent = first + 8*mib }},
		"a later one says nothing":      {change: func(l *line) { l.silent = first + 24*mib }},
		"the source sends ranges by no": {change: func(l *line) { l.noRanges = true }, most: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				l := newLine(random(64 * mib))
				tc.change(l)
				if took := s.pull(t, l); took > 10*time.Second {
					t.Errorf("it took %s", took)
				}
				if l.open != 0 || l.sent > int64(len(l.body)+tc.twice) {
					t.Errorf("%d streams are open, %d bytes came: %v", l.open, l.sent, l.requests)
				}
				if tc.most > 0 && l.most != tc.most {
					t.Errorf("%d streams at once, want %d", l.most, tc.most)
				}
				if !s.stored(t, digest.FromBytes(l.body)) {
					t.Error("it is not stored")
				}
			})
		})
	}
}

// Streams that share one pace bring nothing, and one stream becomes the rule.
func TestSegmentsWithoutGain(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		l := newLine(random(128 * mib))
		l.together = true
		s.pull(t, l)
		l.expect(t, 128*mib)
		if len(l.singles) != 1 {
			t.Errorf("one stream is the rule for %q", l.singles)
		}
		requests := len(l.requests)
		again := newLine(random(128 * mib))
		again.singles = l.singles
		s.pull(t, again)
		if len(again.requests) != 1 || requests > 6 {
			t.Errorf("%d requests, and %v the next time", requests, again.requests)
		}
	})
}

// A stream that is at the end of the content may end after the last helper: the digest is that of
// all bytes anyway.
func TestStreamEndsAfterItsHelpers(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	for _, streams := range []int{2, 3, 4} {
		for size := 28 * mib; size <= 44*mib; size += 4 * mib {
			t.Run(fmt.Sprintf("%d streams, %d MiB", streams, size/mib), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSetup(t, nil)
					defer s.Close()
					l := newLine(random(size))
					l.streams, l.late = streams, 2*time.Second
					s.pull(t, l)
					if l.rejected > 0 || !s.stored(t, digest.FromBytes(l.body)) {
						t.Errorf("%d streams were blamed: %v", l.rejected, l.requests)
					}
				})
			})
		}
	}
}

// A lie in any of the streams makes the content wrong. No reader sees its end, every stream is
// blamed, and if no reader has seen a byte, another upstream serves it, in one stream.
func TestLieInASegment(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	for _, at := range []int64{12 * mib, 20 * mib, 28 * mib} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				l := newLine(random(64 * mib))
				l.lieAt = at
				r := s.reader(t, t.Context(), digest.FromBytes(l.body), l.source(ours))
				defer r.Close()
				n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{r}, make([]byte, 256<<10))
				if !errors.Is(err, storage.ErrCorrupt) || n >= int64(len(l.body)) {
					t.Errorf("%d bytes, %v, want ErrCorrupt and a withheld tail", n, err)
				}
				if s.stored(t, digest.FromBytes(l.body)) {
					t.Error("wrong bytes are stored")
				}
				if l.rejected != len(l.requests) {
					t.Errorf("%d streams of %d are blamed", l.rejected, len(l.requests))
				}
			})
		})
	}
}

// A download that waits for a place comes before each segment, at once.
func TestSegmentsYield(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	for name, repo := range map[string]storage.RepoID{"of the same namespace": ours, "of another one": {Namespace: "quay.io", Name: "app"}} {
		for _, places := range []int{4, 32} { // with and without a reserve
			t.Run(fmt.Sprintf("%s, %d places", name, places), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSetup(t, func(o *download.Options) { o.MaxFetches = places })
					defer s.Close()
					l := newLine(random(64 * mib))
					l.streams = 16
					done := make(chan struct{})
					go func() { defer close(done); s.pull(t, l) }()
					time.Sleep(100 * time.Millisecond)
					var origins []*origin
					for i := range places - 1 - places/16 {
						o := &origin{body: random(1000 + i), step: make(chan int, 1)}
						r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(repo))
						defer r.Close()
						origins = append(origins, o)
					}
					time.Sleep(2 * time.Millisecond)
					for i, o := range origins {
						if len(o.asked()) != 1 {
							t.Errorf("download %d waits for a place", i)
						}
						o.step <- 2000
					}
					<-done
					l.expect(t, 64*mib)
				})
			})
		}
	}
}

// Segments end with their download: when its clients leave, and at a shutdown. A client that
// returns gets each byte once.
func TestSegmentsEndWithTheirDownload(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	for name, end := range map[string]func(s *setup, leave func()){
		"its client leaves": func(_ *setup, leave func()) { leave(); time.Sleep(10 * time.Second) },
		"shutdown":          func(s *setup, leave func()) { s.Close(); leave() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				defer s.Close()
				l := newLine(random(64 * mib))
				ctx, cancel := context.WithCancel(t.Context())
				r := s.reader(t, ctx, digest.FromBytes(l.body), l.source(ours))
				left := make(chan struct{})
				go func() {
					defer close(left)
					defer r.Close()
					_, _ = compare(r, l.body)
				}()
				time.Sleep(150 * time.Millisecond)
				end(s, func() { cancel(); <-left })
				synctest.Wait()
				l.mu.Lock()
				most, active := l.most, l.active
				l.mu.Unlock()
				if most < 4 || active != 0 || l.open != 0 {
					t.Errorf("%d streams at most, %d are open", most, active)
				}
				if name == "its client leaves" {
					s.pull(t, l)
					l.expect(t, 64*mib)
				}
			})
		})
	}
}

// A range of a client that lies in a segment comes at once, and its bytes once.
func TestRangeInASegment(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		l := newLine(random(128 * mib))
		done := make(chan struct{})
		go func() { defer close(done); s.pull(t, l) }()
		time.Sleep(100 * time.Millisecond)
		at := 64 * mib // far into a segment of 16 MiB
		began := time.Now()
		if err := s.read(t.Context(), l.source(ours), l.body, stretch{at, at + mib, at + mib}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("the range took %s", took)
		}
		<-done
		l.expect(t, 128*mib)
		if !slices.Contains(l.requests, fmt.Sprintf("%d+%d", at, mib)) {
			t.Errorf("the range was not asked for: %s", strings.Join(l.requests, " "))
		}
	})
}

// A store that takes no byte of a segment fails for the download, not for its readers.
func TestSegmentsWithoutRoom(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, noRoom)
		defer s.Close()
		s.pull(t, newLine(random(64*mib)))
	})
}

// A download that no client has asked for has no segments.
func TestPrefetchHasNoSegments(t *testing.T) {
	testutil.Long(t, "it downloads large contents")
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, nil)
		defer s.Close()
		l := newLine(random(64 * mib))
		if began, err := s.Prefetch(t.Context(), digest.FromBytes(l.body), l.source(ours), always); !began || err != nil {
			t.Error(began, err)
		}
		l.expect(t, 64*mib, "0+-1")
	})
}
