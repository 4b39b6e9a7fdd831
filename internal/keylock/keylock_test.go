package keylock

import (
	"sync"
	"testing"
	"time"
)

func TestOneKeyOneHolder(t *testing.T) {
	var m Map[string]
	counts := map[string]*int{"a": new(int), "b": new(int)}
	var wg sync.WaitGroup
	for range 4 {
		for key, count := range counts {
			wg.Go(func() {
				for range 1000 {
					unlock := m.Lock(key)
					*count++
					unlock()
				}
			})
		}
	}
	wg.Wait()
	for key, count := range counts {
		if *count != 4000 {
			t.Errorf("key %s was counted %d times, want 4000", key, *count)
		}
	}
	if len(m.held) != 0 {
		t.Errorf("%d keys are still in memory", len(m.held))
	}
}

func TestOtherKeysAreNotHeldUp(t *testing.T) {
	var m Map[int]
	unlock := m.Lock(1)
	done := make(chan struct{})
	go func() {
		m.Lock(2)()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a key waits for another one")
	}
	unlock()
	<-done
}
