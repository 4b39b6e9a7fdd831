package upstream

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"
)

const (
	// maxRejections bounds the memory. A registry with more corrupt blobs cools
	// down anyway.
	maxRejections = 1024
	// rejectionTime is how long a registry is asked last for a digest: long
	// enough for the retries of one pull, and short enough for a repaired blob.
	rejectionTime = 10 * time.Minute
)

// rejections remember for which digests a registry recently delivered the wrong
// bytes.
type rejections struct {
	mu    sync.Mutex
	until *simplelru.LRU[digest.Digest, time.Time]
}

func newRejections() *rejections {
	until, err := simplelru.NewLRU[digest.Digest, time.Time](maxRejections, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &rejections{until: until}
}

func (r *rejections) add(dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until.Add(dgst, time.Now().Add(rejectionTime))
}

// count returns the number of digests with a rejection that still counts.
func (r *rejections) count() (n int) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, until := range r.until.Values() {
		if now.Before(until) {
			n++
		}
	}
	return n
}

func (r *rejections) has(dgst digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until.Peek(dgst)
	return ok && time.Now().Before(until)
}
