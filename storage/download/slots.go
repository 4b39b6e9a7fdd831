package download

import (
	"context"
	"slices"
	"sync"
)

// reserve is which part of all places is kept for namespaces that download
// nothing: one in so many, none where there are fewer places.
const reserve = 16

// admission bounds the downloads that run at once, and lets those that wait in
// by turns between namespaces: one registry's cold storm neither delays another
// one's pull behind its whole queue nor, when its downloads stall, takes every
// place. Within a namespace it is first come, first served.
type admission struct {
	mu       sync.Mutex
	free     int
	reserved int
	running  map[string]int             // by namespace
	waiting  map[string][]chan struct{} // by namespace, in the order of arrival
	turns    []string                   // the namespaces that wait; the first is next
}

func newAdmission(places int) *admission {
	return &admission{
		free: places, reserved: places / reserve,
		running: make(map[string]int), waiting: make(map[string][]chan struct{}),
	}
}

// enter waits for a place, which the caller gives back with leave, or for the
// end of the context, whose cause it then returns.
func (a *admission) enter(ctx context.Context, namespace string) error {
	a.mu.Lock()
	// Whoever could be let in has been, so nobody is overtaken.
	if a.admits(namespace) {
		a.take(namespace)
		a.mu.Unlock()
		return nil
	}
	admitted := make(chan struct{})
	if a.waiting[namespace] == nil {
		a.turns = append(a.turns, namespace)
	}
	a.waiting[namespace] = append(a.waiting[namespace], admitted)
	a.mu.Unlock()
	select {
	case <-admitted:
		return nil
	case <-ctx.Done():
		a.giveUp(namespace, admitted)
		return context.Cause(ctx)
	}
}

// leave gives a place back.
func (a *admission) leave(namespace string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free++
	if a.running[namespace]--; a.running[namespace] == 0 {
		delete(a.running, namespace)
	}
	a.admit()
}

// admits reports whether there is a place for a namespace. The caller holds the
// mutex, as for all that follow.
func (a *admission) admits(namespace string) bool {
	return a.free > a.reserved || a.free > 0 && a.running[namespace] == 0
}

func (a *admission) take(namespace string) {
	a.free--
	a.running[namespace]++
}

// admit lets in whoever there is a place for, one of each namespace in turn.
func (a *admission) admit() {
	for {
		i := slices.IndexFunc(a.turns, a.admits)
		if i < 0 {
			return
		}
		namespace := a.turns[i]
		a.turns = slices.Delete(a.turns, i, i+1)
		a.take(namespace)
		close(a.waiting[namespace][0])
		a.dequeue(namespace, 0)
		if a.waiting[namespace] != nil {
			a.turns = append(a.turns, namespace)
		}
	}
}

// giveUp takes back what a caller waits for, and the place where it was admitted
// in the same moment.
func (a *admission) giveUp(namespace string, admitted chan struct{}) {
	a.mu.Lock()
	i := slices.Index(a.waiting[namespace], admitted)
	if i < 0 {
		a.mu.Unlock()
		a.leave(namespace)
		return
	}
	defer a.mu.Unlock()
	a.dequeue(namespace, i)
	if a.waiting[namespace] == nil {
		a.turns = slices.DeleteFunc(a.turns, func(n string) bool { return n == namespace })
	}
}

// dequeue removes one that waits.
func (a *admission) dequeue(namespace string, i int) {
	queue := slices.Delete(a.waiting[namespace], i, i+1)
	if len(queue) == 0 {
		delete(a.waiting, namespace)
		return
	}
	a.waiting[namespace] = queue
}
