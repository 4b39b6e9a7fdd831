package flight_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/flight"
)

// key has two fields that run together when they are printed.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

func TestCallersOfOneKeyShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[key, int](scope)
		var calls, led atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				got, err := group.Do(t.Context(), key{"a", "b"}, func(context.Context) (int, error) {
					time.Sleep(time.Second)
					return int(calls.Add(1)), nil
				})
				if err != nil || got.Value != 1 {
					t.Errorf("got %d, %v", got.Value, err)
				}
				if got.Led {
					led.Add(1)
				}
			})
		}
		all.Wait()
		if calls.Load() != 1 || led.Load() != 1 {
			t.Errorf("%d calls, %d callers led", calls.Load(), led.Load())
		}
		if got, _ := group.Do(t.Context(), key{"a", "b"}, func(context.Context) (int, error) { return 7, nil }); got.Value != 7 {
			t.Errorf("a later caller got the earlier value %d", got.Value)
		}
	})
}

func TestKeysThatPrintAlikeAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[key, string](scope)
		var all sync.WaitGroup
		for _, k := range []key{{"a/b", "c"}, {"a", "b/c"}} {
			all.Go(func() {
				got, err := group.Do(t.Context(), k, func(context.Context) (string, error) {
					time.Sleep(time.Second)
					return k.namespace, nil
				})
				if err != nil || got.Value != k.namespace {
					t.Errorf("%q got %q, %v", k.namespace, got.Value, err)
				}
			})
		}
		all.Wait()
	})
}

func TestCallOutlivesItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, any](scope)
		type name struct{}
		gone := errors.New("the client has left")
		leader, leave := context.WithCancelCause(context.WithValue(t.Context(), name{}, "leader"))
		time.AfterFunc(time.Second, func() { leave(gone) })
		call := func(ctx context.Context) (any, error) {
			time.Sleep(2 * time.Second)
			return ctx.Value(name{}), ctx.Err()
		}
		var all sync.WaitGroup
		all.Go(func() {
			if got, err := group.Do(leader, "key", call); !errors.Is(err, gone) || !got.Led {
				t.Errorf("the caller that left got %+v, %v", got, err)
			}
		})
		synctest.Wait()
		got, err := group.Do(t.Context(), "key", call)
		if err != nil || got.Led || got.Value != "leader" || got.Leader.Value(name{}) != "leader" {
			t.Errorf("the caller that joined got %+v, %v", got, err)
		}
		all.Wait()
	})
}

func TestForgottenCallIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, string](scope)
		after := func(d time.Duration, value string) func(context.Context) (string, error) {
			return func(context.Context) (string, error) {
				time.Sleep(d)
				return value, nil
			}
		}
		var all sync.WaitGroup
		ask := func(f func(context.Context) (string, error), want string) {
			all.Go(func() {
				if got, err := group.Do(t.Context(), "key", f); err != nil || got.Value != want {
					t.Errorf("got %q, %v; want %q", got.Value, err, want)
				}
			})
			synctest.Wait()
		}
		ask(after(time.Second, "old"), "old")
		group.Forget("key")
		ask(after(3*time.Second, "new"), "new")
		time.Sleep(2 * time.Second) // the forgotten call ends, and leaves the key to the new one
		ask(after(time.Second, "third"), "new")
		all.Wait()
	})
}

func TestPanicIsTheCallersError(t *testing.T) {
	scope := flight.NewScope()
	defer scope.Close()
	group := flight.NewGroup[string, int](scope)
	_, err := group.Do(t.Context(), "key", func(context.Context) (int, error) { panic("broken") })
	failed, ok := errors.AsType[*flight.PanicError](err)
	if !ok || failed.Value != "broken" || !strings.Contains(string(failed.Stack), "flight_test.go") {
		t.Errorf("got %v", err)
	}
	_, err = group.Do(t.Context(), "key", func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
	if failed, ok = errors.AsType[*flight.PanicError](err); !ok || failed.Value != nil {
		t.Errorf("got %v", err)
	}
}

func TestDrainWaitsAndRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		group := flight.NewGroup[string, int](scope)
		var ended atomic.Bool
		go group.Do(t.Context(), "key", func(context.Context) (int, error) {
			time.Sleep(10 * time.Second)
			ended.Store(true)
			return 0, nil
		})
		synctest.Wait()

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := scope.Drain(short); !errors.Is(err, context.DeadlineExceeded) || ended.Load() {
			t.Errorf("drained within a second: %v", err)
		}
		if _, err := group.Do(t.Context(), "other", func(context.Context) (int, error) { return 0, nil }); !errors.Is(err, flight.ErrClosed) {
			t.Errorf("a new call began while the scope drains: %v", err)
		}
		if err := scope.Drain(t.Context()); err != nil || !ended.Load() {
			t.Errorf("drained before the call had ended: %v", err)
		}
		scope.Close()
		scope.Close()
	})
}

func TestCloseCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		group := flight.NewGroup[string, int](scope)
		var cause error
		go group.Do(t.Context(), "key", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // puts things in order
			cause = context.Cause(ctx)
			return 0, cause
		})
		synctest.Wait()
		scope.Close()
		if !errors.Is(cause, flight.ErrClosed) {
			t.Errorf("the call had not ended, or not been cancelled: %v", cause)
		}
	})
}

// A call without callers goes on for the time in which a client asks again, and no longer.
func TestCallWithoutCallersIsCancelled(t *testing.T) {
	for name, tc := range map[string]struct {
		returns   time.Duration // of a second caller, after the first one has left; 0: none comes
		calls     int32
		cancelled int32
	}{
		"no caller comes":            {0, 1, 1},
		"a caller comes soon":        {time.Second, 1, 0},
		"a caller comes much later":  {5 * time.Second, 2, 1},
		"a caller comes at the last": {1999 * time.Millisecond, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scope := flight.NewScope()
				defer scope.Close()
				group := flight.NewGroup[string, int32](scope)
				var calls, cancelled atomic.Int32
				call := func(ctx context.Context) (int32, error) {
					calls.Add(1)
					select {
					case <-time.After(30 * time.Second):
						return calls.Load(), nil
					case <-ctx.Done():
						if errors.Is(context.Cause(ctx), flight.ErrUnwanted) {
							cancelled.Add(1)
						}
						return 0, context.Cause(ctx)
					}
				}
				for range 3 { // callers of one call, who leave one after the other
					ctx, leave := context.WithTimeout(t.Context(), time.Second)
					defer leave()
					go group.Do(ctx, "key", call)
					synctest.Wait()
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if tc.returns > 0 {
					time.Sleep(tc.returns)
					if got, err := group.Do(t.Context(), "key", call); err != nil || got.Value != tc.calls {
						t.Errorf("the second caller got %d, %v", got.Value, err)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if calls.Load() != tc.calls || cancelled.Load() != tc.cancelled {
					t.Errorf("%d calls, %d cancelled; want %d and %d", calls.Load(), cancelled.Load(), tc.calls, tc.cancelled)
				}
			})
		})
	}
}

// A call that waits to be admitted ends with its last caller, and does not run. A caller
// that comes later has a call of its own.
func TestCallThatWaitsEndsWithItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, int32](scope)
		var runs, released, refused atomic.Int32
		turn := make(chan struct{})
		admit := func(ctx context.Context) (func(), error) {
			select {
			case <-turn:
				return func() { released.Add(1) }, nil
			case <-ctx.Done():
				refused.Add(1)
				return nil, context.Cause(ctx)
			}
		}
		run := func(context.Context) (int32, error) { return runs.Add(1), nil }
		leaves := make([]context.CancelFunc, 3)
		for i := range leaves { // callers of one call
			ctx, leave := context.WithCancel(t.Context())
			leaves[i] = leave
			go group.DoAdmitted(ctx, "key", admit, run)
			synctest.Wait()
		}
		for i, leave := range leaves {
			if got := refused.Load(); got != 0 {
				t.Errorf("after %d callers have left, %d calls have ended", i, got)
			}
			leave()
			synctest.Wait()
		}
		if got := refused.Load(); got != 1 {
			t.Errorf("%d calls have ended, want 1", got)
		}
		go func() { turn <- struct{}{} }()
		if got, err := group.DoAdmitted(t.Context(), "key", admit, run); err != nil || got.Value != 1 || !got.Led {
			t.Errorf("a later caller got %+v, %v", got, err)
		}
		synctest.Wait()
		if runs.Load() != 1 || released.Load() != 1 {
			t.Errorf("%d runs, %d releases", runs.Load(), released.Load())
		}
		failure := errors.New("no turn")
		_, err := group.DoAdmitted(t.Context(), "key", func(context.Context) (func(), error) { return nil, failure }, run)
		if err != failure || runs.Load() != 1 {
			t.Errorf("got %v after %d runs", err, runs.Load())
		}
	})
}
