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

// Store keeps small content in memory, so that a manifest that is pulled often
// costs no access to the store below. Larger content passes through untouched: an
// *os.File reaches the caller as one, for the kernel to send.
//
// Content enters the memory after its digest has been verified, so a corrupt file
// cannot stay in memory after it was quarantined on disk. Small content that is
// found corrupt, or that cannot be read, is taken out of the store below if possible
// and counts as absent: the next download brings it back.
//
// Do not put it in front of a store that keeps content in memory itself, or that
// deletes on its own account: deleted content would still be served from memory.
// Eviction therefore belongs in front, where it also sees each use. What another process
// deletes leaves the memory at the next listing.
type Store struct {
	next      storage.Store
	maxBytes  int64
	maxObject int64
	keeps     func(first byte) bool
	discard   func(context.Context, digest.Digest) error // takes corrupt content out of next

	mu        sync.Mutex
	objects   *simplelru.LRU[digest.Digest, []byte]
	bytes     int64  // the cost of objects
	deletions uint64 // how often drop was called
}

var (
	_ storage.Store     = (*Store)(nil)
	_ storage.Unwrapper = (*Store)(nil)
)

// overhead is about the memory of one object in addition to its bytes: map entry, list
// element and digest. Counting it bounds the number of tiny objects.
const overhead = 256

// Options configure a [Store].
type Options struct {
	MaxBytes  int64 // of all content in memory; the least recently used goes first
	MaxObject int64 // larger content is not kept in memory
	// Keeps reports by its first byte whether content gains from memory; those that do not
	// are verified when they are read, as all small ones are. The default keeps all.
	Keeps func(first byte) bool
	// OnCorrupt takes content that is corrupt or cannot be read out of the store
	// below, or returns the reason why it could not. The default deletes it.
	OnCorrupt func(context.Context, digest.Digest) error
}

// New returns a store in front of next.
func New(next storage.Store, opts Options) *Store {
	if opts.OnCorrupt == nil {
		opts.OnCorrupt = next.Delete
	}
	if opts.Keeps == nil {
		opts.Keeps = func(byte) bool { return true }
	}
	objects, err := simplelru.NewLRU[digest.Digest, []byte](math.MaxInt, nil)
	if err != nil {
		panic(err) // cannot be: the number of entries is positive
	}
	return &Store{
		next: next, maxBytes: opts.MaxBytes, maxObject: min(opts.MaxObject, opts.MaxBytes-overhead),
		keeps: opts.Keeps, discard: opts.OnCorrupt, objects: objects,
	}
}

// Unwrap returns the store below.
func (s *Store) Unwrap() storage.Store { return s.next }

// Stat needs no access to the store below for content in memory.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	if content, ok, _ := s.get(dgst); ok {
		return storage.Info{Digest: dgst, Size: int64(len(content))}, nil
	}
	return s.next.Stat(ctx, dgst)
}

// Open reads small content into memory, and verifies it.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	content, ok, deletions := s.get(dgst)
	if ok {
		return newObject(dgst, content), nil
	}
	object, err := s.next.Open(ctx, dgst)
	if err != nil || object.Size > s.maxObject { // the kernel sends it from its file
		return object, err
	}
	content = make([]byte, object.Size)
	_, err = io.ReadFull(object.Content, content)
	err = errors.Join(err, object.Content.Close())
	if err == nil && dgst.Algorithm().FromBytes(content) != dgst {
		err = storage.ErrCorrupt
	}
	// Bit rot, or a disk that fails: out of the store with it, or each later pull
	// would find it again. It is fetched again also if it cannot be taken out.
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", storage.ErrUnreadable, dgst, errors.Join(err, s.discard(ctx, dgst)))
	}
	if len(content) == 0 || s.keeps(content[0]) {
		s.add(dgst, content, deletions)
	}
	return newObject(dgst, content), nil
}

// Commit keeps small content in memory from the start: it is about to be pulled.
func (s *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	_, known, deletions := s.get(dgst)
	if err := s.next.Commit(ctx, dgst, sp); err != nil {
		return err
	}
	if size := sp.Size(); !known && size <= s.maxObject && s.keepsSpool(sp) {
		// If the spool cannot be read, the first Open reads the store.
		if content, err := readSpool(ctx, sp, size); err == nil {
			s.add(dgst, content, deletions)
		}
	}
	return nil
}

// Delete deletes a blob below and in memory.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	err := s.next.Delete(ctx, dgst)
	s.drop(dgst) // also if it failed: the content may be gone
	return err
}

// drop takes a blob out of memory, and keeps one out that is being read from the store below.
func (s *Store) drop(dgst digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deletions++
	if content, ok := s.objects.Peek(dgst); ok {
		s.objects.Remove(dgst)
		s.bytes -= cost(content)
	}
}

// All lists the blobs of the store below, which has all of them. A listing that comes to its end
// without an error takes out of memory what the store below no longer has: another process has
// deleted it.
func (s *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		whole := true
		for entry, err := range s.next.All(ctx) {
			whole = whole && err == nil // content may seem to be gone because its disk is
			if !yield(entry, err) {
				return
			}
		}
		if whole {
			s.compare(ctx)
		}
	}
}

// compare takes out of memory what the store below no longer has.
func (s *Store) compare(ctx context.Context) {
	s.mu.Lock()
	digests := s.objects.Keys()
	s.mu.Unlock()
	for _, dgst := range digests {
		if _, err := s.next.Stat(ctx, dgst); errors.Is(err, storage.ErrNotExist) {
			s.drop(dgst)
		}
	}
}

// get returns a blob that is in memory, and otherwise how many deletions
// there have been so far.
func (s *Store) get(dgst digest.Digest) (content []byte, ok bool, deletions uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok = s.objects.Get(dgst)
	return content, ok, s.deletions
}

// add keeps a blob, unless a blob was deleted since get returned the number
// of deletions: it may have been this one.
func (s *Store) add(dgst digest.Digest, content []byte, deletions uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deletions != deletions || s.objects.Contains(dgst) {
		return
	}
	s.objects.Add(dgst, content)
	s.bytes += cost(content)
	for s.bytes > s.maxBytes {
		_, oldest, _ := s.objects.RemoveOldest()
		s.bytes -= cost(oldest)
	}
}

// keepsSpool reports whether a complete spool is kept in memory.
func (s *Store) keepsSpool(sp *spool.Spool) bool {
	var first [1]byte
	n, err := sp.ReadBack(first[:], 0)
	return err == nil && (n == 0 || s.keeps(first[0]))
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

// reader reads bytes that it shares with other readers. Closing it has no effect.
type reader struct{ bytes.Reader }

func (*reader) Close() error { return nil }

// newObject makes the object and its reader in one allocation.
func newObject(dgst digest.Digest, content []byte) *storage.Object {
	made := new(struct {
		storage.Object
		reader reader
	})
	made.Info = storage.Info{Digest: dgst, Size: int64(len(content))}
	made.reader.Reset(content)
	made.Content = &made.reader
	return &made.Object
}
