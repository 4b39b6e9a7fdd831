package bulk_test

import (
	"context"
	"errors"
	"sync"
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

// A document that drips loses its place, but only to others that wait for it.
func TestSlowDocuments(t *testing.T) {
	for name, c := range map[string]struct {
		places, speed int // bytes per second
		others        int // parties that want a place
		least, most   time.Duration
	}{
		"one drips":                          {1, 1, 1, 15 * time.Second, 17 * time.Second},
		"slow":                               {1, 100 << 10, 1, 15 * time.Second, 17 * time.Second},
		"all drip":                           {3, 1, 3, 15 * time.Second, 17 * time.Second},
		"it is fast enough":                  {1, 130 << 10, 1, time.Minute, time.Minute},
		"no other one wants its place":       {1, 1, 0, time.Minute, time.Minute},
		"there is another place for the one": {2, 1, 0, time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := bulk.NewPool(c.places)
				var dripping, waiting sync.WaitGroup
				began := time.Now()
				for range c.places {
					drip := bulk.Within(pool.Share(1), func(ctx context.Context) (int, error) {
						if err := bulk.Advance(ctx, 1); err != nil { // it has no place yet
							return 0, err
						}
						if err := bulk.Enter(ctx); err != nil {
							return 0, err
						}
						for range 60 {
							time.Sleep(time.Second)
							if err := bulk.Advance(ctx, c.speed); err != nil {
								return 0, err
							}
						}
						return 0, nil
					})
					dripping.Go(func() {
						_, err := drip(t.Context())
						took := time.Since(began)
						if took < c.least || took > c.most || (err != nil) != (took < time.Minute) || err != nil && !errors.Is(err, bulk.ErrTooSlow) {
							t.Errorf("%v after %s", err, took)
						}
					})
				}
				synctest.Wait()
				for range c.others {
					waiting.Go(func() {
						release, err := pool.Share(1).Take(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(time.Minute) // as long as all others
						release()
					})
				}
				dripping.Wait()
				waiting.Wait()
			})
		})
	}
	if err := bulk.Advance(t.Context(), 1); err != nil { // no such work
		t.Error(err)
	}
}

// A document that comes no further at all loses its place as one that drips.
func TestSilentDocuments(t *testing.T) {
	for name, c := range map[string]struct {
		others bool
		before int // bytes at once
		most   time.Duration
	}{
		"others wait":             {true, 1, 17 * time.Second},
		"no other one":            {false, 1, time.Minute},
		"half of it came at once": {true, 4 << 20, 34 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := bulk.NewPool(1)
				silent := bulk.Within(pool.Share(1), func(ctx context.Context) (took time.Duration, err error) {
					ended := make(chan struct{})
					bulk.Watch(ctx, func() { t.Error("work without a place is watched") })()
					if err := bulk.Enter(ctx); err != nil {
						return 0, err
					}
					began := time.Now()
					err = bulk.Advance(ctx, c.before)
					stop := bulk.Watch(ctx, func() { close(ended) })
					select {
					case <-ended:
					case <-time.After(time.Minute):
					}
					stop()
					return time.Since(began), err
				})
				var all sync.WaitGroup
				all.Go(func() {
					if took, err := silent(t.Context()); err != nil || took > c.most || took < c.most-3*time.Second {
						t.Errorf("%v after %s", err, took)
					}
				})
				synctest.Wait()
				if c.others {
					all.Go(func() {
						release, err := pool.Share(1).Take(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						release()
					})
				}
				all.Wait()
				time.Sleep(time.Hour) // a stopped watch does nothing more
			})
		})
	}
	bulk.Watch(t.Context(), nil)() // no such work
}

// A place whose caller has given up is free for others, and so is that of a call that
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
