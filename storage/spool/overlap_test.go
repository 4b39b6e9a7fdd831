package spool

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Overlapping writes count each byte once: in the watermark, in the space that
// is promised, and in the quota.
func TestOverlappingWrites(t *testing.T) {
	const size = 100
	type step struct{ from, to int64 }
	for _, tc := range []struct {
		name                        string
		steps                       []step
		watermark, covered, missing int64
	}{
		{"twice ahead", []step{{40, 60}, {40, 60}}, 0, 20, 80},
		{"ahead, overlapping", []step{{40, 60}, {50, 70}, {30, 45}}, 0, 40, 60},
		{"a gap is closed by a longer write", []step{{40, 60}, {80, 90}, {0, 85}}, 90, 90, 10},
		{"behind the watermark", []step{{0, 50}, {10, 20}}, 50, 50, 50},
		{"across the watermark", []step{{0, 50}, {40, 60}}, 60, 60, 40},
		{"all", []step{{90, 100}, {10, 95}, {0, 20}}, 100, 100, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, quota := withQuota(t, 1000)
			dir.minFree, dir.reuse, dir.free = 1, 0, func(string) (int64, error) { return 1 << 30, nil }
			s, err := dir.Create("", size)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			content := pattern(size)
			for _, step := range tc.steps {
				n, err := s.WriteAt(content[step.from:step.to], step.from)
				if err != nil || n != int(step.to-step.from) {
					t.Fatalf("WriteAt %v: %d, %v", step, n, err)
				}
			}
			if got := s.Written(); got != tc.watermark {
				t.Errorf("watermark %d, want %d", got, tc.watermark)
			}
			if got := s.covered.total(); got != tc.covered {
				t.Errorf("%d bytes are there, want %d", got, tc.covered)
			}
			if dir.pending != tc.missing {
				t.Errorf("%d bytes are promised, want %d: those that are missing", dir.pending, tc.missing)
			}
			// A download that is resumed announces again, which promises nothing more.
			if err := s.Announce(size); err != nil {
				t.Fatal(err)
			}
			if dir.pending != tc.missing {
				t.Errorf("announced again: %d bytes are promised, want %d", dir.pending, tc.missing)
			}
			quota.expect(t, "written", size)
			err = s.Complete()
			if whole := tc.missing == 0; whole != (err == nil) || !whole && !errors.Is(err, ErrSize) {
				t.Errorf("Complete: %v with %d bytes missing", err, tc.missing)
			}
		})
	}
}

// The first write of a byte counts: a reader or a hash may have seen it.
func TestWrittenBytesNeverChange(t *testing.T) {
	s := create(t, -1)
	want := pattern(3000)
	if _, err := s.WriteAt(want[1000:2000], 1000); err != nil {
		t.Fatal(err)
	}
	other := bytes.Repeat([]byte{0xff}, 1500)
	copy(other, want[:1000])
	if n, err := s.WriteAt(other, 0); n != 1500 || err != nil {
		t.Fatalf("an overlapping write: %d, %v", n, err)
	}
	write(t, s, want[2000:])
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt(other, 500); err != nil {
		t.Errorf("a write of what is complete: %v", err)
	}
	if _, err := s.WriteAt([]byte{1}, 3000); !errors.Is(err, ErrSize) {
		t.Errorf("a write beyond the end: %v, want ErrSize", err)
	}
	r := reader(t, t.Context(), s)
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes, %v", err)
	}
}

