// Package notify tells goroutines that something has changed: [Signal] wakes the
// one goroutine that works on it, [Broadcast] wakes all that wait for it.
//
// Neither carries a value. A receiver looks at the state itself, under the lock
// of that state, and takes the channel of a Broadcast before it lets go of the
// lock, so that no change goes unnoticed:
//
//	mu.Lock()
//	done, changed := state.done, state.changed.Wait()
//	mu.Unlock()
//	if !done {
//		<-changed
//	}
package notify

import "sync"

// Signal wakes one goroutine. Notifications that come before the goroutine
// receives count as one.
type Signal struct{ c chan struct{} }

// NewSignal returns a Signal without a pending notification.
func NewSignal() Signal { return Signal{make(chan struct{}, 1)} }

// Notify wakes the receiver, or its next receive. It never blocks.
func (s Signal) Notify() {
	select {
	case s.c <- struct{}{}:
	default: // a notification is pending already
	}
}

// C returns the channel to receive from.
func (s Signal) C() <-chan struct{} { return s.c }

// Broadcast wakes all goroutines that wait. Its zero value is ready to use, and
// its methods may be called concurrently.
type Broadcast struct {
	mu sync.Mutex
	c  chan struct{} // nil when nothing waits, so that a Notify costs no allocation
}

// Wait returns a channel that the next Notify closes. A select can combine it
// with the end of a context.
func (b *Broadcast) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

// Notify closes the channel of all earlier calls of Wait.
func (b *Broadcast) Notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
