package storage

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/spool"
)

// Driver keeps content and records in one kind of place, such as a directory of
// a filesystem. Package storagetest holds drivers to one behaviour.
//
// A driver can do more than a Driver must. Each further capability is an
// interface of one or two methods, which [As] finds behind decorators:
//
//   - [Toucher] keeps the time of the last use beyond a restart. Without it,
//     eviction after a restart goes by the time of the commit.
//   - [Quarantiner] keeps corrupt content for inspection. Without it, corrupt
//     content is deleted.
//   - [Sizer] knows how much is stored without listing it.
//   - [RecordKeeper] knows the sizes and ages of records. Without it, records stay
//     until they are deleted by key.
//   - [Prober] notices that nothing can be stored before a download fails.
type Driver interface {
	Store
	// Records returns the records that belong to the content.
	Records() Records
	// Spools returns the directory of the spools that Commit can publish.
	Spools() *spool.Dir
	// Close ends the driver's own work. Spools are closed before it; content
	// that is open can be read on.
	Close() error
}

// Toucher records when content was last used, for [Store.All] to report. It
// returns ErrNotExist if there is no such content.
type Toucher interface {
	Touch(ctx context.Context, dgst digest.Digest, used time.Time) error
}

// Quarantiner takes corrupt content out of the store without deleting it, and
// returns the place that it has then. It returns ErrNotExist if there is no such
// content.
type Quarantiner interface {
	Quarantine(ctx context.Context, dgst digest.Digest) (place string, err error)
}

// Sizer returns how many bytes of content are stored, in how many objects.
type Sizer interface {
	Size() (bytes, objects int64)
}

// RecordEntry is one record as [RecordKeeper.AllRecords] lists it.
type RecordEntry struct {
	Key  string
	Size int64     // bytes
	Used time.Time // when it was last written or, if it is touched, used
}

// RecordKeeper lists records with their sizes and ages, in the order of their keys, and
// notes the use of one. TouchRecord returns ErrNotExist if there is no such record.
type RecordKeeper interface {
	AllRecords(ctx context.Context) iter.Seq2[RecordEntry, error]
	TouchRecord(ctx context.Context, key string, used time.Time) error
}

// Prober returns an error if content cannot be stored at the moment.
type Prober interface {
	Writable(ctx context.Context) error
}

// Unwrapper is a [Store] in front of another one, which Unwrap returns.
type Unwrapper interface {
	Unwrap() Store
}

// As returns the first store with the capability T: s itself or, behind
// decorators, one that s is in front of.
func As[T any](s Store) (capable T, ok bool) {
	for {
		if capable, ok = s.(T); ok {
			return capable, true
		}
		decorator, ok := s.(Unwrapper)
		if !ok { // the driver itself, or a decorator that hides it
			return capable, false
		}
		s = decorator.Unwrap()
	}
}
