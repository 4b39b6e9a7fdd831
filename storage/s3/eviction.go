package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	evictionName = "eviction"
	// maxClockError is how far two clocks differ that count as one: the times of headers have
	// no parts of seconds.
	maxClockError = 5 * time.Second
)

// Eviction is the removal of content that is not used, by this mirror or another one.
type Eviction interface {
	// Used notes the use of a blob.
	Used(dgst digest.Digest)
	// Leaves reports whether a blob is about to be removed.
	Leaves(dgst digest.Digest) bool
	// Stays reports whether a blob is not about to be removed, and this is known.
	Stays(ctx context.Context, dgst digest.Digest) bool
}

// Evicts informs the store of removals of content. It is called before the store is used.
func (s *Store) Evicts(eviction Eviction) { s.eviction.Store(&eviction) }

func (s *Store) used(dgst digest.Digest) {
	if e := s.eviction.Load(); e != nil {
		(*e).Used(dgst)
	}
}

func (s *Store) leaves(dgst digest.Digest) bool {
	e := s.eviction.Load()
	return e != nil && (*e).Leaves(dgst)
}

// use notes the use of a blob that this mirror wants in the bucket, or returns an error
// that matches spool.ErrBusy if it leaves. It stays then, if that is announced in time.
func (s *Store) use(dgst digest.Digest) error {
	s.used(dgst)
	if s.leaves(dgst) {
		return fmt.Errorf("%w: %s is about to be evicted from the bucket", spool.ErrBusy, dgst)
	}
	return nil
}

// stays waits a short time, since the mirror has the content too.
func (s *Store) stays(ctx context.Context, dgst digest.Digest) bool {
	e := s.eviction.Load()
	if e == nil {
		return true
	}
	limited, cancel := context.WithTimeout(ctx, linkPatience)
	defer cancel()
	return (*e).Stays(limited, dgst)
}

// Forget drops the knowledge about an object, which may be removed or written by another
// mirror.
func (s *Store) Forget(dgst digest.Digest) { s.known.Remove(dgst) }

// local returns a time of the server by the clock of this machine.
func (s *Store) local(at time.Time) time.Time {
	if skew := time.Duration(s.transport.skew.Load()); skew.Abs() > maxClockError {
		return at.Add(-skew)
	}
	return at
}

// DeleteAll removes the objects of at most 1000 blobs, at once if the server can do that.
// It returns those that are gone, and the first failure.
func (s *Store) DeleteAll(ctx context.Context, contents []digest.Digest) (gone []digest.Digest, err error) {
	keys := make(map[string]digest.Digest, len(contents))
	for _, dgst := range contents {
		key, err := s.blobKey(dgst)
		if err != nil {
			return nil, err
		}
		keys[key] = dgst
	}
	if !s.oneByOne.Load() {
		gone, err = s.deleteBatch(ctx, keys)
		failed, _ := errors.AsType[*Error](err)
		if failed == nil || failed.Reason != Unsupported && failed.Status != http.StatusMethodNotAllowed {
			return gone, err
		}
		s.oneByOne.Store(true)
	}
	for key, dgst := range keys {
		if err := s.call(ctx, opDelete, func(ctx context.Context) error {
			return s.client.RemoveObject(ctx, s.opts.Bucket, key, minio.RemoveObjectOptions{})
		}); err != nil {
			return gone, err
		}
		s.gone(dgst)
		gone = append(gone, dgst)
	}
	return gone, nil
}

// deleteBatch removes objects with one request. Keys that the answer does not name are not
// gone, and those that were not asked for are left out.
func (s *Store) deleteBatch(ctx context.Context, keys map[string]digest.Digest) (gone []digest.Digest, err error) {
	asked := func(yield func(minio.ObjectInfo) bool) {
		for key := range keys {
			if !yield(minio.ObjectInfo{Key: key}) {
				return
			}
		}
	}
	err = s.call(ctx, opDelete, func(ctx context.Context) error {
		results, err := s.client.RemoveObjectsWithIter(ctx, s.opts.Bucket, asked, minio.RemoveObjectsOptions{})
		if err != nil {
			return err
		}
		var failure error
		for result := range results {
			if result.Err != nil {
				if failure == nil {
					failure = result.Err
				}
				continue
			}
			dgst, ok := keys[result.ObjectName]
			if !ok {
				continue
			}
			delete(keys, result.ObjectName) // it may be named twice
			s.gone(dgst)
			gone = append(gone, dgst)
		}
		return failure
	})
	return gone, err
}

// Notes are small objects by which mirrors agree about the removal of content.
type Notes struct{ store *Store }

// Notes returns the notes in the bucket.
func (s *Store) Notes() *Notes { return &Notes{s} }

// Read returns a note, and when it was written. It returns storage.ErrTooLarge if the note has
// more than limit bytes.
func (n *Notes) Read(ctx context.Context, name string, limit int64) (document []byte, written time.Time, err error) {
	document, object, err := n.read(ctx, name, limit)
	if ReasonOf(err) == Bounds {
		err = fmt.Errorf("%w: %w", storage.ErrTooLarge, err)
	}
	return document, n.store.local(object.LastModified), err
}

func (n *Notes) read(ctx context.Context, name string, limit int64) (document []byte, object minio.ObjectInfo, err error) {
	s := n.store
	err = s.call(ctx, opRead, func(ctx context.Context) error {
		var stream io.ReadCloser
		stream, object, _, err = s.client.GetObject(ctx, s.opts.Bucket, s.below(evictionName)+name, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer stream.Close()
		if object.Size < 0 || object.Size > limit {
			return fmt.Errorf("%w: a note of %d bytes", errTooLong, object.Size)
		}
		// Memory is for bytes that came, not for those that were announced.
		document, err = io.ReadAll(io.LimitReader(stream, object.Size))
		if err == nil && int64(len(document)) < object.Size {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	return document, object, err
}

// Write writes a note.
func (n *Notes) Write(ctx context.Context, name string, document []byte) error {
	return n.store.putSmall(ctx, opWrite, n.store.below(evictionName)+name, document, false)
}

// Remove removes a note. It succeeds if there is none.
func (n *Notes) Remove(ctx context.Context, name string) error {
	return n.store.call(ctx, opDelete, func(ctx context.Context) error {
		return n.store.client.RemoveObject(ctx, n.store.opts.Bucket, n.store.below(evictionName)+name, minio.RemoveObjectOptions{})
	})
}

// noteName is the grammar of the names in a folder. Other keys there belong to other programs.
var noteName = sync.OnceValue(func() *regexp.Regexp { // compiled if there is a bucket
	return regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)
})

// List lists the notes of a folder. The time of an entry is when it was written, by the clock
// of this machine.
func (n *Notes) List(ctx context.Context, folder string) iter.Seq2[storage.RecordEntry, error] {
	return func(yield func(storage.RecordEntry, error) bool) {
		root := n.store.below(evictionName)
		for object, err := range n.store.list(ctx, root+folder+"/") {
			if err != nil {
				yield(storage.RecordEntry{}, err)
				return
			}
			name := strings.TrimPrefix(object.Key, root)
			entry := storage.RecordEntry{Key: name, Size: object.Size, Used: n.store.local(object.LastModified)}
			if noteName().MatchString(strings.TrimPrefix(name, folder+"/")) && !yield(entry, nil) {
				return
			}
		}
	}
}
