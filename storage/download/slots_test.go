package download

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// queue is an slots whose visitors note when they are let in.
type queue struct {
	*slots
	mu      sync.Mutex
	entered []string
}

// visit lets a visitor of a namespace enter in the background; the returned
// function makes it give up, which does nothing once it is in.
func (q *queue) visit(ctx context.Context, namespace, name string) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		if q.acquire(ctx, namespace) == nil {
			q.mu.Lock()
			q.entered = append(q.entered, name)
			q.mu.Unlock()
		}
	}()
	synctest.Wait()
	return cancel
}

// expect checks who has been let in since the last call, in order.
func (q *queue) expect(t *testing.T, what, want string) {
	t.Helper()
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	if got := strings.Join(q.entered, " "); got != want {
		t.Errorf("%s: let in %q, want %q", what, got, want)
	}
	q.entered = nil
}

func TestAdmissionTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: newSlots(2)}
		for i := range 5 {
			q.visit(t.Context(), "a", fmt.Sprint("a", i))
		}
		q.expect(t, "the storm", "a0 a1")
		for _, namespace := range []string{"b", "c"} {
			for i := range 2 {
				q.visit(t.Context(), namespace, fmt.Sprint(namespace, i))
			}
		}
		q.expect(t, "all places are taken", "")
		for i, want := range []string{"a2", "b0", "c0", "a3", "b1", "c1", "a4"} {
			q.release("a")
			q.running["a"]++ // whose place it was is not what this is about
			q.expect(t, fmt.Sprint("place ", i), want)
		}
	})
}

func TestAdmissionForgetsWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: newSlots(1)}
		q.visit(t.Context(), "a", "first")
		leaveB := q.visit(t.Context(), "b", "b")
		leaveA := q.visit(t.Context(), "a", "second")
		q.visit(t.Context(), "a", "third")
		leaveA()
		leaveB()
		synctest.Wait()
		q.release("a")
		q.expect(t, "after two gave up", "first third")
		q.release("a")
		if q.free != 1 || len(q.waiting)+len(q.turns)+len(q.running) != 0 {
			t.Errorf("left behind: %+v", q.slots)
		}
	})
}

// Who is admitted and gives up in the same moment does not keep the place.
func TestAdmissionOfOneWhoGivesUp(t *testing.T) {
	a := newSlots(1)
	admitted := make(chan struct{})
	close(admitted)
	a.take("a") // for whom nobody waits any more
	a.giveUp("a", admitted)
	if a.free != 1 || len(a.running) != 0 {
		t.Errorf("left behind: %+v", a)
	}
}

func TestAdmissionTellsTheCause(t *testing.T) {
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	a := newSlots(0)
	if err := a.acquire(ctx, "a"); err != why {
		t.Errorf("got %v, want %v", err, why)
	}
}

// Downloads that stall for minutes leave room for the first ones of another
// namespace.
func TestAdmissionKeepsAReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: newSlots(2 * reservedShare)}
		for range 3 * reservedShare {
			q.visit(t.Context(), "a", "a")
		}
		q.expect(t, "a storm", strings.TrimSpace(strings.Repeat("a ", 2*reservedShare-2)))
		q.visit(t.Context(), "b", "b0")
		q.visit(t.Context(), "b", "b1")
		q.visit(t.Context(), "c", "c0")
		q.expect(t, "the reservedShare", "b0 c0")
		q.release("c")
		q.expect(t, "the last place stays free", "")
		q.release("b")
		q.expect(t, "for those that run nothing", "b1")
	})
}

// However callers come, leave and give up, the bound holds and nothing is lost.
func TestAdmissionUnderStress(t *testing.T) {
	const places = 3
	a := newSlots(places)
	var group sync.WaitGroup
	inside := make(chan struct{}, places)
	for i := range 16 {
		group.Go(func() {
			namespace := fmt.Sprint(i % 4)
			for n := range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				if n%3 == 0 {
					go cancel()
				}
				if a.acquire(ctx, namespace) == nil {
					select {
					case inside <- struct{}{}:
					default:
						t.Error("more are inside than there are places")
					}
					if rand.N(4) == 0 {
						cancel()
					}
					<-inside
					a.release(namespace)
				}
				cancel()
			}
		})
	}
	group.Wait()
	if a.free != places || len(a.waiting)+len(a.turns)+len(a.running) != 0 {
		t.Errorf("left behind: %+v", a)
	}
}
