package access

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"math/bits"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/turns"
)

const (
	// verdictTTL is the time for which a verified password is not verified again. A pull
	// sends its password with each of some dozen requests.
	verdictTTL = time.Minute
	// maxWrong bounds the wrong passwords that are remembered. They come no faster than
	// verifications end, so these are those of more than a minute.
	maxWrong = 4096
	// maxWaiting bounds the logins that wait, about ten seconds of work, and maxOfNetwork
	// those of one network.
	maxWaiting   = 256
	maxOfNetwork = 32
)

// Account is a user with a password.
type Account struct {
	ID      string // name in access rules; empty: only User is one
	User    string
	Hash    *Hash
	Expires time.Time // from which on it is no longer valid; zero: it does not expire
}

// account is an Account with the verdict on the last password that was right. Only one
// password is right, so the memory of verdicts is bounded, and no other client's login
// can push a verdict out of it.
type account struct {
	Account
	verdict atomic.Pointer[verdict]
	tag     tag                      // of all its credentials
	last    atomic.Pointer[Identity] // of the last login without a certificate
}

// expired reports whether the moment has come from which on the account is not valid.
func (a *account) expired() bool { return !a.Expires.IsZero() && !time.Now().Before(a.Expires) }

// verdict records that a password was right. It holds a keyed hash in place of the password.
type verdict struct {
	mac   mac
	until time.Time
}

// mac is an HMAC of a user and a password, with the key of one [Rules].
type mac [sha256.Size]byte

// accounts are all users with a password.
type accounts struct {
	byUser map[string]*account
	all    []*account // sorted by the cost of their hashes
	choice []byte     // key that chooses the account whose hash an unknown user's password is compared with
	macs   sync.Pool  // of *maccer, with one key that is new in each [Rules]
	wrong  *bounded.Cache[mac, time.Time]
	queue  *turns.Queue
}

func newAccounts(list []Account) *accounts {
	a := &accounts{byUser: make(map[string]*account, len(list))}
	key := make([]byte, sha256.Size)
	rand.Read(key) //nolint:errcheck // it never fails
	a.macs.New = func() any { return &maccer{Hash: hmac.New(sha256.New, key), text: make([]byte, 0, maxUser)} }
	for _, one := range list {
		a.byUser[one.User] = &account{Account: one}
		a.all = append(a.all, a.byUser[one.User])
	}
	slices.SortFunc(a.all, func(x, y *account) int {
		return cmp.Or(strings.Compare(x.Hash.cost(), y.Hash.cost()), strings.Compare(x.User, y.User))
	})
	a.choice = choiceKey(a.all)
	a.wrong = bounded.New(maxWrong, maxWrong*2*bounded.Overhead, func(mac, time.Time) int { return len(mac{}) })
	// As many verifications run as there are processors.
	a.queue = turns.New(turns.Limits{Running: runtime.GOMAXPROCS(0), Waiting: maxWaiting, WaitingOfNetwork: maxOfNetwork})
	return a
}

// login returns the account of a user and a password. A password that was right within
// the last minute takes microseconds and no lock. Any other one is compared with a hash,
// in turn; an unknown user's with that of an account, so that both take the same time.
// It returns a *CredentialsError, a *BusyError, or the cause of ctx.
func (a *accounts) login(ctx context.Context, basic Credentials, from netip.Addr) (*account, error) {
	sum, known := a.mac(basic.User, basic.Password), a.byUser[basic.User]
	right, decided := a.remembered(known, sum)
	if !decided {
		if len(a.all) == 0 {
			return nil, &CredentialsError{MethodPassword, "there are no users"}
		}
		leave, err := a.queue.Enter(ctx, from)
		if errors.Is(err, turns.ErrFull) {
			err = &BusyError{}
		}
		if err != nil {
			return nil, err
		}
		defer leave()
		// An earlier login in the queue may have had the same password.
		if right, decided = a.remembered(known, sum); !decided {
			right = a.verify(known, basic, sum)
		}
	}
	switch {
	case known == nil:
		return nil, &CredentialsError{MethodPassword, "unknown user"}
	case !right:
		return nil, &CredentialsError{MethodPassword, "wrong password"}
	case known.expired():
		return nil, &CredentialsError{MethodPassword, "the account has expired"}
	}
	return known, nil
}

// remembered returns the verdict on a password that was verified before.
func (a *accounts) remembered(known *account, sum mac) (right, decided bool) {
	now := time.Now()
	if known != nil {
		if v := known.verdict.Load(); v != nil && hmac.Equal(v.mac[:], sum[:]) && now.Before(v.until) {
			return true, true
		}
	}
	until, found := a.wrong.Get(sum)
	return false, found && now.Before(until)
}

// verify compares a password with the hash of the account, or of another one if there is
// no such user, and remembers the verdict.
func (a *accounts) verify(known *account, basic Credentials, sum mac) bool {
	of := known
	if of == nil {
		of = a.standIn(basic.User)
	}
	right := of.Hash.Matches(basic.Password) && known != nil
	until := time.Now().Add(verdictTTL)
	if right {
		known.verdict.Store(&verdict{sum, until})
	} else {
		a.wrong.Add(sum, until)
	}
	return right
}

// standIn returns the account whose hash the password of an unknown user is compared with, so
// that its time is that of some user. The name chooses it, the same one after a reload and, for
// most names, after a change of some accounts: names whose time changes would be unknown.
func (a *accounts) standIn(user string) *account {
	h := hmac.New(sha256.New, a.choice)
	_, _ = h.Write([]byte(user)) // a hash never fails
	// The names are spread evenly over the accounts in their order of cost. A further account
	// moves few of them to another cost.
	at, _ := bits.Mul64(binary.BigEndian.Uint64(h.Sum(nil)), uint64(len(a.all)))
	return a.all[at]
}

// choiceKey returns a key that strangers do not know, and that stays the same through most
// changes of accounts: the least digest of their hashes.
func choiceKey(all []*account) (least []byte) {
	for _, one := range all {
		sum := sha256.Sum256([]byte("weir stand-in\x00" + one.Hash.text))
		if least == nil || bytes.Compare(sum[:], least) < 0 {
			least = sum[:]
		}
	}
	return least
}

// maccer computes macs. Making one costs more than a mac.
type maccer struct {
	hash.Hash
	text []byte // buffer
}

func (a *accounts) mac(user, password string) (sum mac) {
	m := a.macs.Get().(*maccer)
	m.Reset()
	// A colon separates both, and no user has one.
	m.text = append(append(append(m.text[:0], user...), ':'), password...)
	_, _ = m.Write(m.text) // a hash never fails
	copy(sum[:], m.Sum(m.text[:0]))
	clear(m.text[:cap(m.text)]) // the password
	a.macs.Put(m)
	return sum
}
