// Package maintain verifies and evicts the content of a store that another
// process may serve from, and imports content into it.
package maintain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// VerifyOptions configure [Verify].
type VerifyOptions struct {
	// Jobs is how many blobs are read at once; 0 means 2, which leaves most
	// of the disk to the process that serves from it.
	Jobs int
	// Quarantine takes a corrupt blob out of the store and returns its new
	// path, or ErrNotExist if it is gone already.
	Quarantine func(ctx context.Context, dgst digest.Digest) (path string, err error)
	// Progress, if set, is called with the total checked so far, including
	// corrupt content. Calls do not overlap.
	Progress func(Amount)
}

// Amount counts objects, and their bytes together.
type Amount struct{ Objects, Bytes int64 }

// Finding is content that is corrupt or unreadable.
type Finding struct {
	storage.Info
	// Err matches ErrCorrupt if the content does not match its digest. It is the
	// store's error if the content could not be read; such content stays.
	Err error
	// Path is the place of a quarantined blob; empty if Err says that the
	// quarantine failed.
	Path string
}

// VerifyReport is the result of [Verify].
type VerifyReport struct {
	Verified Amount    // content that matches its digest
	Wrong    []Finding // in the order of their digests
}

// Verify reads every content of a store, compares it with its digest, and
// quarantines corrupt content. Content may come and go meanwhile: evicted content
// is not reported. If a blob is replaced between its reading and its
// quarantine, the new one is quarantined, which costs a download.
//
// The error is the context's, or that of listing the store; the report then covers
// the content that was read before. Corrupt content is not an error.
func Verify(ctx context.Context, store storage.Store, opts VerifyOptions) (VerifyReport, error) {
	if opts.Jobs <= 0 {
		opts.Jobs = 2
	}
	v := &verification{store: store, opts: opts}
	entries := make(chan storage.Entry)
	var workers sync.WaitGroup
	for range opts.Jobs {
		workers.Go(func() {
			buf := make([]byte, verifyBuffer)
			for entry := range entries {
				v.check(ctx, entry.Info, buf)
			}
		})
	}
	var failure error
	for entry, err := range store.All(ctx) {
		if err != nil {
			failure = err
			break
		}
		entries <- entry
	}
	close(entries)
	workers.Wait()
	slices.SortFunc(v.report.Wrong, func(a, b Finding) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	if err := context.Cause(ctx); err != nil {
		failure = err // also if the list was complete before it ended
	}
	return v.report, failure
}

// verifyBuffer is how many bytes are read and hashed at a time; larger buffers
// are not faster.
const verifyBuffer = 256 << 10

// verification is one run of Verify.
type verification struct {
	store storage.Store
	opts  VerifyOptions

	mu     sync.Mutex
	done   Amount // checked so far
	report VerifyReport
}

// check reads one blob. It reports nothing about content that is gone, or if
// the context ends.
func (v *verification) check(ctx context.Context, listed storage.Info, buf []byte) {
	object, err := v.store.Open(ctx, listed.Digest)
	gone := errors.Is(err, storage.ErrNotExist) && !errors.Is(err, storage.ErrUnreadable)
	if gone || ctx.Err() != nil { // evicted since it was listed
		if err == nil {
			object.Content.Close()
		}
		return
	}
	if err != nil {
		v.found(Finding{Info: listed, Err: err})
		return
	}
	got, err := v.hash(ctx, object, buf)
	object.Content.Close()
	switch {
	case ctx.Err() != nil: // the digest is that of a part
	case err != nil:
		v.found(Finding{Info: object.Info, Err: err})
	case got != listed.Digest:
		v.quarantine(ctx, object.Info, fmt.Errorf("%w: they have digest %s", storage.ErrCorrupt, got))
	default:
		v.mu.Lock()
		defer v.mu.Unlock()
		v.report.Verified.add(object.Size, 1)
		v.advance(Amount{Objects: 1})
	}
}

// hash returns the digest of an object's bytes. If the context ends, it is the
// digest of a part.
func (v *verification) hash(ctx context.Context, object *storage.Object, buf []byte) (digest.Digest, error) {
	hash := object.Digest.Algorithm().Hash()
	for ctx.Err() == nil {
		n, err := object.Content.Read(buf)
		hash.Write(buf[:n])
		v.mu.Lock()
		v.advance(Amount{Bytes: int64(n)})
		v.mu.Unlock()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return digest.NewDigest(object.Digest.Algorithm(), hash), nil
}

func (v *verification) quarantine(ctx context.Context, info storage.Info, why error) {
	path, err := v.opts.Quarantine(ctx, info.Digest)
	if errors.Is(err, storage.ErrNotExist) { // evicted since it was read
		return
	}
	if err != nil {
		why = fmt.Errorf("%w; %w", why, err)
	}
	v.found(Finding{Info: info, Err: why, Path: path})
}

func (v *verification) found(f Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Wrong = append(v.report.Wrong, f)
	v.advance(Amount{Objects: 1})
}

// advance reports progress. The caller holds the mutex.
func (v *verification) advance(by Amount) {
	v.done.Objects += by.Objects
	v.done.Bytes += by.Bytes
	if v.opts.Progress != nil {
		v.opts.Progress(v.done)
	}
}
