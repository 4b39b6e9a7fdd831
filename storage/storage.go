// Package storage keeps verified bytes by digest and small records by key.
//
// A [Store] holds content by digest, a [Records] holds small documents by key.
// Drivers such as package disk implement both; package storagetest holds them to
// one behaviour. The packages below this one build on these two interfaces and
// never on each other:
//
//   - download runs at most one download per digest into a growing
//     [spool.Spool] that many readers follow, and commits it once its digest has
//     been verified. Nothing unverified ever enters a Store.
//   - evict decorates a Store and evicts the least recently used content.
//   - memcache decorates a Store and keeps small content in memory.
//   - catalog gives the records their types: which descriptor a tag had and when
//     that was last checked, and which digests a repository possesses.
//   - maintain verifies and evicts offline.
//
// None of them knows registries or HTTP.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/spool"
)

// ErrNotExist says that a store has no content for a digest, or no record for
// a key.
var ErrNotExist = errors.New("storage: does not exist")

// ErrUnreadable says that a store has a file for a digest or a key and cannot read
// it, for example since another user owns it. It matches ErrNotExist: the content
// or the record is fetched again, and takes the place of the file.
var ErrUnreadable = fmt.Errorf("%w in a form that can be read", ErrNotExist)

// ErrTooLarge says that a document is too large for a record.
var ErrTooLarge = errors.New("storage: too large for a record")

// ErrCorrupt says that the bytes a source delivered are not the content of the
// digest that was asked for.
var ErrCorrupt = errors.New("the bytes do not match their digest")

// RepoID identifies a mirrored repository: the key of the configured block
// and the name below it. Both together are the cache's identity:
// "ghcr.io/acme" with "app" and "ghcr.io" with "acme/app" are different ones,
// since their credentials are.
//
// A @ may follow the key, and then the name of an upstream: what the block had from
// another upstream is not that repository's.
type RepoID struct{ Namespace, Name string }

// Block returns the key of the configured block.
func (r RepoID) Block() string {
	key, _, _ := strings.Cut(r.Namespace, "@") // no key has one
	return key
}

// String returns the block and the name, joined with a slash.
func (r RepoID) String() string { return r.Block() + "/" + r.Name }

// Info describes stored content.
type Info struct {
	Digest digest.Digest
	Size   int64 // bytes
}

// Object is stored content that is open for reading.
type Object struct {
	Info
	// Content reads the whole content from its start. On disk it is an
	// *os.File or embeds one, so that the kernel can send it without a copy;
	// in memory it is a reader over bytes. The caller closes it.
	Content io.ReadSeekCloser
}

// Entry is one content of a store as [Store.All] lists it.
type Entry struct {
	Info
	Used time.Time // the time of the commit or, if the store is a [Toucher], of the last recorded use
}

// Store holds immutable content by digest. All methods may be called
// concurrently.
type Store interface {
	// Stat returns the size of a blob, or ErrNotExist.
	Stat(ctx context.Context, dgst digest.Digest) (Info, error)
	// Open opens a blob for reading, or returns ErrNotExist, which an
	// ErrUnreadable matches too.
	Open(ctx context.Context, dgst digest.Digest) (*Object, error)
	// Commit publishes a complete spool, whose bytes the caller has verified
	// against dgst, under that digest: atomically, so that a crash leaves either
	// the whole content or none, or a blob that the driver recognises as torn and
	// does not serve. Committing content that
	// the store has already succeeds. The spool stays readable and stays the
	// caller's to close.
	Commit(ctx context.Context, dgst digest.Digest, s *spool.Spool) error
	// Delete removes a blob. Objects that are open can be read on. It
	// returns ErrNotExist if there is no such content.
	Delete(ctx context.Context, dgst digest.Digest) error
	// All lists every blob in no particular order. The sequence ends
	// after the first error.
	All(ctx context.Context) iter.Seq2[Entry, error]
}

// Records holds small documents by key. A key is a relative slash-separated
// path of clean, non-empty segments of at most 255 bytes, none of them "." or
// "..". A key is never a prefix path of another one. All methods may be called
// concurrently.
type Records interface {
	// Get returns a document, or ErrNotExist, which an ErrUnreadable matches
	// too.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put creates or replaces a document atomically, or returns ErrTooLarge. Every
	// driver takes documents of 12 MiB.
	Put(ctx context.Context, key string, document []byte) error
	// Delete removes a document, or returns ErrNotExist.
	Delete(ctx context.Context, key string) error
	// List yields, in lexical order, the keys below a path prefix: those that
	// start with prefix followed by a slash, or all of them when prefix is
	// empty. The sequence ends after the first error.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}
