package notify_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weirhq/weir/internal/notify"
)

func TestSignal(t *testing.T) {
	s := notify.NewSignal()
	select {
	case <-s.C():
		t.Error("a new signal has a notification")
	default:
	}
	for range 3 {
		s.Notify()
	}
	<-s.C()
	select {
	case <-s.C():
		t.Error("three notifications wake more than once")
	default:
	}
	s.Notify()
	<-s.C()
}

func TestBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b notify.Broadcast
		b.Notify() // wakes nobody, then or later
		var waiting sync.WaitGroup
		woken := make([]bool, 5)
		for i := range woken {
			waiting.Go(func() {
				<-b.Wait()
				woken[i] = true
			})
		}
		synctest.Wait()
		for i, woken := range woken {
			if woken {
				t.Errorf("goroutine %d woke before any notification", i)
			}
		}
		b.Notify()
		waiting.Wait()
		select {
		case <-b.Wait():
			t.Error("a notification wakes a goroutine that waits after it")
		default:
		}
	})
}

// A goroutine that takes the channel under the lock of its state misses no
// change of the state.
func TestBroadcastIsNeverMissed(t *testing.T) {
	var (
		b     notify.Broadcast
		mu    sync.Mutex
		count int
		all   sync.WaitGroup
	)
	const last = 1000
	for range 4 {
		all.Go(func() {
			for {
				mu.Lock()
				now, changed := count, b.Wait()
				mu.Unlock()
				if now == last {
					return
				}
				<-changed
			}
		})
	}
	for range last {
		mu.Lock()
		count++
		b.Notify()
		mu.Unlock()
	}
	all.Wait()
}

func TestNotifyWithoutWaitersAllocatesNothing(t *testing.T) {
	var b notify.Broadcast
	s := notify.NewSignal()
	if n := testing.AllocsPerRun(100, func() {
		b.Notify()
		s.Notify()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
