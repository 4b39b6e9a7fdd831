package traffic

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/storage"
)

const (
	// MaxRecent is how many requests are remembered, the last ones.
	MaxRecent = 200
	// usualText is about the length of the texts of a request: names have some 40 bytes, digests 71.
	usualText = 256
	// maxPart bounds each text of a request. Names have 255 bytes behind the key of their block, so the name in an
	// ID is never cut.
	maxPart = 512
)

// Request is a request that has been answered.
type Request struct {
	Time       time.Time // of the end
	Method     string
	Operation  string         // as the log names it
	Repository string         // with the key of its block, for people; as it was sent if it is of no block
	ID         storage.RepoID // of the repository, which decides who may know of the request; zero if it is of no block
	Reference  string
	Status     int
	Bytes      int64 // of the body
	Took       time.Duration
	Cache      string // as the log names it
	User       access.Name
	Address    netip.Addr // of a client without credentials
	Upstream   string     // that was asked; "" if none was
	Number     uint64     // of all requests since the start; set by Recent
}

// Recent remembers the last requests. Its memory is bounded: it copies the parts of a request that clients
// choose, each cut after 512 bytes. A nil *Recent remembers nothing. All methods may be called concurrently.
type Recent struct {
	mu    sync.Mutex
	last  uint64              // number of the last request
	slots [MaxRecent]recorded // a request is in the slot of its number
}

// recorded is a remembered request, whose texts are in a buffer of its slot, so that no request allocates any.
type recorded struct {
	Request // without the texts that clients choose
	texts   []byte
	ends    [4]int // of method, repository, reference and the name in the ID
}

// NewRecent returns an empty memory.
func NewRecent() *Recent {
	r := new(Recent)
	for i := range r.slots {
		r.slots[i].texts = make([]byte, 0, usualText)
	}
	return r
}

// Add remembers a request in place of the oldest one.
func (r *Recent) Add(one Request) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	slot := &r.slots[r.last%MaxRecent]
	texts := slot.texts[:0]
	for i, part := range [...]string{one.Method, one.Repository, one.Reference, one.ID.Name} {
		texts = append(texts, part[:min(len(part), maxPart)]...)
		slot.ends[i] = len(texts)
	}
	one.Method, one.Repository, one.Reference, one.ID.Name, one.Number = "", "", "", "", r.last
	slot.Request, slot.texts = one, texts
}

// Last returns the number of the last request.
func (r *Recent) Last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// Since returns the remembered requests behind the one with a number, the last one first.
func (r *Recent) Since(number uint64) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Request
	for n := r.last; n > number && r.last-n < MaxRecent; n-- {
		slot := &r.slots[n%MaxRecent]
		one, texts, ends := slot.Request, string(slot.texts), slot.ends
		one.Method, one.Repository, one.Reference = texts[:ends[0]], texts[ends[0]:ends[1]], texts[ends[1]:ends[2]]
		one.ID.Name = texts[ends[2]:ends[3]]
		all = append(all, one)
	}
	return all
}
