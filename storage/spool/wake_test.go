package spool

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stretches has a goroutine take the next stretch of a reader, and returns a function that
// tells the length of the one that it has got, -1 if it still waits.
func stretches(r *Reader, limit int64) (got func() int64) {
	var mu sync.Mutex
	n := int64(-1)
	go func() {
		part := r.Stretch(limit)
		mu.Lock()
		defer mu.Unlock()
		if n = 0; part != nil {
			n = part.N
		}
	}()
	synctest.Wait() // it takes the present bytes, or waits
	return func() int64 {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// A reader that wants much is not woken by each write. No byte waits long for others.
func TestReadersWaitForBatches(t *testing.T) {
	const size = 2 << 20
	synctest.Test(t, func(t *testing.T) {
		s := create(t, size)
		defer s.Close()
		r := reader(t, t.Context(), s)
		defer r.Close()

		got := stretches(r, size)
		for range wakeBatch/1024 - 1 {
			write(t, s, pattern(1024))
		}
		if n := got(); n != -1 {
			t.Errorf("it was woken for %d bytes", n)
		}
		write(t, s, pattern(1024))
		if n := got(); n != wakeBatch {
			t.Errorf("it was not woken for a batch: %d", n)
		}
		r.Advance(wakeBatch)

		got = stretches(r, size)
		write(t, s, pattern(100))
		if n := got(); n != -1 {
			t.Errorf("it was woken at once for %d bytes", n)
		}
		time.Sleep(maxDelay / 2)
		write(t, s, pattern(50)) // prolongs nothing
		time.Sleep(maxDelay / 2)
		if n := got(); n != 150 {
			t.Errorf("after %s it has %d bytes, want 150", maxDelay, n)
		}
		r.Advance(150)

		// The timer works again.
		got = stretches(r, size)
		write(t, s, pattern(7))
		time.Sleep(maxDelay)
		if n := got(); n != 7 {
			t.Errorf("the next time it has %d bytes, want 7", n)
		}
		r.Advance(7)

		// A reader gets as few bytes as it wants at once.
		got = stretches(r, 100)
		write(t, s, pattern(99))
		if n := got(); n != -1 {
			t.Errorf("it was woken for %d of 100 bytes", n)
		}
		write(t, s, pattern(500))
		if n := got(); n != 100 {
			t.Errorf("it has %d bytes, want its 100", n)
		}
		// And bytes that are there need no wake-up.
		r.Advance(100)
		if n := stretches(r, size)(); n != 499 {
			t.Errorf("it has %d bytes, want the 499 that are there", n)
		}
	})
}

// No batch comes any more before the tail, or after the end.
func TestReadersAreWokenForTheLastBytes(t *testing.T) {
	const size = 100 << 10
	for name, test := range map[string]struct {
		announced int64
		end       func(*Spool)
		want      int64
	}{
		"before the tail":      {size, func(*Spool) {}, 68<<10 - 10},
		"complete":             {-1, func(s *Spool) { _ = s.Complete() }, size - 10},
		"announced":            {-1, func(s *Spool) { _ = s.Announce(size) }, 68<<10 - 10},
		"failed":               {-1, func(s *Spool) { s.Fail(errors.New("a failure")) }, 68<<10 - 10},
		"interrupted":          {-1, func(s *Spool) { s.Interrupt(errors.New("a failure")) }, size - 10},
		"interrupted, of more": {2 * size, func(s *Spool) { s.Interrupt(errors.New("a failure")) }, size - 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := create(t, test.announced)
				defer s.Close()
				r := reader(t, t.Context(), s)
				defer r.Close()
				r.Advance(10)
				got := stretches(r, size)
				write(t, s, pattern(size))
				test.end(s)
				if n := got(); n != test.want {
					t.Errorf("it has %d bytes, want %d", n, test.want)
				}
			})
		})
	}
}

// The kernel may send a stretch at any time later, so it has bytes only that readers can see.
func TestStretches(t *testing.T) {
	want := pattern(3 << 20)
	for _, size := range []int64{int64(len(want)), -1} {
		s := create(t, size)
		var readers sync.WaitGroup
		for range 8 {
			r := reader(t, t.Context(), s)
			readers.Go(func() {
				defer r.Close()
				var got bytes.Buffer
				for {
					part := r.Stretch(1 << 20)
					if part == nil {
						break
					}
					if visible := s.Readable(); int64(got.Len())+part.N > visible {
						t.Errorf("a stretch of %d bytes at %d, and %d are visible", part.N, got.Len(), visible)
					}
					if _, ok := part.R.(*os.File); !ok {
						t.Errorf("a stretch of a %T", part.R)
					}
					n, err := io.Copy(&got, part)
					if err != nil {
						t.Error(err)
					}
					r.Advance(n)
				}
				if _, err := r.Read(make([]byte, 1)); err != io.EOF || !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%d bytes, %v", got.Len(), err)
				}
			})
		}
		for chunk := range chunks(want, 10_000) {
			write(t, s, chunk)
		}
		if err := s.Complete(); err != nil {
			t.Error(err)
		}
		readers.Wait()
		s.Close()
	}
}

// A stretch needs the file once more. Without it a reader reads as before.
func TestStretchWithoutItsFile(t *testing.T) {
	want := pattern(100)
	for name, test := range map[string]struct {
		change func(t *testing.T, s *Spool, path string)
		ok     bool
	}{
		"renamed": {func(t *testing.T, s *Spool, _ string) {
			if err := s.Rename(filepath.Join(t.TempDir(), "final")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"removed": {func(_ *testing.T, _ *Spool, path string) { os.Remove(path) }, false},
		"replaced": {func(_ *testing.T, _ *Spool, path string) {
			os.Remove(path)
			os.WriteFile(path, []byte("other content"), 0o600)
		}, false},
		"replaced by a link": {func(t *testing.T, _ *Spool, path string) {
			other := filepath.Join(t.TempDir(), "other")
			os.Rename(path, other)
			os.Symlink(other, path)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := create(t, 100)
			defer s.Close()
			write(t, s, want)
			if err := s.Complete(); err != nil {
				t.Fatal(err)
			}
			test.change(t, s, s.file.Name())
			r := reader(t, t.Context(), s)
			defer r.Close()
			if part := r.Stretch(10); (part != nil) != test.ok {
				t.Errorf("the stretch is %v", part)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// Bytes in a stretch may be on their way to a client.
func TestNoResetAfterAStretch(t *testing.T) {
	s := create(t, 100<<10)
	defer s.Close()
	write(t, s, pattern(50<<10))
	r := reader(t, t.Context(), s)
	defer r.Close()
	if part := r.Stretch(1); part == nil || part.N != 1 {
		t.Fatalf("the stretch is %v", part)
	}
	if s.Reset() {
		t.Error("a reader may have sent a byte, and the spool is empty")
	}
}
