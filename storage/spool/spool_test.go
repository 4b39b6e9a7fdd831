package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func create(t *testing.T, size int64) *Spool {
	t.Helper()
	s, err := NewDir(t.TempDir(), 0, nil).Create("", size)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func reader(t *testing.T, ctx context.Context, s *Spool) *Reader {
	t.Helper()
	r, err := s.NewReader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}

func write(t *testing.T, s *Spool, p []byte) {
	t.Helper()
	if _, err := s.Write(p); err != nil {
		t.Fatal(err)
	}
}

func TestManyReadersFollowOneWriter(t *testing.T) {
	want := pattern(300 << 10)
	s := create(t, int64(len(want)))
	defer s.Close()
	var wg sync.WaitGroup
	for range 8 {
		r := reader(t, t.Context(), s)
		wg.Go(func() {
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d bytes, %v; want all %d", len(got), err, len(want))
			}
		})
	}
	for chunk := range chunks(want, 10_000) {
		write(t, s, chunk)
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func chunks(p []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(p) > 0 {
			k := min(n, len(p))
			if !yield(p[:k]) {
				return
			}
			p = p[k:]
		}
	}
}

func TestTailIsWithheldUntilComplete(t *testing.T) {
	for _, tc := range []struct {
		name            string
		announced       int64
		written, expect int
	}{
		{"size known, all written", 100 << 10, 100 << 10, 100<<10 - TailHold},
		{"size known, part written", 100 << 10, 50 << 10, 50 << 10},
		{"size unknown", -1, 100 << 10, 100<<10 - TailHold},
		{"smaller than the tail", 1000, 1000, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := create(t, tc.announced)
				defer s.Close()
				write(t, s, pattern(tc.written))
				r := reader(t, t.Context(), s)
				got := 0
				done := make(chan error)
				go func() {
					buf := make([]byte, 4096)
					for {
						n, err := r.Read(buf)
						got += n
						if err != nil {
							done <- err
							return
						}
					}
				}()
				synctest.Wait()
				if got != tc.expect {
					t.Errorf("before Complete a reader got %d bytes, want %d", got, tc.expect)
				}
				failure := errors.New("digest does not match")
				s.Fail(failure)
				if err := <-done; !errors.Is(err, failure) {
					t.Errorf("the reader ended with %v, want the failure", err)
				}
				r.Close()
			})
		})
	}
}

func TestSegmentsOutOfOrder(t *testing.T) {
	want := pattern(90)
	s := create(t, 90)
	defer s.Close()
	for _, step := range []struct {
		from, to, watermark int64
	}{{60, 90, 0}, {30, 40, 0}, {0, 20, 20}, {20, 30, 40}, {40, 60, 90}} {
		if _, err := s.WriteAt(want[step.from:step.to], step.from); err != nil {
			t.Fatal(err)
		}
		if got := s.Written(); got != step.watermark {
			t.Errorf("after [%d,%d): watermark %d, want %d", step.from, step.to, got, step.watermark)
		}
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	r := reader(t, t.Context(), s)
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestSizeIsHeldTo(t *testing.T) {
	s := create(t, 10)
	defer s.Close()
	if _, err := s.Write(pattern(11)); !errors.Is(err, ErrSize) {
		t.Errorf("writing beyond the size: %v, want ErrSize", err)
	}
	write(t, s, pattern(9))
	if err := s.Complete(); !errors.Is(err, ErrSize) {
		t.Errorf("completing a short spool: %v, want ErrSize", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := create(t, 10)
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		r := reader(t, ctx, s)
		defer r.Close()
		done := make(chan error)
		go func() {
			_, err := r.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
}

func TestReadersOutliveOwnerAndName(t *testing.T) {
	want := pattern(100)
	s := create(t, 100)
	write(t, s, want)
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	final := filepath.Join(t.TempDir(), "final")
	if err := s.Rename(final); err != nil {
		t.Fatal(err)
	}
	r := reader(t, t.Context(), s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after the owner's Close: %d bytes, %v", len(got), err)
	}
	r.Close()
	if got, err := os.ReadFile(final); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the renamed file: %d bytes, %v", len(got), err)
	}
	if _, err := s.NewReader(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a reader after all have closed: %v, want ErrClosed", err)
	}
}

func TestAbandonedSpoolLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := NewDir(dir, 0, nil).Create("", 100)
	if err != nil {
		t.Fatal(err)
	}
	r := reader(t, t.Context(), s)
	defer r.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("reading an abandoned spool: %v, want ErrClosed", err)
	}
}

func TestResetOnlyBeforeAnybodyRead(t *testing.T) {
	s := create(t, -1)
	defer s.Close()
	write(t, s, pattern(100<<10))
	if !s.Reset() {
		t.Fatal("nobody has read, yet Reset refused")
	}
	want := []byte("short and right")
	write(t, s, want)
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	r := reader(t, t.Context(), s)
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}

	s2 := create(t, 100<<10)
	defer s2.Close()
	write(t, s2, pattern(100<<10))
	r2 := reader(t, t.Context(), s2)
	defer r2.Close()
	if _, err := r2.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if s2.Reset() {
		t.Error("a reader has bytes of the old content, yet Reset agreed")
	}
}

// Free space is promised to one download only, and given back.
func TestReservation(t *testing.T) {
	dir := NewDir(t.TempDir(), 100, nil)
	dir.reuse, dir.free = 0, func(string) (int64, error) { return 1000, nil }
	a, err := dir.Create("", 600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Create("", 400); !errors.Is(err, ErrNoSpace) {
		t.Errorf("600 of 900 are promised, yet 400 more: %v, want ErrNoSpace", err)
	}
	b, err := dir.Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Announce(301); !errors.Is(err, ErrNoSpace) {
		t.Errorf("announcing 301 of 300: %v, want ErrNoSpace", err)
	}
	if err := b.Announce(300); err != nil {
		t.Error(err)
	}
	// What is written is no longer promised: the filesystem counts it.
	write(t, a, pattern(600))
	if got := dir.pending; got != 0 {
		t.Errorf("pending %d after writing 600, want 0: an announcement promises nothing", got)
	}
	a.Close()
	b.Close()
	if got := dir.pending; got != 0 {
		t.Errorf("pending %d at the end, want 0", got)
	}
}

func TestUnknownSizeReservesAsItGrows(t *testing.T) {
	dir := NewDir(t.TempDir(), 100, nil)
	dir.reuse, dir.free = 0, func(string) (int64, error) { return 100 + 2000, nil }
	s, err := dir.Create("", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write(t, s, pattern(1000))
	if got := dir.pending; got != 1000 {
		t.Errorf("pending %d, want as much again as has come", got)
	}
	if _, err := dir.Create("", 0); err != nil {
		t.Errorf("nothing more is wanted: %v", err)
	}
}
