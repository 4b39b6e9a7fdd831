// Package memcache keeps small content of a store in memory.
package memcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Hot keeps small contents in memory, so that a manifest that is pulled often
// costs no access to the store below. What is larger passes through untouched:
// an *os.File reaches the caller as one, for the kernel to send.
//
// Nothing enters the memory before its digest has been verified, so that bytes
// which the disk has changed cannot outlive there what is done about them
// below. A small content that is found corrupt is discarded and does not exist:
// the next download brings it back.
//
// Do not put it in front of a store that keeps its contents in memory itself,
// or that deletes on its own account: what was deleted behind its back is still
// served from memory. A decorator that deletes what has not been used for long
// therefore belongs in front of Hot, where it also sees every use.
type Store struct {
	next      storage.Store
	maxBytes  int64
	maxObject int64
	discard   func(context.Context, digest.Digest) error // takes a corrupt content out of next

	mu        sync.Mutex
	objects   *simplelru.LRU[digest.Digest, []byte]
	bytes     int64  // what objects costs
	deletions uint64 // how often Delete was called
}

var (
	_ storage.Store     = (*Store)(nil)
	_ storage.Unwrapper = (*Store)(nil)
)

// overhead is about what one more object costs beside its bytes. Counting
// it bounds the number of tiny ones.
const overhead = 256

// Options configure a [Store].
type Options struct {
	MaxBytes  int64 // of all content in memory; the least recently used goes first
	MaxObject int64 // larger content is not kept in memory
	// OnCorrupt takes corrupt content out of the store below, or returns the
	// reason why it could not. The default deletes it.
	OnCorrupt func(context.Context, digest.Digest) error
}

// New returns a store in front of next.
func New(next storage.Store, opts Options) *Store {
	if opts.OnCorrupt == nil {
		opts.OnCorrupt = next.Delete
	}
	objects, err := simplelru.NewLRU[digest.Digest, []byte](math.MaxInt, nil)
	if err != nil {
		panic(err) // cannot be: the number of entries is positive
	}
	return &Store{
		next: next, maxBytes: opts.MaxBytes, maxObject: min(opts.MaxObject, opts.MaxBytes-overhead),
		discard: opts.OnCorrupt, objects: objects,
	}
}

// Unwrap returns the store below.
func (h *Store) Unwrap() storage.Store { return h.next }

// Stat implements [storage.Store].
func (h *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	if content, ok, _ := h.get(dgst); ok {
		return storage.Info{Digest: dgst, Size: int64(len(content))}, nil
	}
	return h.next.Stat(ctx, dgst)
}

// Open implements [storage.Store].
func (h *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	content, ok, deletions := h.get(dgst)
	if ok {
		return newObject(dgst, content), nil
	}
	object, err := h.next.Open(ctx, dgst)
	if err != nil || object.Size > h.maxObject {
		return object, err
	}
	content = make([]byte, object.Size)
	_, err = io.ReadFull(object.Content, content)
	if err := errors.Join(err, object.Content.Close()); err != nil {
		return nil, fmt.Errorf("storage: cannot read %s: %w", dgst, err)
	}
	if dgst.Algorithm().FromBytes(content) != dgst {
		if err := h.discard(ctx, dgst); err != nil && !errors.Is(err, storage.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s, as it is stored: %w", storage.ErrCorrupt, dgst, err)
		}
		return nil, fmt.Errorf("%w: %s was corrupt", storage.ErrNotExist, dgst)
	}
	h.add(dgst, content, deletions)
	return newObject(dgst, content), nil
}

// Commit implements [storage.Store]. A small content is in memory from the start: it
// is about to be pulled.
func (h *Store) Commit(ctx context.Context, dgst digest.Digest, s *spool.Spool) error {
	_, known, deletions := h.get(dgst)
	if err := h.next.Commit(ctx, dgst, s); err != nil {
		return err
	}
	if size := s.Size(); !known && size <= h.maxObject {
		if content, err := readSpool(ctx, s, size); err == nil {
			h.add(dgst, content, deletions)
		} // else the first Open will read it
	}
	return nil
}

// Delete implements [storage.Store].
func (h *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	err := h.next.Delete(ctx, dgst)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deletions++
	if content, ok := h.objects.Peek(dgst); ok {
		h.objects.Remove(dgst)
		h.bytes -= cost(content)
	}
	return err
}

// All implements [storage.Store].
func (h *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] { return h.next.All(ctx) }

// get returns a content that is in memory, and otherwise how many deletions
// there have been so far.
func (h *Store) get(dgst digest.Digest) (content []byte, ok bool, deletions uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	content, ok = h.objects.Get(dgst)
	return content, ok, h.deletions
}

// add keeps a content, unless something was deleted since get said how many
// deletions there were: it may have been this one.
func (h *Store) add(dgst digest.Digest, content []byte, deletions uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deletions != deletions || h.objects.Contains(dgst) {
		return
	}
	h.objects.Add(dgst, content)
	h.bytes += cost(content)
	for h.bytes > h.maxBytes {
		_, oldest, _ := h.objects.RemoveOldest()
		h.bytes -= cost(oldest)
	}
}

func cost(content []byte) int64 { return int64(len(content)) + overhead }

func readSpool(ctx context.Context, s *spool.Spool, size int64) ([]byte, error) {
	r, err := s.NewReader(ctx)
	if err != nil {
		return nil, err
	}
	content := make([]byte, size)
	_, err = io.ReadFull(r, content)
	return content, errors.Join(err, r.Close())
}

// hotReader reads bytes that it shares with others. Closing it has no effect.
type reader struct{ bytes.Reader }

func (*reader) Close() error { return nil }

// newHotObject makes the object and its reader in one allocation.
func newObject(dgst digest.Digest, content []byte) *storage.Object {
	hot := new(struct {
		storage.Object
		reader reader
	})
	hot.Info = storage.Info{Digest: dgst, Size: int64(len(content))}
	hot.reader.Reset(content)
	hot.Content = &hot.reader
	return &hot.Object
}
