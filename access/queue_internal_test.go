package access

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
)

// logins are the logins of a test in one queue, within a bubble of synctest.
type logins struct {
	queue
	mu   sync.Mutex
	runs []string // addresses of those that have a slot or had one, in their order
	busy map[string]int
	left int
}

func newLogins(slots int) *logins {
	l := &logins{queue: newQueue(), busy: map[string]int{}}
	l.free = slots
	return l
}

// enter has a client log in, and waits until it runs, waits or is refused.
func (l *logins) enter(ctx context.Context, address string) {
	go func() {
		_, err := l.queue.enter(ctx, netip.MustParseAddr(address))
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, busy := errors.AsType[*BusyError](err); busy {
			l.busy[address]++
		} else if err != nil {
			l.left++
		} else {
			l.runs = append(l.runs, address)
		}
	}()
	synctest.Wait()
}

// next ends a verification, and returns the address of the login that runs then.
func (l *logins) next() string {
	before := len(l.runs)
	l.leave()
	synctest.Wait()
	if len(l.runs) == before {
		return ""
	}
	return l.runs[before]
}

// A bounded number of logins waits, and a smaller one of each network. Each gets its turn,
// and a client that leaves gives its place back.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogins(2)
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		for range 2 + maxOfNetwork + 5 {
			l.enter(ctx, "2001:db8::1")
		}
		if len(l.runs) != 2 || l.busy["2001:db8::1"] != 5 {
			t.Fatalf("%d run, %d were refused", len(l.runs), l.busy["2001:db8::1"])
		}
		for _, ofTheSite := range []string{"2001:db8::ffff", "2001:db8:0:ffff::1"} {
			if l.enter(ctx, ofTheSite); l.busy[ofTheSite] != 1 {
				t.Errorf("%s of the same network has a place", ofTheSite)
			}
		}
		if l.enter(t.Context(), "192.0.2.1"); l.busy["192.0.2.1"] != 0 {
			t.Error("another network has no place")
		}
		leave()
		synctest.Wait()
		if l.left != maxOfNetwork || l.waiting != 1 || len(l.lines) != 1 || len(l.turns) != 1 {
			t.Errorf("%d have left, %d places are taken by %v", l.left, l.waiting, l.lines)
		}
		if got := l.next(); got != "192.0.2.1" || l.waiting != 0 || len(l.lines)+len(l.turns) != 0 || l.free != 0 {
			t.Errorf("%q had its turn, %d places are taken, %d slots are free", got, l.waiting, l.free)
		}
		for range 2 {
			l.next()
		}
		if l.free != 2 {
			t.Errorf("%d slots are free, want 2", l.free)
		}
	})
}

// Guessers of many networks fill the queue. A client of another one gets a place all the
// same, and waits for one login of each.
func TestQueueIsFair(t *testing.T) {
	for name, addressOf := range map[string]func(n int) string{
		"some addresses":     func(n int) string { return fmt.Sprintf("198.51.100.%d", n%20) },
		"one site of IPv6":   func(n int) string { return fmt.Sprintf("2001:db8:1:%x::1", n) },
		"one address, first": func(n int) string { return fmt.Sprintf("198.51.100.%d", max(n/40, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				l := newLogins(1)
				for n := range 800 {
					l.enter(ctx, addressOf(n))
				}
				const honest = "192.0.2.7"
				if l.enter(ctx, honest); l.busy[honest] != 0 {
					t.Fatal("an honest client is refused")
				}
				if l.waiting > maxWaiting {
					t.Errorf("%d wait", l.waiting)
				}
				networks, turns := len(l.lines), 1
				for ; l.next() != honest && turns < 2*maxWaiting; turns++ {
				}
				if turns > networks {
					t.Errorf("an honest client waits for %d logins of %d networks", turns, networks)
				}
			})
		})
	}
}

// A client that leaves in the moment in which its turn comes loses no slot.
func TestQueueKeepsItsSlots(t *testing.T) {
	q := newQueue()
	q.free = 2
	var all sync.WaitGroup
	for n := range 400 {
		all.Go(func() {
			ctx, leave := context.WithCancel(t.Context())
			go leave()
			if free, err := q.enter(ctx, netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})); err == nil {
				free()
			}
		})
	}
	all.Wait()
	if q.free != 2 || q.waiting != 0 || len(q.lines)+len(q.turns) != 0 {
		t.Errorf("%d slots are free, %d wait in %d lines", q.free, q.waiting, len(q.lines))
	}
}

// An unknown user costs the same after a reload, and after most changes of accounts: a name
// whose cost changes while that of its account does not would be known to be unknown.
func TestStandInsStay(t *testing.T) {
	hash := func(text string) *Hash {
		h, err := ParseHash(text)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	costs := []string{
		"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO",
		"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI",
		"$argon2id$v=19$m=128,t=1,p=1$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI",
	}
	var list []Account
	for n := range 30 {
		list = append(list, Account{User: fmt.Sprint("user", n), Hash: hash(costs[n%3])})
	}
	before := newAccounts(list)
	// The new one does not have the least digest, as most new ones have not.
	added := newAccounts(append(list[:len(list):len(list)], Account{User: "new", Hash: hash(costs[1])}))
	perCost, same, kept := map[string]int{}, 0, 0
	const names = 3000
	again := newAccounts(list)
	for n := range names {
		name := fmt.Sprint("nobody", n)
		cost := before.standIn(name).Hash.cost()
		perCost[cost]++
		if again.standIn(name).Hash.cost() == cost {
			same++
		}
		if added.standIn(name).Hash.cost() == cost {
			kept++
		}
	}
	if same != names || kept < names*9/10 {
		t.Errorf("%d of %d names have the same cost after a reload, %d with a further account", same, names, kept)
	}
	if len(perCost) != 3 {
		t.Errorf("names are spread over %v", perCost)
	}
	if newAccounts(nil).all != nil { // no stand-in is asked for
		t.Error("accounts from nowhere")
	}
}
