package download_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
)

// fleetmate is an Origin that knows of other mirrors: each answer is the next one of a
// script.
type fleetmate struct {
	mu     sync.Mutex
	script []func(offset int64) (*download.Stream, error)
	asked  []int64 // offsets
	ended  []bool
}

func (f *fleetmate) Open(_ context.Context, want download.Want) (*download.Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, want.Offset)
	if len(f.script) == 0 {
		return nil, storage.ErrNotExist
	}
	next := f.script[0]
	f.script = f.script[1:]
	stream, err := next(want.Offset)
	if errors.Is(err, download.ErrTurn) {
		want.OnEnd(func(stored bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.ended = append(f.ended, stored)
		})
	}
	return stream, err
}

func (f *fleetmate) turns() (asked []int64, ended []bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked), slices.Clone(f.ended)
}

func turn(int64) (*download.Stream, error) { return nil, download.ErrTurn }

// cutStream delivers a body up to an offset, and breaks off.
func cutStream(body []byte, at int64) func(int64) (*download.Stream, error) {
	return func(offset int64) (*download.Stream, error) {
		part := io.Reader(bytes.NewReader(body[offset:max(at, offset)]))
		if at < int64(len(body)) {
			part = io.MultiReader(part, &broken{})
		}
		return &download.Stream{ReadCloser: io.NopCloser(part), Size: int64(len(body)), Origin: "peer.test", Peer: true, Resumes: true, Reject: func() bool { return true }}, nil
	}
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, errCut }

func withFleet(t *testing.T, f *fleetmate) *setup {
	return newSetup(t, func(o *download.Options) { o.Origins = []download.Origin{f} })
}

// A download that has its turn asks its own upstream, and says how it ended once the content
// is in the store.
func TestTurn(t *testing.T) {
	body := random(200_000)
	for name, tc := range map[string]struct {
		upstream *origin
		stored   bool
	}{"succeeds": {&origin{body: body}, true}, "fails": {&origin{body: body, failAt: 70_000}, false}, "lies": {&origin{body: body, corrupt: func(p []byte) []byte { p[0] ^= 1; return p }}, false}} {
		t.Run(name, func(t *testing.T) {
			f := &fleetmate{script: []func(int64) (*download.Stream, error){turn}}
			s := withFleet(t, f)
			r := s.reader(t, t.Context(), digest.FromBytes(body), tc.upstream.source(ours))
			if _, err := readAll(r); (err == nil) != tc.stored {
				t.Errorf("read: %v", err)
			}
			r.Close()
			if r.FromPeer() {
				t.Error("the bytes count as those of another mirror")
			}
			s.Close()
			if _, ended := f.turns(); !slices.Equal(ended, []bool{tc.stored}) {
				t.Errorf("ended %v, want %v", ended, tc.stored)
			}
		})
	}
}

// A download without readers gives its turn back while it pauses, and asks again at its offset.
func TestTurnPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := random(300_000)
		f := &fleetmate{script: []func(int64) (*download.Stream, error){turn, cutStream(body, 300_000)}}
		s := withFleet(t, f)
		upstream := &origin{body: body, step: make(chan int)}
		dgst := digest.FromBytes(body)
		r := s.reader(t, t.Context(), dgst, upstream.source(ours))
		upstream.step <- 64 << 10
		synctest.Wait()
		r.Close()
		upstream.step <- 64 << 10
		time.Sleep(time.Minute)
		if _, ended := f.turns(); !slices.Equal(ended, []bool{false}) {
			t.Errorf("ended %v", ended)
		}
		r = s.reader(t, t.Context(), dgst, upstream.source(ours))
		got, err := readAll(r)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		r.Close()
		s.Close()
		if asked, _ := f.turns(); !slices.Equal(asked, []int64{0, 128 << 10}) {
			t.Errorf("asked at %v", asked)
		}
	})
}

