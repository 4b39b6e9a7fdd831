package access

import (
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// maxVerdicts and maxVerdictBytes bound the remembered verdicts: some hundred
	// identities that pull from a hundred repositories each.
	maxVerdicts     = 32 << 10
	maxVerdictBytes = 8 << 20
)

// verdictKey is all that the layers read which do not read the content of a request.
type verdictKey struct {
	sender     sender
	block      string
	name       string
	namespace  string
	action     Action
	byUpstream bool
}

func newVerdictKey(i *Identity, q *Question) verdictKey {
	return verdictKey{i.sender, q.Block, q.Name, q.Namespace, q.Action, q.ByUpstream}
}

func (k verdictKey) size() int64 {
	const overhead = 320 // of the place in the map
	return int64(len(k.block)+len(k.name)+len(k.namespace)) + overhead
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
	// They may be parts of a longer string, such as a request's URI.
	key.name, key.namespace = strings.Clone(key.name), strings.Clone(key.namespace)
	if _, known := g.allowed.LoadOrStore(key, struct{}{}); !known {
		g.number.Add(1)
		g.bytes.Add(key.size())
	}
}
