package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
)

// After three failures in a row no request is sent for a time, and then one. The log has
// one begin and one end.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(testutil.LogBuffer)
		g := newGate(slog.New(slog.NewTextHandler(log, nil)), func(bool) {})
		try := func(err error) error {
			pass, refused := g.enter(time.Now())
			if refused != nil {
				return refused
			}
			pass.end(err)
			return nil
		}
		down := &Error{Operation: "get", Reason: Unreachable, err: errors.New("connection refused")}
		for range 3 {
			if err := try(down); err != nil {
				t.Fatalf("paused too early: %v", err)
			}
		}
		if err := try(nil); !errors.Is(err, ErrPaused) || !g.paused() || g.err() == nil {
			t.Errorf("after three failures: %v, paused: %v", err, g.paused())
		}
		time.Sleep(firstPause)
		if g.paused() {
			t.Error("no request would be sent after the pause")
		}
		if err := try(down); err != nil {
			t.Errorf("the probe: %v", err)
		}
		time.Sleep(firstPause)
		if err := try(nil); !errors.Is(err, ErrPaused) {
			t.Errorf("the pause has not doubled: %v", err)
		}
		time.Sleep(firstPause)
		// A caller that leaves decides nothing, and the next one is a probe again.
		pass, err := g.enter(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pass.abandon()
		if err := try(nil); err != nil || g.err() != nil || g.paused() {
			t.Errorf("after a success: %v, %v", err, g.err())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if log.Count("the bucket cannot be used") != 1 || log.Count("the bucket works again") != 1 {
			t.Errorf("the log:\n%s", log)
		}
	})
}

// Failures that are answers do not stop the requests.
func TestAnswersAreNoTrouble(t *testing.T) {
	for _, err := range []error{
		nil, storage.ErrNotExist, fmt.Errorf("reading: %w", storage.ErrUnreadable),
		&Error{Reason: Missing}, &Error{Reason: Conflict}, &Error{Reason: Unsupported}, &Error{Reason: Bounds},
	} {
		if isTrouble(err) {
			t.Errorf("%v counts as a trouble", err)
		}
	}
	for _, reason := range []Reason{Other, NoBucket, Denied, BadCredentials, WrongRegion, WrongClock, Throttled, Unreachable, Failing} {
		if !isTrouble(&Error{Reason: reason, err: context.DeadlineExceeded}) {
			t.Errorf("reason %d counts as no trouble", reason)
		}
	}
}

// Names of keys survive servers that disagree about odd bytes, and names of others are
// never taken for ours.
func TestEscape(t *testing.T) {
	for key, want := range map[string]string{
		"ghcr.io/org/app/_tags/v1.0": "ghcr.io/org/app/_tags/v1.0",
		"localhost:5000/app":         "localhost!3A5000/app",
		"ghcr.io%2Facme/app":         "ghcr.io!252Facme/app",
		"a b/!":                      "a!20b/!21",
		"...":                        "!2E!2E!2E",
		"a/...":                      "a/!2E!2E!2E",
		"..a":                        "..a",
		"ä\n\xff":                    "!C3!A4!0A!FF",
		`a\b*?`:                      "a!5Cb!2A!3F",
	} {
		if got := escape(key); got != want {
			t.Errorf("escape(%q) = %q, want %q", key, got, want)
		}
		if got, ok := unescape(want); got != key || !ok {
			t.Errorf("unescape(%q) = %q, %v", want, got, ok)
		}
	}
	for _, name := range []string{"a!", "a!2", "a!zz", "!61", "a!2e", "a b", "ä", "!2F", "..", "a/."} {
		if key, ok := unescape(name); ok {
			t.Errorf("unescape(%q) = %q, want none", name, key)
		}
	}
}

// Keys that are sorted in memory are bounded, however many a server lists.
func TestSortedKeysAreBounded(t *testing.T) {
	asked := 0
	endless := func(yield func(string, error) bool) {
		for ; yield(fmt.Sprint("key ", asked), nil); asked++ {
		}
	}
	if keys, err := sorted(endless, 1000); ReasonOf(err) != Bounds || asked > 1000/keyCost {
		t.Errorf("%d keys of %d, %v", len(keys), asked, err)
	}
	some := func(yield func(string, error) bool) { _ = yield("b", nil) && yield("a", nil) }
	if keys, err := sorted(some, 1000); err != nil || !slices.Equal(keys, []string{"a", "b"}) {
		t.Errorf("%q, %v", keys, err)
	}
}

// All parts of an upload but the last one have one size, and there are not too many.
func TestPartSize(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct{ configured, size, want int64 }{
		{0, 1, 16 * mib}, {0, 100 << 30, 16 * mib}, {0, 9000 * 32 * mib, 32*mib + 1}, {5 * mib, 1 << 30, 5 * mib}, {5 * mib, 9000 * 6 * mib, 6 * mib},
	} {
		s := &Store{opts: Options{PartSize: tc.configured}}
		if got := s.partSize(tc.size); got != tc.want || tc.size/got >= 10_000 {
			t.Errorf("%d bytes with parts of %d: %d, want %d", tc.size, tc.configured, got, tc.want)
		}
	}
}

// trickle delivers bytes at a pace.
type trickle struct {
	each  int
	pause time.Duration
	ctx   context.Context
}

func (r *trickle) Read(p []byte) (int, error) {
	select {
	case <-time.After(r.pause):
		return min(r.each, len(p)), nil
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
}

func (*trickle) Close() error { return nil }

// A body that stalls or trickles fails and counts as a failure; the pace of its reader says
// nothing.
func TestPace(t *testing.T) {
	for name, tc := range map[string]struct {
		each   int
		pause  time.Duration
		reader time.Duration // its pause between two reads
		want   error
	}{
		"fast":                  {1 << 20, time.Millisecond, 0, nil},
		"slow":                  {100 << 10, time.Second, 0, nil},
		"a slow reader":         {100 << 10, time.Second, time.Minute, nil},
		"stalls":                {1 << 20, time.Minute, 0, errTimeout},
		"trickles":              {1, time.Second, 0, errSlow},
		"one byte before stall": {1, stall - time.Millisecond, 0, errSlow},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(slog.New(slog.DiscardHandler), func(bool) {})
				for range failuresToPause {
					pass, err := g.enter(time.Now())
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancelCause(t.Context())
					b := &body{stream: &trickle{tc.each, tc.pause, ctx}, left: 8 << 20, total: 8 << 20, ctx: ctx, cancel: cancel, reads: pass}
					for err == nil {
						time.Sleep(tc.reader)
						_, err = b.Read(make([]byte, 1<<20))
					}
					if errors.Is(err, context.Canceled) {
						err = context.Cause(ctx)
					}
					if want := cmp.Or(tc.want, io.EOF); err != want {
						t.Errorf("the body ends with %v, want %v", err, want)
					}
					b.Close()
				}
				if g.paused() != (tc.want != nil) {
					t.Errorf("paused: %v", g.paused())
				}
			})
		})
	}
}