// A stream of another mirror that breaks off is followed by the next one, from its offset,
// and then by the download's own upstream. The number of such streams is bounded.
func TestResumes(t *testing.T) {
	body := random(200_000)
	type answers = []func(int64) (*download.Stream, error)
	for name, tc := range map[string]struct {
		script   answers
		asked    []int64
		upstream []string
	}{
		"another holder":  {answers{cutStream(body, 70_000), cutStream(body, 90_000), turn}, []int64{0, 70_000, 90_000}, []string{"90000+-1"}},
		"its own turn":    {answers{cutStream(body, 70_000), turn}, []int64{0, 70_000}, []string{"70000+-1"}},
		"none is left":    {answers{cutStream(body, 70_000)}, []int64{0, 70_000}, []string{"70000+-1"}},
		"for ever broken": {slices.Repeat(answers{cutStream(body, 10)}, 100), []int64{0, 10, 10, 10, 10, 10, 10, 10, 10}, []string{"10+-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fleetmate{script: tc.script}
			s := withFleet(t, f)
			upstream := &origin{body: body}
			r := s.reader(t, t.Context(), digest.FromBytes(body), upstream.source(ours))
			if got, err := readAll(r); err != nil || !bytes.Equal(got, body) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			r.Close()
			asked, _ := f.turns()
			if !slices.Equal(asked, tc.asked) {
				t.Errorf("asked at %v, want %v", asked, tc.asked)
			}
			if got := upstream.asked(); len(got) != 1 || got[0][:len(tc.upstream[0])] != tc.upstream[0] {
				t.Errorf("the upstream was asked %q, want %q", got, tc.upstream)
			}
		})
	}
}

// A request of a mirror that could wait for this one asks no other mirror.
func TestOwnSource(t *testing.T) {
	body := random(1000)
	f := &fleetmate{script: []func(int64) (*download.Stream, error){turn}}
	s := withFleet(t, f)
	src := (&origin{body: body}).source(ours)
	src.Own = true
	if _, err := readAll(s.reader(t, t.Context(), digest.FromBytes(body), src)); err != nil {
		t.Error(err)
	}
	if asked, _ := f.turns(); len(asked) > 0 {
		t.Errorf("asked at %v", asked)
	}
}

// A follower reads the download as it grows. The tail comes once the digest is verified, and
// wrong bytes never complete.
func TestFollow(t *testing.T) {
	for _, noSize := range []bool{false, true} {
		for _, lies := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				body := random(300_000)
				upstream := &origin{body: body, step: make(chan int), noSize: noSize}
				dgst := digest.FromBytes(body)
				if lies {
					upstream.corrupt = func(p []byte) []byte { p[299_999] ^= 1; return p }
				}
				if _, err := s.Follow(t.Context(), dgst, ours.Namespace, 0); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("no download runs: %v", err)
				}
				r := s.reader(t, t.Context(), dgst, upstream.source(ours))
				upstream.step <- 64 << 10
				synctest.Wait()
				f, err := s.Follow(t.Context(), dgst, ours.Namespace, 1000)
				if err != nil {
					t.Fatal(err)
				}
				if want := map[bool]int64{false: 300_000, true: -1}[noSize]; f.Size() != want {
					t.Errorf("size %d", f.Size())
				}
				if _, err := s.Follow(t.Context(), dgst, "another block", 0); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("another block: %v", err)
				}
				var got []byte
				var failed error
				var reading sync.WaitGroup
				reading.Go(func() { got, failed = io.ReadAll(f) })
				r.Close() // the follower holds the download
				upstream.step <- 300_000 - 64<<10 - 1
				synctest.Wait()
				upstream.step <- 1
				reading.Wait()
				f.Close()
				s.Close()
				switch {
				case !lies && (failed != nil || !bytes.Equal(got, body[1000:])):
					t.Errorf("read %d bytes, %v", len(got), failed)
				case lies && (!errors.Is(failed, storage.ErrCorrupt) || len(got) > 299_000-spool.TailHold):
					t.Errorf("read %d wrong bytes, %v", len(got), failed)
				}
				if s.stored(t, dgst) == lies {
					t.Errorf("stored: %v", !lies)
				}
			})
		}
	}
}

