package evict

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// maxManifest is the largest content, in bytes, that is looked into to
	// learn whether it is a manifest.
	maxManifest = 8 << 20
	// maxReferences bounds what is remembered of manifests: how many
	// references in all, of 32 bytes each.
	maxReferences = 1 << 18
	// touchInterval is how often at most the time of a content's last use is
	// written down.
	touchInterval = time.Minute
	// closingPatience bounds the same at the end.
	closingPatience = 5 * time.Second
)

// use notes that a content was used. The caller holds the mutex.
func (l *Store) use(s slot, e *entry, now int64) {
	e.used = now
	if e.is(linked) {
		l.index.unlink(e)
		l.index.link(s, e)
	}
	if l.opts.Touch != nil && !e.is(dirty) {
		e.state |= dirty
		l.used = append(l.used, s)
	}
	if e.size <= maxManifest && !e.is(leaf|queued|arriving) {
		e.state |= queued
		l.manifests = append(l.manifests, s)
		if len(l.manifests) == 1 {
			signal(l.fresh)
		}
	}
}

// follow makes the use of each manifest that was used since the last time the
// use of all that it refers to.
func (l *Store) follow(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		manifests := l.manifests
		l.manifests = nil
		l.mu.Unlock()
		if len(manifests) == 0 {
			return
		}
		for _, s := range manifests {
			l.followOne(ctx, s)
		}
	}
}

func (l *Store) followOne(ctx context.Context, s slot) {
	l.mu.Lock()
	e := l.index.at(s)
	if !e.is(queued) { // the slot has been given up meanwhile
		l.mu.Unlock()
		return
	}
	e.state &^= queued
	k, used, dgst := e.key, e.used, l.index.digest(e)
	l.mu.Unlock()

	refs, known := l.refs.get(k)
	if !known {
		var err error
		if refs, err = l.read(ctx, dgst); err != nil {
			return // its next use is another try
		}
		if len(refs) > 0 {
			l.refs.add(k, refs)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(refs) == 0 {
		if e.key == k {
			e.state |= leaf
		}
		return
	}
	for _, k := range refs {
		if s, e := l.index.find(k); e != nil && e.used < used && !e.is(doomed) {
			l.use(s, e, used)
		}
	}
}

// read returns what a content refers to if it looks like an image manifest or an
// index. Whoever makes other content look like one gains nothing: it can only
// keep alive what it names, like any manifest.
func (l *Store) read(ctx context.Context, dgst digest.Digest) ([]key, error) {
	object, err := l.next.Open(ctx, dgst)
	if err != nil {
		return nil, err
	}
	defer object.Content.Close()
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
	}
	var document struct {
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
	}
	if json.NewDecoder(io.LimitReader(object.Content, maxManifest)).Decode(&document) != nil {
		return nil, nil // no manifest: most content fails at its first byte
	}
	var refs []key
	for _, d := range slices.Concat([]descriptor{document.Config}, document.Layers, document.Manifests) {
		if storage.ValidateDigest(d.Digest) == nil {
			refs = append(refs, keyOf(d.Digest))
		}
	}
	return refs, nil
}

// references remembers what manifests refer to, those that were asked for last.
type references struct {
	manifests *simplelru.LRU[key, []key]
	total     int
}

func newReferences() references {
	manifests, err := simplelru.NewLRU[key, []key](math.MaxInt, nil)
	if err != nil {
		panic(err) // cannot be: the number of entries is positive
	}
	return references{manifests: manifests}
}

func (r *references) get(manifest key) ([]key, bool) { return r.manifests.Get(manifest) }

func (r *references) add(manifest key, refs []key) {
	r.manifests.Add(manifest, refs)
	r.total += len(refs) + 1
	for r.total > maxReferences {
		_, oldest, _ := r.manifests.RemoveOldest()
		r.total -= len(oldest) + 1
	}
}

// keepTouching writes the times of last use down until its context ends.
func (l *Store) keepTouching(ctx context.Context) {
	ticker := time.NewTicker(touchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := l.touch(ctx); err != nil && ctx.Err() == nil {
				l.opts.Logger.Warn("cannot write down when content was last used; after a restart it may be evicted too early", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// touch tells the store below of every use since the last time. It goes on after
// an error, and returns the first one.
func (l *Store) touch(ctx context.Context) error {
	l.mu.Lock()
	pending := l.used
	l.used = nil
	l.mu.Unlock()
	var failure error
	for i, s := range pending {
		if err := context.Cause(ctx); err != nil {
			l.mu.Lock()
			l.used = append(l.used, pending[i:]...)
			l.mu.Unlock()
			return err
		}
		l.mu.Lock()
		e := l.index.at(s)
		due := e.is(dirty)
		e.state &^= dirty
		dgst, used := l.index.digest(e), time.Unix(0, e.used)
		l.mu.Unlock()
		if !due { // the slot has been given up meanwhile
			continue
		}
		if err := l.opts.Touch(ctx, dgst, used); err != nil && !errors.Is(err, storage.ErrNotExist) && failure == nil {
			failure = err
		}
	}
	return failure
}
