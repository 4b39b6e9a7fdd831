package download

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queue is an slots whose visitors note when they are let in.
type queue struct {
	*slots
	mu      sync.Mutex
	entered []string
	leases  map[string][]*lease
}

// leave releases the longest lease of a namespace.
func (q *queue) leave(namespace string) {
	q.mu.Lock()
	l := q.leases[namespace][0]
	q.leases[namespace] = q.leases[namespace][1:]
	q.mu.Unlock()
	l.release()
}

// visit lets a visitor of a namespace enter in the background; the returned
// function makes it give up, which does nothing once it is in.
func (q *queue) visit(ctx context.Context, namespace, name string) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		if l, err := q.acquire(ctx, namespace); err == nil {
			q.mu.Lock()
			if q.leases == nil {
				q.leases = make(map[string][]*lease)
			}
			q.leases[namespace] = append(q.leases[namespace], l)
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
		// While others wait, a namespace has its share only: one of two slots.
		for i, step := range [][2]string{
			{"a", "b0"}, {"a", "a2"}, {"b", "c0"}, {"a", "b1"}, {"c", "a3"}, {"b", "c1"}, {"a", "a4"},
		} {
			q.leave(step[0])
			q.expect(t, fmt.Sprint("slot ", i), step[1])
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
		q.leave("a")
		q.expect(t, "after two gave up", "first third")
		q.leave("a")
		if q.free != 1 || len(q.waiting)+len(q.turns)+len(q.running) != 0 {
			t.Errorf("left behind: %+v", q.slots)
		}
	})
}

// Who is admitted and gives up in the same moment does not keep the place.
func TestAdmissionOfOneWhoGivesUp(t *testing.T) {
	a := newSlots(1)
	admitted := make(chan *lease, 1)
	admitted <- a.take("a") // which its caller does not take any more
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
	if _, err := a.acquire(ctx, "a"); err != why {
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
		q.leave("c")
		q.expect(t, "the last place stays free", "")
		q.leave("b")
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
				if l, err := a.acquire(ctx, namespace); err == nil {
					select {
					case inside <- struct{}{}:
					default:
						t.Error("more are inside than there are places")
					}
					if rand.N(4) == 0 {
						cancel()
					}
					<-inside
					l.release()
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

// However slow the downloads of some namespaces are, another one gets its share of
// the slots, and the others keep theirs.
func TestSlowNamespacesYield(t *testing.T) {
	for name, c := range map[string]struct {
		size    int
		slow    []string // namespaces that take all that they can
		speed   int64    // of their downloads, in bytes per second
		age     time.Duration
		others  int // downloads of another namespace
		within  time.Duration
		granted int // of the other namespace's
	}{
		"one of 64":             {size: 64, slow: []string{"a"}, age: time.Minute, others: 40, granted: 30},
		"two of 64":             {size: 64, slow: []string{"a", "b"}, age: time.Minute, others: 40, granted: 20},
		"seven of 64":           {size: 64, slow: []string{"a", "b", "c", "d", "e", "f", "g"}, age: time.Minute, others: 3, granted: 3},
		"few are wanted":        {size: 64, slow: []string{"a"}, age: time.Minute, others: 3, granted: 3},
		"one of two":            {size: 2, slow: []string{"a"}, age: time.Minute, others: 2, granted: 1},
		"just begun":            {size: 8, slow: []string{"a"}, others: 4, within: shortestLease + yieldPoll, granted: 4},
		"dripping":              {size: 8, slow: []string{"a"}, speed: 2000, age: time.Minute, others: 4, granted: 4},
		"healthy, but for long": {size: 8, slow: []string{"a"}, speed: 1 << 20, age: time.Minute, others: 4, granted: 4},
		"healthy, just begun":   {size: 8, slow: []string{"a"}, speed: 1 << 20, age: 2 * time.Second, others: 4, within: healthyLease, granted: 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSlots(c.size)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				running := make(map[string]*atomic.Int64)
				var work func(namespace string, speed int64)
				work = func(namespace string, speed int64) {
					l, err := s.acquire(ctx, namespace)
					if err != nil {
						return
					}
					l.bind(ctx)
					running[namespace].Add(1)
					for context.Cause(l.ctx) == nil {
						l.bytes.Add(speed / 10)
						select {
						case <-time.After(time.Second / 10):
						case <-l.ctx.Done():
						}
					}
					running[namespace].Add(-1)
					l.release()
					if l.yielded() {
						work(namespace, speed)
					}
				}
				for _, namespace := range append(c.slow, "other") {
					running[namespace] = new(atomic.Int64)
				}
				for _, namespace := range c.slow {
					for range c.size {
						go work(namespace, c.speed)
					}
				}
				time.Sleep(c.age)
				for range c.others {
					go work("other", 1<<30)
				}
				time.Sleep(c.within + time.Millisecond)
				synctest.Wait()
				if got := running["other"].Load(); got != int64(c.granted) {
					t.Errorf("%d downloads of the other namespace run, want %d", got, c.granted)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := running["other"].Load(); got < int64(c.granted) {
					t.Errorf("a minute later, %d downloads of the other namespace run", got)
				}
				for _, namespace := range c.slow {
					if got, least := running[namespace].Load(), int64(c.size/(len(c.slow)+1)/2); got < least {
						t.Errorf("%d downloads of %s run, want at least %d", got, namespace, least)
					}
				}
			})
		})
	}
}

// If there are more namespaces than slots, or no slot is left although none has more than its
// share, another namespace has a slot soon, again and again, and keeps it for its turn.
func TestNamespacesTakeTurns(t *testing.T) {
	for name, c := range map[string]struct {
		size, slow int // slots, and namespaces that take all that they can, at no speed
	}{
		"two of two":   {2, 2},
		"two of four":  {4, 2},
		"four of four": {4, 4},
		"nine of four": {4, 9},
		"one of one":   {1, 1},
		"three of one": {1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSlots(c.size)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for i := range c.slow {
					for range c.size {
						go func() {
							for ctx.Err() == nil {
								l, err := s.acquire(ctx, fmt.Sprint("slow", i))
								if err != nil {
									return
								}
								<-l.bind(ctx).ctx.Done()
								l.release()
							}
						}()
					}
				}
				time.Sleep(time.Minute)
				rounds := time.Duration((c.slow + c.size) / c.size)
				for range 5 {
					asked := time.Now()
					patient, leave := context.WithTimeout(ctx, 5*time.Minute)
					l, err := s.acquire(patient, "other")
					leave()
					if err != nil {
						t.Fatal("no slot in five minutes")
					}
					if waited := time.Since(asked); waited > rounds*(healthyLease+yieldPoll) {
						t.Errorf("a slot after %s", waited)
					}
					l.bind(ctx)
					got := time.Now()
					select {
					case <-l.ctx.Done():
					case <-time.After(2 * healthyLease):
					}
					if turn := time.Since(got); turn < healthyLease {
						t.Errorf("it had the slot for %s", turn)
					}
					l.release()
				}
			})
		})
	}
}
