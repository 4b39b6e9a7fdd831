package access

import (
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"weak"
)

const (
	// maxVerdicts and maxVerdictBytes bound the remembered verdicts: some hundred
	// identities that pull from a hundred repositories each.
	maxVerdicts     = 32 << 10
	maxVerdictBytes = 8 << 20
)

// verdictKey is all that rules read which do not read the content of a request. Claims
// are compared by their place in memory: the requests with one token share them for a
// time. The pointer does not keep them there.
type verdictKey struct {
	id, user      string
	common        string
	organizations string
	oidc          weak.Pointer[OIDC]
	address       netip.Addr // invalid if no rule reads it
	block         string
	namespace     string
	action        Action
}

func newVerdictKey(i *Identity, q Question, readsAddress bool) verdictKey {
	key := verdictKey{id: i.ID, user: i.User, oidc: weak.Make(i.OIDC), block: q.Block, namespace: q.Namespace, action: q.Action}
	if readsAddress {
		key.address = i.Address
	}
	if c := i.Certificate; c != nil {
		key.common = c.CommonName
		// Lengths keep apart lists that are the same when joined: a name in a certificate
		// may hold any character.
		for _, organization := range c.Organizations {
			key.organizations += strconv.Itoa(len(organization)) + ":" + organization
		}
	}
	return key
}

func (k verdictKey) size() int64 {
	const overhead = 256 // of the place in the map
	return int64(len(k.id)+len(k.user)+len(k.common)+len(k.organizations)+len(k.block)+len(k.namespace)) + overhead
}

// verdicts remembers that requests were allowed. Reading takes no lock, since each pull
// reads. Refusals are not remembered, so that they write nothing. When it is full, all
// verdicts are forgotten, and given again.
type verdicts struct {
	current atomic.Pointer[generation]
}

type generation struct {
	allowed sync.Map // of verdictKey
	number  atomic.Int64
	bytes   atomic.Int64
}

func newVerdicts() *verdicts {
	v := &verdicts{}
	v.current.Store(&generation{})
	return v
}

// allowed reports whether a request was allowed before.
func (v *verdicts) allowed(key verdictKey) bool {
	_, ok := v.current.Load().allowed.Load(key)
	return ok
}

// allow remembers that a request was allowed.
func (v *verdicts) allow(key verdictKey) {
	g := v.current.Load()
	if g.number.Load() >= maxVerdicts || g.bytes.Load()+key.size() > maxVerdictBytes {
		next := &generation{}
		if !v.current.CompareAndSwap(g, next) {
			return // another request has forgotten them
		}
		g = next
	}
	// The namespace may be a part of a longer string, such as a request's URI.
	key.namespace = strings.Clone(key.namespace)
	if _, known := g.allowed.LoadOrStore(key, struct{}{}); !known {
		g.number.Add(1)
		g.bytes.Add(key.size())
	}
}
