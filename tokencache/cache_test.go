package tokencache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/tokencache"
)

func TestTokenIsRemembered(t *testing.T) {
	cache, service := newCache(t, nil), &issuer{name: "service"}
	wantToken(t, cache, "a", service, "service-1")
	wantToken(t, cache, "a", service, "service-1")
	wantToken(t, cache, "b", service, "service-2")
	service.wantIssued(t, 2)
}

func TestTokenExpiresEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, service := newCache(t, newFaultyStore()), &issuer{name: "service"}
		mustToken(t, cache, "a", service)
		time.Sleep(270*time.Second - 1)
		wantToken(t, cache, "a", service, "service-1")
		time.Sleep(time.Nanosecond)
		wantToken(t, cache, "a", service, "service-2")
	})
}

func TestTokenThatIsNotUsableIsNotKept(t *testing.T) {
	cache, shared := newCache(t, nil), newFaultyStore()
	withShared := newCache(t, shared)
	for _, cache := range []*tokencache.Cache{cache, withShared} {
		acquired := 0
		for range 2 {
			token, err := cache.Token(t.Context(), keyFor("a"), func(context.Context) (tokencache.Token, error) {
				acquired++
				return tokencache.Token{Value: "over", Expires: time.Now().Add(-time.Second)}, nil
			})
			if err != nil || token.Value != "over" {
				t.Errorf("Token = %q, %v", token.Value, err)
			}
		}
		if acquired != 2 {
			t.Errorf("acquired %d times, want 2", acquired)
		}
	}
	shared.wantCalls(t, 2) // two reads
}

func TestSingleFlight(t *testing.T) {
	const callers = 100
	failure := errors.New("the service is out of order")
	for _, test := range []struct {
		name string
		err  error
	}{{"success", nil}, {"failure", failure}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cache, service := newCache(t, newFaultyStore()), &issuer{name: "service"}
				var group sync.WaitGroup
				for range callers {
					group.Go(func() {
						token, err := cache.Token(t.Context(), keyFor("a"), func(ctx context.Context) (tokencache.Token, error) {
							time.Sleep(time.Second)
							token, _ := service.acquire(ctx)
							return token, test.err
						})
						if err != test.err || err == nil && token.Value != "service-1" || err != nil && token != (tokencache.Token{}) {
							t.Errorf("Token = %q, %v", token.Value, err)
						}
					})
				}
				group.Wait()
				service.wantIssued(t, 1)

				// Only a success is remembered.
				mustToken(t, cache, "a", service)
				if test.err == nil {
					service.wantIssued(t, 1)
				} else {
					service.wantIssued(t, 2)
				}
			})
		})
	}
}

func TestAcquiredOnceHoweverCallersArrive(t *testing.T) {
	// Callers that looked into memory just before the flight ended start another
	// one, which has to look again.
	cache, service := newCache(t, nil), &issuer{name: "service"}
	const rounds = 2000
	for i := range rounds {
		key := keyFor(fmt.Sprint(i))
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				if _, err := cache.Token(t.Context(), key, service.acquire); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	service.wantIssued(t, rounds)
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, service := newCache(t, nil), &issuer{name: "service"}
		mustToken(t, cache, "warm", service)
		release := make(chan struct{})
		slow := make(chan tokencache.Token)
		go func() {
			token, _ := cache.Token(t.Context(), keyFor("slow"), func(context.Context) (tokencache.Token, error) {
				<-release
				return newToken("slow"), nil
			})
			slow <- token
		}()
		synctest.Wait()
		wantToken(t, cache, "warm", service, "service-1")
		wantToken(t, cache, "cold", service, "service-2")
		close(release)
		if token := <-slow; token.Value != "slow" {
			t.Errorf("Token(slow) = %q", token.Value)
		}
	})
}

func TestLeavingCallerDoesNotFailTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := newCache(t, nil)
		type contextKey struct{}
		release := make(chan struct{})
		acquire := func(ctx context.Context) (tokencache.Token, error) {
			<-release
			if ctx.Err() != nil {
				return tokencache.Token{}, ctx.Err()
			}
			return newToken(ctx.Value(contextKey{}).(string)), nil
		}
		first, leave := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "of the first"))
		gone := make(chan error)
		go func() {
			_, err := cache.Token(first, keyFor("a"), acquire)
			gone <- err
		}()
		synctest.Wait()
		stayed := make(chan tokencache.Token)
		go func() {
			token, err := cache.Token(t.Context(), keyFor("a"), acquire)
			if err != nil {
				t.Errorf("the caller who stayed: %v", err)
			}
			stayed <- token
		}()
		synctest.Wait()

		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller who left: %v, want context.Canceled", err)
		}
		close(release)
		if token := <-stayed; token.Value != "of the first" {
			t.Errorf("the caller who stayed got %q", token.Value)
		}
	})
}

func TestCallerHonoursItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, service := newCache(t, nil), &issuer{name: "service"}
		done, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := cache.Token(done, keyFor("a"), service.acquire); !errors.Is(err, context.Canceled) {
			t.Errorf("Token = %v, want context.Canceled", err)
		}
		synctest.Wait()
		service.wantIssued(t, 0)
	})
}

func TestAcquireIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := newCache(t, nil, tokencache.WithAcquireTimeout(time.Hour))
		start := time.Now()
		_, err := cache.Token(t.Context(), keyFor("a"), func(ctx context.Context) (tokencache.Token, error) {
			<-ctx.Done()
			return tokencache.Token{}, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("Token = %v after %v, want context.DeadlineExceeded after 1h", err, time.Since(start))
		}
	})
}

func TestPanicBecomesAnError(t *testing.T) {
	shared := newFaultyStore()
	cache, service := newCache(t, shared), &issuer{name: "service"}
	_, err := cache.Token(t.Context(), keyFor("a"), func(context.Context) (tokencache.Token, error) { panic("boom") })
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("acquire that panics: %v", err)
	}
	shared.failWith(func(context.Context, operation) error { panic("boom") })
	wantToken(t, cache, "a", service, "service-1")
}

func TestInvalidate(t *testing.T) {
	shared := newFaultyStore()
	cache, other, service := newCache(t, shared), newCache(t, shared), &issuer{name: "service"}
	first := mustToken(t, cache, "a", service)
	wantToken(t, other, "a", service, "service-1")

	cache.Invalidate(t.Context(), keyFor("a"), first)
	second := mustToken(t, cache, "a", service)
	if second.Value != "service-2" {
		t.Errorf("after Invalidate: %q, want a new token", second.Value)
	}

	// The second is newer than the rejected one: it stays in both layers.
	cache.Invalidate(t.Context(), keyFor("a"), first)
	wantToken(t, cache, "a", service, "service-2")
	other.Invalidate(t.Context(), keyFor("a"), first)
	wantToken(t, other, "a", service, "service-2")

	cache.Invalidate(t.Context(), keyFor("never seen"), first)
	service.wantIssued(t, 2)
}

func TestRejectedTokenDoesNotComeBack(t *testing.T) {
	shared := newFaultyStore()
	cache, service := newCache(t, shared, tokencache.WithSharedPause(0)), &issuer{name: "service"}
	first := mustToken(t, cache, "a", service)
	shared.failWith(func(_ context.Context, op operation) error {
		if op == remove {
			return errors.New("not now")
		}
		return nil
	})
	cache.Invalidate(t.Context(), keyFor("a"), first) // the shared store keeps it
	wantToken(t, cache, "a", service, "service-2")
}

func TestInvalidatingCallerDoesNotJoinTheFlightOfTheRejectedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newFaultyStore()
		cache, service := newCache(t, shared), &issuer{name: "service"}
		release := make(chan struct{})
		shared.failWith(func(_ context.Context, op operation) error {
			if op == set {
				<-release
			}
			return nil
		})
		landed := make(chan tokencache.Token)
		go func() { landed <- mustToken(t, cache, "a", service) }()
		synctest.Wait() // the flight still writes to the shared store

		first := mustToken(t, cache, "a", service)
		shared.failWith(nil)
		cache.Invalidate(t.Context(), keyFor("a"), first)
		wantToken(t, cache, "a", service, "service-2")
		close(release)
		<-landed
	})
}

func TestManyInvalidateOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, service := newCache(t, newFaultyStore()), &issuer{name: "service"}
		first := mustToken(t, cache, "a", service)
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond) // before, during and after the flight
				cache.Invalidate(t.Context(), keyFor("a"), first)
				token, err := cache.Token(t.Context(), keyFor("a"), func(ctx context.Context) (tokencache.Token, error) {
					time.Sleep(500 * time.Millisecond)
					return service.acquire(ctx)
				})
				if err != nil || token.Value != "service-2" {
					t.Errorf("Token = %q, %v", token.Value, err)
				}
			})
		}
		group.Wait()
		service.wantIssued(t, 2)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, service := newFaultyStore(), &issuer{name: "service"}
		cache := newCache(t, shared)
		mustToken(t, cache, "warm", service)

		ended := false
		failed := make(chan error)
		go func() {
			_, err := cache.Token(t.Context(), keyFor("a"), func(ctx context.Context) (tokencache.Token, error) {
				<-ctx.Done()
				time.Sleep(time.Second)
				ended = true
				return tokencache.Token{}, ctx.Err()
			})
			failed <- err
		}()
		synctest.Wait()
		go func() {
			if err := <-failed; !errors.Is(err, tokencache.ErrClosed) || errors.Is(err, context.Canceled) {
				t.Errorf("a flight that Close ends: %v, want ErrClosed", err)
			}
		}()
		cache.Close()
		if !ended {
			t.Error("Close returned before the flight had ended")
		}
		wantToken(t, cache, "warm", service, "service-1")
		if _, err := cache.Token(t.Context(), keyFor("b"), service.acquire); !errors.Is(err, tokencache.ErrClosed) {
			t.Errorf("Token after Close: %v, want ErrClosed", err)
		}
		cache.Invalidate(t.Context(), keyFor("warm"), newToken("service-1"))
		shared.wantCalls(t, 3) // "warm" read and written, "a" read
		cache.Close()
	})
}
