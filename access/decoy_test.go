package access_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
)

// One guess has one decoy of the same lengths, at all instances with the same secret. Neither
// the name nor the password of a guess is in it, and the names of two guesses at one account
// are one.
func TestDecoys(t *testing.T) {
	grants, same, other := newGrants(t, strings.Repeat("a", 32)), newGrants(t, strings.Repeat("a", 32)), newGrants(t, strings.Repeat("b", 32))
	for _, guess := range []access.Credentials{
		{User: "alice", Password: "guess"}, {User: "alice", Password: ""}, {User: "a", Password: "b"}, {User: "0", Password: "1"}, {User: "a", Password: "a"},
		{User: strings.Repeat("alice", 51), Password: strings.Repeat("guess", 4000)}, {User: "älice", Password: "\xff\x00"}, {User: "alice", Password: "alice"},
	} {
		decoy := grants.Decoy(guess)
		if len(decoy.User) != len(guess.User) || len(decoy.Password) != len(guess.Password) {
			t.Errorf("%.20v: %.20v", guess, decoy)
		}
		if decoy.User == guess.User || decoy.Password == guess.Password && guess.Password != "" {
			t.Errorf("%.20v: the decoy is the guess", guess)
		}
		if !access.ValidUser(decoy.User) || !access.ValidPassword(decoy.Password) {
			t.Errorf("%.20v: no client can send %.20v", guess, decoy)
		}
		if again, there := grants.Decoy(guess), same.Decoy(guess); again != decoy || there != decoy {
			t.Errorf("%.20v: %.20v, and again %.20v, there %.20v", guess, decoy, again, there)
		}
		if len(guess.User) > 4 && other.Decoy(guess).User == decoy.User {
			t.Errorf("%.20v: another secret has the same decoy", guess)
		}
	}
	of := func(user, password string) access.Credentials {
		return grants.Decoy(access.Credentials{User: user, Password: password})
	}
	if of("alice", "guess").User != of("alice", "other").User || of("alice", "guess").Password == of("alice", "other").Password {
		t.Error("an upstream cannot count the guesses of one name")
	}
	if of("alice", "guess").Password == of("carol", "guess").Password {
		t.Error("guesses of two names have one password")
	}
}
