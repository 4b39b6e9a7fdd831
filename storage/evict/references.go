package evict

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

const (
	// followDelay is how long after the use of a manifest its blobs count as used,
	// unless something is evicted before. A pull uses many manifests at once.
	followDelay = time.Second
	// maxReferences bounds the references of 32 bytes each that are remembered:
	// 8 MiB, or about 20,000 images.
	maxReferences = 1 << 18
	// maxOthers bounds how many other blobs are remembered: they take up to
	// 20 MiB.
	maxOthers = 1 << 20
)

// references makes the use of a manifest the use of all that it refers to: its
// config and layers, and the manifests of an index with theirs. It is one
// goroutine, whose caches need no lock.
type references struct {
	inventory *inventory
	next      storage.Store
	referred  func(digest.Digest)                                   // see Options; may be nil
	touch     func(context.Context, digest.Digest, time.Time) error // see Options; nil: not recorded

	requests chan chan struct{} // each is closed when all uses before it were followed

	manifests *simplelru.LRU[key, []key]
	total     int                 // references in manifests, and their number
	others    map[uint64]struct{} // blobs that are not manifests, by the start of their keys
}

func newReferences(i *inventory, next storage.Store, opts Options) *references {
	manifests, err := simplelru.NewLRU[key, []key](math.MaxInt, nil)
	if err != nil {
		panic(err) // cannot be: the number of entries is positive
	}
	return &references{
		inventory: i, next: next, referred: opts.Referred, touch: opts.Touch, requests: make(chan chan struct{}),
		manifests: manifests, others: make(map[uint64]struct{}),
	}
}

// run follows manifests until its context ends. It begins when the index is
// complete: before that, most blobs of a manifest cannot be found there.
func (r *references) run(ctx context.Context) {
	select {
	case <-r.inventory.loaded:
	case <-ctx.Done():
		return
	}
	var soon <-chan time.Time
	for {
		select {
		case <-r.inventory.used.C():
			if soon == nil {
				soon = time.After(followDelay)
			}
		case <-soon:
			soon = nil
			r.follow(ctx)
		case done := <-r.requests:
			r.follow(ctx)
			close(done)
		case <-ctx.Done():
			return
		}
	}
}

// settle returns when all uses up to now have been followed, or the context ends.
func (r *references) settle(ctx context.Context) {
	done := make(chan struct{})
	select {
	case r.requests <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// follow makes the use of each manifest that was used since the last time the use
// of all that it refers to. Only the goroutine of run calls it, and Close after the
// end of that.
func (r *references) follow(ctx context.Context) {
	for ctx.Err() == nil {
		r.inventory.mu.Lock()
		slots := r.inventory.manifests.take()
		r.inventory.mu.Unlock()
		if len(slots) == 0 {
			return
		}
		// An index makes its manifests used, which are in the next batch.
		for _, s := range slots {
			r.followOne(ctx, s)
		}
	}
}

func (r *references) followOne(ctx context.Context, s slot) {
	i := r.inventory
	i.mu.Lock()
	e := i.index.lru.at(s)
	if e.phase != idle && e.phase != pinned { // deleted since its use
		i.mu.Unlock()
		return
	}
	k, used, dgst, limit := e.key, e.used, i.index.lru.digest(e), i.maxManifest
	i.mu.Unlock()

	refs, err := r.of(ctx, k, dgst, limit)
	if err != nil {
		return // its next use is another attempt
	}
	unknown, complete := r.use(refs, used)
	for _, k := range unknown {
		dgst := digest.NewDigestFromBytes(digest.SHA256, k[:])
		// A lazy index was not needed up to now. The next process may need the time.
		if !complete && r.touch != nil {
			_ = r.touch(ctx, dgst, time.Unix(0, used)) // the content may be elsewhere
		}
		if r.referred != nil {
			r.referred(dgst)
		}
	}
}

// use notes the use of blobs. It returns those that the index does not know, and
// whether the index is complete.
func (r *references) use(refs []key, used int64) (unknown []key, complete bool) {
	i := r.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now().UnixNano()
	for _, k := range refs {
		s, e := i.index.lru.find(k)
		switch {
		case e == nil:
			unknown = append(unknown, k)
		case (e.used < used || e.used > now) && e.phase != deleting:
			i.use(s, used)
		}
	}
	return unknown, i.ready
}

// of returns the references of a blob, or none if it is not a manifest. Most content
// that is used is none, and is looked into once.
func (r *references) of(ctx context.Context, k key, dgst digest.Digest, limit int64) ([]key, error) {
	if refs, known := r.manifests.Get(k); known {
		return refs, nil
	}
	if _, known := r.others[short(k)]; known {
		return nil, nil
	}
	refs, err := r.read(ctx, dgst, limit)
	if err != nil {
		return nil, err
	}
	r.remember(k, refs)
	return refs, nil
}

// read returns the references of a blob that looks like a manifest. A blob
// crafted to look like one can only keep the blobs alive that it names, as any
// manifest can.
func (r *references) read(ctx context.Context, dgst digest.Digest, limit int64) ([]key, error) {
	object, err := r.next.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer object.Content.Close()
	links, err := oci.ReadReferences(object.Content, limit)
	if err != nil {
		return nil, nil //nolint:nilerr // no manifest
	}
	var refs []key
	for _, desc := range links.Content() {
		refs = append(refs, keyOf(desc.Digest))
	}
	return refs, nil
}

// remember keeps the references of a blob, and gives up those that were asked
// for least recently.
func (r *references) remember(k key, refs []key) {
	if len(refs) == 0 {
		if len(r.others) == maxOthers {
			clear(r.others) // rare, and costs one look into each blob that is used again
		}
		r.others[short(k)] = struct{}{}
		return
	}
	r.manifests.Add(k, refs)
	r.total += len(refs) + 1
	for r.total > maxReferences {
		_, oldest, _ := r.manifests.RemoveOldest()
		r.total -= len(oldest) + 1
	}
}

// short returns eight bytes of a key, which are enough to tell blobs apart. A
// content that is crafted to collide with a manifest only hides the references of
// that manifest, and only the maker of both can craft it.
func short(k key) uint64 { return binary.BigEndian.Uint64(k[:8]) }
