package bulk_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/bulk"
)

// A party with many slow documents has its share of the places, and the others wait for
// none of it.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := bulk.NewPool(4)
		slow, quick := pool.Share(2), pool.Share(2)
		var slows, all, most atomic.Int32
		run := func(s *bulk.Share, running *atomic.Int32, took time.Duration) {
			f := bulk.Within(s, func(ctx context.Context) (int, error) {
				if err := bulk.Enter(ctx); err != nil {
					return 0, err
				}
				defer running.Add(-1)
				if n := running.Add(1); n > 2 {
					t.Errorf("%d at once of one party", n)
				}
				defer all.Add(-1)
				most.Store(max(most.Load(), all.Add(1)))
				time.Sleep(took)
				return 1, bulk.Enter(ctx) // it has its place
			})
			if n, err := f(t.Context()); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		for range 100 {
			go run(slow, &slows, time.Hour)
		}
		synctest.Wait()
		start := time.Now()
		var quicks atomic.Int32
		done := make(chan struct{})
		for range 10 {
			go func() {
				run(quick, &quicks, time.Second)
				done <- struct{}{}
			}()
		}
		for range 10 {
			<-done
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("ten quick documents took %v", took)
		}
		// A third party shares the places of the pool with the two.
		other := pool.Share(2)
		release, err := other.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		release()
		time.Sleep(60 * time.Hour)
		if slows.Load() != 0 || most.Load() != 4 {
			t.Errorf("%d are left, %d were the most at once", slows.Load(), most.Load())
		}
	})
}

// A place that was waited for in vain is free for others, and so is that of a call that
// failed or panicked.
func TestPlacesAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := bulk.NewPool(1)
		one, other := pool.Share(1), pool.Share(1)
		release, err := one.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*bulk.Share{one, other} { // the first waits for its share, the other one for the pool
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Take: %v", err)
			}
			cancel()
		}
		release()
		failed := errors.New("failed")
		for range 3 {
			if _, err := bulk.Within(other, func(ctx context.Context) (int, error) { return 0, errors.Join(bulk.Enter(ctx), failed) })(t.Context()); !errors.Is(err, failed) {
				t.Error(err)
			}
			func() {
				defer func() { recover() }()
				bulk.Within(one, func(ctx context.Context) (int, error) { panic(bulk.Enter(ctx)) })(t.Context())
			}()
		}
		if err := bulk.Enter(t.Context()); err != nil {
			t.Errorf("work without a share: %v", err)
		}
	})
}