// A follower gives the bytes in front of the tail as parts of a file, for the kernel to send,
// from its own offset on. It reads the tail once that is verified, and errors are read too.
func TestFollowStretch(t *testing.T) {
	for _, noSize := range []bool{false, true} {
		for _, lies := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup(t, nil)
				body := random(300_000)
				upstream := &origin{body: body, step: make(chan int), noSize: noSize}
				dgst := digest.FromBytes(body)
				if lies {
					upstream.corrupt = func(p []byte) []byte { p[299_999] ^= 1; return p }
				}
				r := s.reader(t, t.Context(), dgst, upstream.source(ours))
				defer r.Close()
				upstream.step <- 100_000
				synctest.Wait()
				f, err := s.Follow(t.Context(), dgst, ours.Namespace, 1000)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				got := append(take(t, f, 10_000), take(t, f, -1)...)
				var rest []byte
				var failed error
				var reading sync.WaitGroup
				reading.Go(func() {
					for part := f.Stretch(-1); part != nil; part = f.Stretch(-1) {
						bytes, _ := io.ReadAll(part)
						f.Advance(int64(len(bytes)))
						got = append(got, bytes...)
					}
					rest, failed = io.ReadAll(f)
				})
				upstream.step <- 200_000
				reading.Wait()
				visible := body[1000 : 300_000-spool.TailHold]
				switch {
				case !lies && noSize: // the last stretch comes when all is verified
					if !bytes.Equal(got, body[1000:]) || len(rest) > 0 || failed != nil {
						t.Errorf("%d bytes in stretches, then %d, %v", len(got), len(rest), failed)
					}
				case !bytes.Equal(got, visible):
					t.Errorf("%d bytes in stretches, want %d", len(got), len(visible))
				case lies && (!errors.Is(failed, storage.ErrCorrupt) || len(rest) > 0):
					t.Errorf("%d bytes of a wrong tail, %v", len(rest), failed)
				case !lies && (failed != nil || !bytes.Equal(rest, body[300_000-spool.TailHold:])):
					t.Errorf("the tail has %d bytes, %v", len(rest), failed)
				}
			})
		}
	}
}

// take reads one stretch of a follower, at most limit bytes.
func take(t *testing.T, f *download.Follower, limit int64) []byte {
	t.Helper()
	part := f.Stretch(limit)
	if part == nil || limit >= 0 && part.N > limit {
		t.Fatalf("a stretch of %d bytes: %v", limit, part)
	}
	got, err := io.ReadAll(part)
	if err != nil {
		t.Fatal(err)
	}
	f.Advance(int64(len(got)))
	return got
}

// A follower of a download that fails or is given up fails too, and so does one that comes
// when the download has ended.
func TestFollowFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unattended int
		s := newSetup(t, func(o *download.Options) {
			o.OnUnattended = func(d *download.Download) { unattended++; d.Abandon() }
		})
		body := random(300_000)
		upstream := &origin{body: body, step: make(chan int), failAt: 64 << 10}
		dgst := digest.FromBytes(body)
		r := s.reader(t, t.Context(), dgst, upstream.source(ours))
		waiting := make(chan error, 1)
		go func() {
			f, err := s.Follow(t.Context(), dgst, ours.Namespace, 0)
			if err == nil {
				_, err = io.ReadAll(f)
				f.Close()
			}
			waiting <- err
		}()
		synctest.Wait()
		upstream.step <- 64 << 10
		if err := <-waiting; !errors.Is(err, errCut) {
			t.Errorf("the follower: %v", err)
		}
		r.Close()
		if _, err := s.Follow(t.Context(), dgst, ours.Namespace, 0); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("after the end: %v", err)
		}
		// The last holder gives the download up.
		second := &origin{body: body, step: make(chan int)}
		r = s.reader(t, t.Context(), dgst, second.source(ours))
		second.step <- 1000
		synctest.Wait()
		f, err := s.Follow(t.Context(), dgst, ours.Namespace, 0)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		if unattended != 0 {
			t.Error("a follower does not hold the download")
		}
		f.Close()
		if unattended != 1 {
			t.Errorf("%d ends without a holder", unattended)
		}
		s.Close()
	})
}
