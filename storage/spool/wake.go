package spool

import (
	"context"
	"io"
	"slices"
	"time"
)

const (
	// wakeBatch is how many bytes a reader waits for, if it wants as many: a wake-up and
	// a system call of the reader cost about as much as the copy of that many bytes.
	wakeBatch = 256 << 10
	// maxDelay is how long a byte waits for further ones. A person does not notice it,
	// and a source that drips wakes its readers 20 times a second at most.
	maxDelay = 50 * time.Millisecond
)

// waiter is a goroutine that has all bytes before off and waits for more.
type waiter struct {
	off   int64
	until int64         // it is woken at once when the bytes before this one are there
	woken chan struct{} // has room for one
}

func newWaiter() waiter { return waiter{woken: make(chan struct{}, 1)} }

// Await blocks until a reader would get a byte or the end, and returns the
// spool's failure if it ends in one before, or the context's error.
func (s *Spool) Await(ctx context.Context) error {
	w := newWaiter()
	_, err := s.await(ctx, &w, 0, 1, false)
	if err == io.EOF { // it is empty
		return nil
	}
	return err
}

// await blocks until there are bytes at off, and returns how many of want there are, at
// least one. If they are given to a reader, they can never be taken back.
func (s *Spool) await(ctx context.Context, w *waiter, off, want int64, given bool) (int64, error) {
	for {
		s.mu.Lock()
		// Visible bytes come before the failure of a spool.
		if n := min(s.visible()-off, want); n > 0 {
			if given {
				s.read = max(s.read, off+n)
			}
			s.mu.Unlock()
			return n, nil
		}
		complete, err := s.complete, s.err
		if !complete && err == nil {
			w.off, w.until = off, off+min(want, wakeBatch)
			s.waiters = append(s.waiters, w)
		}
		s.mu.Unlock()
		if complete {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		select {
		case <-w.woken:
		case <-ctx.Done():
			s.dismiss(w)
			return 0, context.Cause(ctx)
		}
	}
}

// dismiss ends a wait that may have been woken meanwhile.
func (s *Spool) dismiss(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters = slices.DeleteFunc(s.waiters, func(other *waiter) bool { return other == w })
	select {
	case <-w.woken:
	default: // it was not
	}
}

// wakeReady wakes the waiters that have as many bytes as they can make use of, or the last
// ones that come before the content is verified. The others that have a byte wait for
// maxDelay. The caller holds the mutex, as for wakeAll and wakeIf.
func (s *Spool) wakeReady() {
	visible := s.visible()
	last := s.size >= 0 && visible >= s.size-TailHold
	s.wakeIf(func(w *waiter) bool { return visible >= w.until || last && visible > w.off })
	if s.timed || !slices.ContainsFunc(s.waiters, func(w *waiter) bool { return visible > w.off }) {
		return
	}
	s.timed = true
	if s.overdue == nil {
		s.overdue = time.AfterFunc(maxDelay, s.wakeOverdue)
	} else {
		s.overdue.Reset(maxDelay)
	}
}

// wakeOverdue wakes the waiters that have a byte.
func (s *Spool) wakeOverdue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timed = false
	visible := s.visible()
	s.wakeIf(func(w *waiter) bool { return visible > w.off })
}

// wakeAll wakes all waiters: the spool has ended, or its size has become known.
func (s *Spool) wakeAll() { s.wakeIf(func(*waiter) bool { return true }) }

func (s *Spool) wakeIf(ready func(*waiter) bool) {
	s.waiters = slices.DeleteFunc(s.waiters, func(w *waiter) bool {
		if !ready(w) {
			return false
		}
		w.woken <- struct{}{}
		return true
	})
}
