package access_test

import (
	"encoding/base64"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Hashes of the word "secret", with small costs. Those of Argon2 were made with the
// reference program, argon2(1).
const (
	secretBcrypt  = "$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO"
	secretArgon2  = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI"
	secretArgon2i = "$argon2i$v=19$m=64,t=2,p=2$c2FsdHNhbHQ$j6HrtIuQS2njIlS/QgN3LA"
)

func account(t testing.TB, user, hash string) access.Account {
	t.Helper()
	parsed, err := access.ParseHash(hash)
	if err != nil {
		t.Fatal(err)
	}
	return access.Account{User: user, Hash: parsed}
}

// users returns rules with two users, whose passwords are "secret".
func users(t testing.TB) access.Options {
	return access.Options{Realm: "Weir", Accounts: []access.Account{account(t, "alice", secretArgon2), account(t, "bob", secretBcrypt)}}
}

func newRules(t testing.TB, opts access.Options) *access.Rules {
	t.Helper()
	rules, err := access.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func basic(user, password string) access.Presented {
	return header("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func header(values ...string) access.Presented { return access.Presented{Authorization: values} }

// from returns what a request shows that comes from an address.
func from(address string, shown access.Presented) access.Presented {
	shown.Request = &http.Request{RemoteAddr: address}
	return shown
}
