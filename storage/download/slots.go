package download

import (
	"context"
	"slices"
	"sync"
)

// reservedShare is the part of all slots that only namespaces without a running
// download get: one slot in 16, and none if there are fewer. It is small because
// an idle reserve slows everything else down.
const reservedShare = 16

// slots bounds the downloads that run at once. Waiting downloads get slots by
// turns between namespaces: a burst of one registry's cold pulls neither delays
// another registry's pull behind its whole queue nor, when its downloads stall,
// takes every slot. Within a namespace the order is that of arrival.
type slots struct {
	mu       sync.Mutex
	free     int
	reserved int
	running  map[string]int             // by namespace
	waiting  map[string][]chan struct{} // by namespace, in the order of arrival
	turns    []string                   // the namespaces that wait; the first is next
}

func newSlots(n int) *slots {
	return &slots{
		free: n, reserved: n / reservedShare,
		running: make(map[string]int), waiting: make(map[string][]chan struct{}),
	}
}

// acquire waits for a slot, which the caller gives back with release. If the
// context ends first, acquire returns its cause.
func (s *slots) acquire(ctx context.Context, namespace string) error {
	s.mu.Lock()
	// Waiting downloads are admitted as soon as a slot is free. A slot that is
	// free here is one that none of them may have.
	if s.admits(namespace) {
		s.take(namespace)
		s.mu.Unlock()
		return nil
	}
	admitted := make(chan struct{})
	if s.waiting[namespace] == nil { // the first of its namespace waits for a turn
		s.turns = append(s.turns, namespace)
	}
	s.waiting[namespace] = append(s.waiting[namespace], admitted)
	s.mu.Unlock()
	select {
	case <-admitted:
		return nil
	case <-ctx.Done():
		s.giveUp(namespace, admitted)
		return context.Cause(ctx)
	}
}

// release gives a slot back.
func (s *slots) release(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if s.running[namespace]--; s.running[namespace] == 0 {
		delete(s.running, namespace)
	}
	s.admit()
}

// contended reports whether a caller waits for a slot.
func (s *slots) contended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.turns) > 0
}

// admits reports whether a namespace may take a slot. The caller holds the mutex,
// as for all methods below but giveUp.
func (s *slots) admits(namespace string) bool {
	return s.free > s.reserved || s.free > 0 && s.running[namespace] == 0
}

func (s *slots) take(namespace string) {
	s.free--
	s.running[namespace]++
}

// admit gives free slots to waiting downloads, round-robin over namespaces.
func (s *slots) admit() {
	for {
		i := slices.IndexFunc(s.turns, s.admits)
		if i < 0 {
			return
		}
		namespace := s.turns[i]
		s.turns = slices.Delete(s.turns, i, i+1)
		s.take(namespace)
		close(s.waiting[namespace][0])
		s.dequeue(namespace, 0)
		if s.waiting[namespace] != nil { // its next turn is after all others
			s.turns = append(s.turns, namespace)
		}
	}
}

// giveUp ends the wait of a caller whose context has ended.
func (s *slots) giveUp(namespace string, admitted chan struct{}) {
	s.mu.Lock()
	i := slices.Index(s.waiting[namespace], admitted)
	if i < 0 {
		// It was admitted in the same moment, and has a slot to give back.
		s.mu.Unlock()
		s.release(namespace)
		return
	}
	defer s.mu.Unlock()
	s.dequeue(namespace, i)
	if s.waiting[namespace] == nil {
		s.turns = slices.DeleteFunc(s.turns, func(n string) bool { return n == namespace })
	}
}

// dequeue removes a waiting download from its namespace's queue.
func (s *slots) dequeue(namespace string, i int) {
	queue := slices.Delete(s.waiting[namespace], i, i+1)
	if len(queue) == 0 {
		delete(s.waiting, namespace)
		return
	}
	s.waiting[namespace] = queue
}
