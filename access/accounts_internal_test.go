package access

import (
	"fmt"
	"testing"
)

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
