package flight_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/flight"
)

var errSetback, errEnd = errors.New("a setback"), errors.New("the end")

// heeding are the terms of a caller that leaves with a setback.
var heeding = flight.Terms{Heed: func(err error) bool { return err == errSetback }}

// A caller that heeds a setback leaves with it, also if it comes later. Others wait for the
// end. The call goes on without callers, and is forgotten after some seconds.
func TestSetback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, int](scope)
		var runs, ended atomic.Int32
		call := func(ctx context.Context, setback func(error)) (int, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			setback(errSetback)
			setback(errors.New("another setback")) // the first one counts
			time.Sleep(5 * time.Second)
			if ctx.Err() == nil {
				ended.Add(1)
			}
			return 0, errEnd
		}
		expect := func(terms flight.Terms, after time.Duration, want error, led bool) {
			t.Helper()
			begin := time.Now()
			got, err := group.DoOn(t.Context(), "key", terms, call)
			if err != want || got.Led != led || time.Since(begin) != after {
				t.Errorf("got %v after %v, led: %v, want %v after %v, led: %v", err, time.Since(begin), got.Led, want, after, led)
			}
		}
		expect(heeding, time.Second, errSetback, true)
		expect(heeding, 0, errSetback, false)
		patient := make(chan struct{})
		go func() {
			defer close(patient)
			expect(flight.Terms{}, 5*time.Second, errEnd, false)
		}()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect(heeding, time.Second, errSetback, true) // a second call, beside the first
		<-patient
		time.Sleep(time.Minute)
		synctest.Wait()
		if runs.Load() != 2 || ended.Load() != 2 {
			t.Errorf("%d calls, %d of which ran to their end, want 2", runs.Load(), ended.Load())
		}
	})
}

// A call that hangs after its setback ends some seconds after its last caller has left.
func TestCallThatHangsAfterSetback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, int](scope)
		cause := make(chan error, 1)
		began := time.Now()
		_, err := group.DoOn(t.Context(), "key", heeding, func(ctx context.Context, setback func(error)) (int, error) {
			setback(errSetback)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return 0, nil
		})
		if got := <-cause; err != errSetback || got != flight.ErrUnwanted || time.Since(began) != 10*time.Second {
			t.Errorf("%v; the call ended with %v after %v", err, got, time.Since(began))
		}
	})
}

// A setback that no caller heeds changes nothing: a call without callers is cancelled.
func TestSetbackThatNoCallerHeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, int](scope)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		cause := make(chan error, 1)
		_, err := group.DoOn(ctx, "key", flight.Terms{Heed: func(error) bool { return false }}, func(ctx context.Context, setback func(error)) (int, error) {
			setback(errSetback)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return 0, nil
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := <-cause; err != flight.ErrUnwanted {
			t.Errorf("the call ended with %v", err)
		}
	})
}

// Join waits as DoOn does, and starts nothing.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, int](scope)
		never := func(error) bool { return false }
		if _, ok, err := group.Join(t.Context(), "key", never); ok || err != nil {
			t.Errorf("joined a call that is not there: %v, %v", ok, err)
		}
		go func() {
			_, _ = group.DoOn(t.Context(), "key", flight.Terms{}, func(_ context.Context, setback func(error)) (int, error) {
				time.Sleep(time.Second)
				setback(errSetback)
				time.Sleep(time.Second)
				return 7, errEnd
			})
		}()
		synctest.Wait()
		for _, c := range []struct {
			heed  func(error) bool
			value int
			err   error
			after time.Duration
		}{{heeding.Heed, 0, errSetback, time.Second}, {heeding.Heed, 0, errSetback, 0}, {never, 7, errEnd, time.Second}} {
			began := time.Now()
			r, ok, err := group.Join(t.Context(), "key", c.heed)
			if !ok || r.Led || r.Value != c.value || err != c.err || time.Since(began) != c.after {
				t.Errorf("got %+v, %v, %v after %v, want %d, %v after %v", r, ok, err, time.Since(began), c.value, c.err, c.after)
			}
		}
		if _, ok, _ := group.Join(t.Context(), "key", never); ok {
			t.Error("joined a call that has ended")
		}
	})
}

// A caller that joins keeps a call wanted, and allocates nothing.
func TestJoinIsACaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := flight.NewScope()
		defer scope.Close()
		group := flight.NewGroup[string, int](scope)
		cause := make(chan error, 1)
		_, err := group.DoOn(t.Context(), "key", heeding, func(ctx context.Context, setback func(error)) (int, error) {
			setback(errSetback)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return 0, nil
		})
		if err != errSetback {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := testing.AllocsPerRun(10, func() {
			if _, ok, err := group.Join(t.Context(), "key", func(err error) bool { return err == errSetback }); !ok || err != errSetback {
				t.Errorf("got %v, %v", ok, err)
			}
		}); n != 0 {
			t.Errorf("%v allocations, want none", n)
		}
		began := time.Now() // ten seconds after the last caller has left
		if err := <-cause; err != flight.ErrUnwanted || time.Since(began) != 10*time.Second {
			t.Errorf("the call ended with %v after %v", err, time.Since(began))
		}
	})
}
