package access

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted is a hash of the password "secret" that counts its verifications, and runs while in
// each of them.
type counted struct {
	mu            sync.Mutex
	verifications int
	while         func()
}

// account returns the account of a user with the hash. The text of it is that of Argon2.
func (c *counted) account(t *testing.T, user string) Account {
	t.Helper()
	hash, err := ParseHash("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI")
	if err != nil {
		t.Fatal(err)
	}
	right := strings.Repeat("1", len(hash.argon2.sum))
	hash.argon2.sum = []byte(right)
	hash.argon2.derive = func(password, _ []byte, _, _ uint32, _ uint8, _ uint32) []byte {
		c.mu.Lock()
		c.verifications++
		c.mu.Unlock()
		if c.while != nil {
			c.while()
		}
		if string(password) == "secret" {
			return []byte(right)
		}
		return []byte(strings.Repeat("0", len(right)))
	}
	return Account{User: user, Hash: hash}
}

// presented returns a request with a password, from an address.
func presented(user, password, address string) Presented {
	r := &http.Request{Header: http.Header{}, RemoteAddr: address + ":1"}
	r.SetBasicAuth(user, password)
	return Presented{Authorization: r.Header["Authorization"], Request: r}
}

// A verdict on a password, right or wrong, holds for a minute, and for the rules that it was made
// by alone: a reload clears it, and tells the same password apart by another key.
func TestVerdictsOnPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hash := &counted{}
		load := func() *Rules {
			rules, err := New(Options{Accounts: []Account{hash.account(t, "alice")}})
			if err != nil {
				t.Fatal(err)
			}
			return rules
		}
		rules := load()
		expect := func(step, user, password string, right bool, verifications int) {
			t.Helper()
			before := hash.verifications
			for range 3 {
				if _, err := rules.Identify(t.Context(), presented(user, password, "192.0.2.1")); (err == nil) != right {
					t.Errorf("%s: %v", step, err)
				}
			}
			if n := hash.verifications - before; n != verifications {
				t.Errorf("%s: %d verifications, want %d", step, n, verifications)
			}
		}
		expect("the first login", "alice", "secret", true, 1)
		expect("a guess", "alice", "guess", false, 1)
		expect("an unknown user", "mallory", "secret", false, 1)
		expect("after a guess", "alice", "secret", true, 0)
		time.Sleep(time.Minute - time.Nanosecond)
		expect("for a minute", "alice", "secret", true, 0)
		expect("for a minute, wrong", "alice", "guess", false, 0)
		time.Sleep(time.Nanosecond)
		expect("after a minute", "alice", "secret", true, 1)
		expect("after a minute, wrong", "alice", "guess", false, 1)
		expect("after a minute, unknown", "mallory", "secret", false, 1)
		last := rules
		rules = load()
		expect("after a reload", "alice", "secret", true, 1)
		expect("after a reload, wrong", "alice", "guess", false, 1)
		if rules.accounts.mac("alice", "secret") == last.accounts.mac("alice", "secret") {
			t.Error("two loads remember a password by the same key")
		}
	})
}

// As many passwords are verified at once as there are processors.
func TestVerificationsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, most, release := 0, 0, make(chan struct{})
		hash := &counted{}
		hash.while = func() {
			hash.mu.Lock()
			running++
			most = max(most, running)
			hash.mu.Unlock()
			<-release
			hash.mu.Lock()
			running--
			hash.mu.Unlock()
		}
		rules, err := New(Options{Accounts: []Account{hash.account(t, "alice")}})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for n := range 100 {
			all.Go(func() {
				_, _ = rules.Identify(t.Context(), presented("alice", fmt.Sprint("guess ", n), fmt.Sprintf("10.%d.0.1", n)))
			})
		}
		synctest.Wait()
		if running != runtime.GOMAXPROCS(0) {
			t.Errorf("%d verifications run, want %d", running, runtime.GOMAXPROCS(0))
		}
		close(release)
		all.Wait()
		if most != runtime.GOMAXPROCS(0) || hash.verifications != 100 {
			t.Errorf("%d of %d verifications at once", most, hash.verifications)
		}
	})
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
