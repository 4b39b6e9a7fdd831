package registry

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A client that guesses takes all places of a registry and all that wait for them. A login of
// another network comes next, one of another registry at once, and none waits for ever.
func TestExchangesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExchanges()
		guesser, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		guesses, leaveAll := context.WithCancel(t.Context())
		type entered struct {
			leave func()
			err   error
		}
		enter := func(ctx context.Context, registry string, from netip.Addr) chan entered {
			result := make(chan entered, 1)
			go func() {
				leave, err := e.enter(ctx, registry, from)
				result <- entered{leave, err}
			}()
			synctest.Wait()
			return result
		}
		var running []func()
		for range maxExchanges {
			running = append(running, (<-enter(guesses, "one", guesser)).leave)
		}
		var waiting []chan entered
		for range maxWaitingOfNetwork {
			waiting = append(waiting, enter(guesses, "one", guesser))
		}
		if got := <-enter(guesses, "one", guesser); !errors.Is(got.err, errManyLogins) {
			t.Errorf("one more of the same network: %v", got.err)
		}
		(<-enter(t.Context(), "two", other)).leave()
		login := enter(t.Context(), "one", other)
		// The line of the guesser began first, so the second place is the login's.
		running[0]()
		running[1]()
		synctest.Wait()
		select {
		case got := <-login:
			if got.err != nil {
				t.Fatalf("a login of another network: %v", got.err)
			}
			got.leave()
		default:
			t.Fatal("a login of another network waits for more than one guess")
		}
		synctest.Wait()
		late := enter(t.Context(), "one", other)
		time.Sleep(maxExchangeWait)
		if got := <-late; !errors.Is(got.err, errManyLogins) {
			t.Errorf("after %s: %v", maxExchangeWait, got.err)
		}
		leaveAll()
		for _, leave := range running[2:] {
			leave()
		}
		for _, result := range waiting {
			if got := <-result; got.err == nil {
				got.leave()
			}
		}
		if len(e.queues) != 0 {
			t.Errorf("queues of %d registries are kept", len(e.queues))
		}
	})
}
