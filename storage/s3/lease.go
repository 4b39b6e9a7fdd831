package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/weirhq/weir/storage"
)

const (
	leaseName = "lease"
	// maxLease bounds a lease, which another program may have written.
	maxLease = 1 << 10
)

// Lease is a lease that mirrors hold in turn: an object that its holder writes again and
// again. One that has not changed for a while is over. Each mirror measures that by itself, so
// no clocks are compared. Writes are conditional (If-None-Match, If-Match). At servers that
// ignore conditions two mirrors may believe for a moment that they hold it.
type Lease struct {
	notes  *Notes
	holder string

	mu    sync.Mutex
	turn  int
	held  bool
	seen  []byte    // that of another mirror
	since time.Time // seen is the same since then
}

// NewLease returns the lease of the bucket's eviction.
func (s *Store) NewLease() *Lease { return &Lease{notes: s.Notes(), holder: rand.Text()} }

// Hold takes the lease or renews it. It reports false if another mirror has it.
func (l *Lease) Hold(ctx context.Context, life time.Duration) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	document, object, err := l.notes.read(ctx, leaseName, maxLease)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return l.write(ctx, "")
	case ReasonOf(err) == Bounds: // no lease of ours
		document = []byte(object.ETag)
	case err != nil:
		return false, err
	}
	// Also after a write whose answer was lost.
	if l.isOwn(document) {
		return l.write(ctx, object.ETag)
	}
	l.held = false
	if !bytes.Equal(document, l.seen) || l.since.IsZero() {
		l.seen, l.since = document, time.Now()
		return false, nil
	}
	if time.Since(l.since) < life {
		return false, nil
	}
	return l.write(ctx, object.ETag)
}

// write writes the lease in place of one that is known by its tag, or of none.
func (l *Lease) write(ctx context.Context, instead string) (bool, error) {
	s := l.notes.store
	taken := !l.held
	l.turn++
	document := fmt.Appendf(nil, "%s %d\n", l.holder, l.turn)
	put := func(conditional bool) error {
		return s.call(ctx, opWrite, func(ctx context.Context) error {
			opts := minio.PutObjectOptions{ContentType: "text/plain", DisableMultipart: true}
			switch {
			case !conditional:
			case instead == "":
				opts.SetMatchETagExcept("*")
			default:
				opts.SetMatchETag(instead)
			}
			_, err := s.client.Client.PutObject(ctx, s.opts.Bucket, s.below(evictionName)+leaseName, bytes.NewReader(document), int64(len(document)), opts)
			return err
		})
	}
	err := put(!s.unconditional.Load())
	if ReasonOf(err) == Unsupported {
		s.unconditional.Store(true)
		err = put(false)
	}
	switch {
	case ReasonOf(err) == Conflict, errors.Is(err, storage.ErrNotExist): // another mirror was faster
		l.held, l.since = false, time.Time{}
		return false, nil
	case err != nil:
		return false, err
	}
	if taken {
		// A server that ignores conditions lets several mirrors write.
		document, _, err = l.notes.read(ctx, leaseName, maxLease)
	}
	l.held = err == nil && l.isOwn(document)
	return l.held, err
}

// isOwn reports whether a lease is one of this process.
func (l *Lease) isOwn(document []byte) bool { return bytes.HasPrefix(document, []byte(l.holder+" ")) }

// Release gives the lease back, if this mirror has it.
func (l *Lease) Release(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held {
		return
	}
	document, _, err := l.notes.read(ctx, leaseName, maxLease)
	if err == nil && l.isOwn(document) {
		err = l.notes.Remove(ctx, leaseName)
	}
	if err != nil {
		l.notes.store.logger.Debug("cannot release the lease for evictions from the bucket. It expires by itself", "error", err)
	}
	l.held = false
}
