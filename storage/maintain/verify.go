// Package maintain verifies and evicts the content of a store that another
// process may serve from.
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

// VerifyOptions say how [Verify] goes about it.
type VerifyOptions struct {
	// Jobs is how many contents are read at once; 0 means 2, which leaves the
	// disk to those who serve from it.
	Jobs int
	// Quarantine takes a corrupt content out of the store and returns where it
	// is now, or ErrNotExist when it has gone by itself.
	Quarantine func(ctx context.Context, dgst digest.Digest) (path string, err error)
	// Progress, when set, is told how much has been gone through so far, wrong
	// or not. Calls do not overlap.
	Progress func(Amount)
}

// Amount is some contents, and their bytes together.
type Amount struct{ Objects, Bytes int64 }

// Finding is a content with which something is wrong.
type Finding struct {
	storage.Info
	// Err matches ErrCorrupt when the content is not that of its digest. It is
	// the store's error when it could not be read, and then nothing was done
	// about it.
	Err error
	// Path is where a corrupt content was put; empty when Err says that this
	// failed.
	Path string
}

// VerifyReport is what [Verify] found.
type VerifyReport struct {
	Verified Amount    // what is right
	Wrong    []Finding // in the order of their digests
}

// Verify reads every content of a store, compares it with its digest, and
// quarantines what is corrupt. What comes or goes meanwhile is no concern: a
// content that has been evicted is not missed. Where a content is replaced
// between its reading and its quarantine, the new one is quarantined in its
// stead, which costs a download.
//
// The error is the context's, or that of listing the store, and the report then
// covers what was read until then. That something is wrong with a content is no
// error.
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
		failure = err // also where the last contents were listed before it ended
	}
	return v.report, failure
}

// verifyBuffer is how many bytes are read and hashed at a time.
const verifyBuffer = 256 << 10

// verification is one run of Verify.
type verification struct {
	store storage.Store
	opts  VerifyOptions

	mu     sync.Mutex
	gone   Amount // through
	report VerifyReport
}

// check reads one content. It says nothing about one that has gone, or whose
// reading the context ended.
func (v *verification) check(ctx context.Context, listed storage.Info, buf []byte) {
	object, err := v.store.Open(ctx, listed.Digest)
	if errors.Is(err, storage.ErrNotExist) || ctx.Err() != nil {
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
	case ctx.Err() != nil:
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

// hash returns the digest of what an object holds, unless the context ends.
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
	if errors.Is(err, storage.ErrNotExist) {
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
	v.gone.Objects += by.Objects
	v.gone.Bytes += by.Bytes
	if v.opts.Progress != nil {
		v.opts.Progress(v.gone)
	}
}
