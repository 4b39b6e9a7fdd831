package access

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
)

// A bounded number of logins waits, and a smaller one of each network, so that a guesser
// does not keep others out. Each gets its turn, and a client that leaves gives its place
// back.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue{slots: make(chan struct{}, 2), waiting: map[netip.Prefix]int{}}
		at := func(address string) netip.Addr { return netip.MustParseAddr(address) }
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		var mu sync.Mutex // several leave at once
		var running []func()
		refused, left := 0, 0
		enter := func(ctx context.Context, address string) {
			go func() {
				release, err := q.enter(ctx, at(address))
				mu.Lock()
				defer mu.Unlock()
				if _, busy := errors.AsType[*BusyError](err); busy {
					refused++
				} else if err != nil {
					left++
				} else {
					running = append(running, release)
				}
			}()
			synctest.Wait()
		}
		for range 2 + maxOfAddress + 5 {
			enter(ctx, "2001:db8::1")
		}
		if len(running) != 2 || refused != 5 {
			t.Fatalf("%d run, %d were refused", len(running), refused)
		}
		enter(ctx, "2001:db8::ffff") // of the same site
		if refused != 6 {
			t.Error("another address of the same network has a place")
		}
		enter(t.Context(), "192.0.2.1")
		if refused != 6 {
			t.Error("another network has no place")
		}
		leave()
		synctest.Wait()
		if left != maxOfAddress || q.total != 1 || len(q.waiting) != 1 {
			t.Errorf("%d have left, %d places are taken by %v", left, q.total, q.waiting)
		}
		running[0]()
		synctest.Wait()
		if len(running) != 3 || q.total != 0 {
			t.Errorf("%d had their turn, %d places are taken", len(running), q.total)
		}
	})
}