func TestConcurrentWritersOfOneRange(t *testing.T) {
	const size = 1 << 20
	s := create(t, size)
	want := pattern(size)
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			for range 200 {
				from := rng.Int64N(size)
				to := min(size, from+rng.Int64N(32<<10))
				if _, err := s.WriteAt(want[from:to], from); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.WriteAt(want, 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	if len(s.writing) > 0 || s.dir.pending != 0 {
		t.Errorf("%v is still being written, %d bytes are still promised", s.writing, s.dir.pending)
	}
	r := reader(t, t.Context(), s)
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes, %v", err)
	}
}

// Writers that disagree write the same ranges at once. A byte that a reader has
// been given stays as it is, and each byte is counted once.
func TestWritersThatDisagree(t *testing.T) {
	const size = 256 << 10
	s := create(t, size)
	r := reader(t, t.Context(), s)
	defer r.Close()
	var seen []byte
	var following, writing sync.WaitGroup
	following.Go(func() {
		var err error
		if seen, err = io.ReadAll(r); err != nil {
			t.Error(err)
		}
	})
	for id := range byte(4) {
		writing.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(id), 2))
			mine := bytes.Repeat([]byte{'a' + id}, size)
			for from := int64(0); from < size; from += 1 + rng.Int64N(4<<10) {
				to := min(size, from+8<<10)
				if n, err := s.WriteAt(mine[from:to], from); err != nil || int64(n) != to-from {
					t.Errorf("WriteAt %d: %d, %v", from, n, err)
				}
			}
		})
	}
	writing.Wait()
	if s.covered.total() != size || len(s.writing) > 0 || s.dir.pending != 0 {
		t.Errorf("%d bytes are there, %v is still being written, %d bytes are still promised", s.covered.total(), s.writing, s.dir.pending)
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	following.Wait()
	again := reader(t, t.Context(), s)
	defer again.Close()
	if got, err := io.ReadAll(again); err != nil || !bytes.Equal(got, seen) {
		t.Errorf("bytes that a reader has been given have changed, %v", err)
	}
}

// A filesystem that is slow to tell its free space holds up no other download.
func TestSlowStatfsHoldsUpNobody(t *testing.T) {
	dir := NewDir(t.TempDir(), 0, nil)
	dir.minFree, dir.reuse, dir.free = 100, 0, func(string) (int64, error) { return 10_000, nil }
	running, err := dir.Create("", 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	asked, answer := make(chan struct{}), make(chan struct{})
	dir.reuse, dir.free = 0, func(string) (int64, error) {
		close(asked)
		<-answer
		return 10_000, nil
	}
	created := make(chan *Spool)
	go func() {
		s, err := dir.Create("", 1000)
		if err != nil {
			t.Error(err)
		}
		created <- s
	}()
	<-asked
	wrote := make(chan struct{})
	go func() {
		write(t, running, pattern(1000))
		close(wrote)
	}()
	select {
	case <-wrote:
	case <-time.After(2 * time.Second):
		t.Error("a write waits for the free space that another download asks for")
	}
	close(answer)
	<-wrote
	(<-created).Close()
}

// Bytes that are written while the free space is measured are not promised a
// second time, and refuse nobody whom they leave enough.
func TestFreeSpaceWhileWriting(t *testing.T) {
	for _, tc := range []struct {
		name     string
		measured []int64 // one answer for each measurement
		ok       bool
	}{
		{"the measurement is older than the write", []int64{1500, 1000}, false},
		{"the measurement has the write", []int64{1600, 1600}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := NewDir(t.TempDir(), 100, nil)
			dir.reuse, dir.free = 0, func(string) (int64, error) { return 10_000, nil }
			running, err := dir.Create("", 500)
			if err != nil {
				t.Fatal(err)
			}
			defer running.Close()
			asked := 0
			dir.reuse, dir.free = 0, func(string) (int64, error) {
				if asked == 0 {
					write(t, running, pattern(500))
				}
				asked++
				return tc.measured[asked-1], nil
			}
			s, err := dir.Create("", 1200)
			if tc.ok != (err == nil) {
				t.Errorf("1200 wanted, 100 to be kept, %d free in the end: %v", tc.measured[1], err)
			}
			if s != nil {
				s.Close()
			}
			if asked != 2 {
				t.Errorf("measured %d times, want twice", asked)
			}
		})
	}
}

// A measured free space counts for a while if it is enough, less the bytes that were written
// since. One that is not enough is measured again.
func TestFreeSpaceCountsForAWhile(t *testing.T) {
	dir := NewDir(t.TempDir(), 100, nil)
	asked, free := 0, int64(1100)
	dir.reuse, dir.free = time.Hour, func(string) (int64, error) {
		asked++
		return free, nil
	}
	expect := func(size int64, ok bool, times int) {
		t.Helper()
		s, err := dir.Create("", size)
		if ok != (err == nil) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if asked != times {
			t.Errorf("measured %d times, want %d", asked, times)
		}
		if s != nil {
			t.Cleanup(func() { s.Close() })
			write(t, s, pattern(int(size)))
		}
	}
	expect(400, true, 1)
	free = 700
	expect(500, true, 1)
	free = 200
	expect(200, false, 2) // 100 are left by the first measurement
	expect(100, true, 2)
	free = 100
	expect(1, false, 3)
	free = 1100
	expect(1000, true, 4)
	dir.reuse = 0
	free = 1100
	expect(1, true, 5)
}
