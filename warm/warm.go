// Package warm pulls everything that belongs to an image into a cache: the
// manifest of a reference, the manifests of an index, their configurations and
// layers, and the referrers of each manifest, such as signatures. Content that the
// registry lacks and that clients can do without is left out (see [Result]).
//
// [Image] is the walk. It reads through a [Source], which stands for one
// repository: of a running mirror over HTTP, or of the mirror's own cache. The
// walk does not trust its source: manifests are verified against their digests,
// and numbers, sizes and depths are bounded.
package warm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/oci"
)

// The bounds of one image. They are far above those of real images, and low
// enough that a hostile upstream cannot fill the memory or the disk.
const (
	// maxBlob is the largest blob, in bytes. The largest model layers have
	// some hundred GiB.
	maxBlob = 1 << 40
	// maxManifests and maxBlobs bound how many manifests and blobs an image
	// has, with its referrers.
	maxManifests = 1000
	maxBlobs     = 10000
	// maxNesting is how many indexes a manifest may lie in. Tools make one, or
	// two for an index of indexes.
	maxNesting = 4
	// maxReferring is how long a chain of referrers may be: an SBOM of an image,
	// and the signature of that SBOM.
	maxReferring = 2
	// maxFailures is the number of failures after which an image is abandoned.
	maxFailures = 10
)

// Source is one repository behind a cache. Its methods are called concurrently.
// Their errors need not name the content. [NotFound] marks those that say that the
// registry does not have it.
type Source interface {
	// Manifest returns the manifest of a tag or a digest, which is in the cache
	// from then on.
	Manifest(ctx context.Context, ref oci.Reference) (Manifest, error)
	// Referrers returns the descriptors of the manifests that refer to a manifest.
	Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Blob returns when a blob is completely in the cache, and reports whether
	// it was there before. Likely is whether the caller expects that. Arrived
	// may be called with the number of bytes that have arrived so far.
	Blob(ctx context.Context, blob ocispec.Descriptor, likely bool, arrived func(bytes int64)) (there bool, err error)
}

// Manifest is a manifest that was read.
type Manifest struct {
	Body  []byte
	There bool // it was in the cache before
	// Stale says, in words, why the manifest may no longer be the tag's: the
	// upstream did not confirm it. It is empty if the manifest is current.
	Stale string
}

// Options select the content of an image.
type Options struct {
	// Platforms are the platforms wanted of an index; none means all. Manifests
	// without a platform are always wanted, such as attestations.
	Platforms []ocispec.Platform
	// Referrers is whether referrers are wanted too, such as signatures.
	Referrers bool
	// Jobs is how many requests may run at once; at least one does.
	Jobs int
	// MaxManifest is the largest manifest that is asked for, in bytes; 0 means
	// [oci.DefaultMaxManifest]. The source bounds the manifests that it reads.
	MaxManifest int64
	// Progress, if set, is called after each step, by one goroutine at a time.
	Progress func(Progress)
}

// Amount is a number of objects, manifests and blobs, and their size.
type Amount struct{ Objects, Bytes int64 }

func (a *Amount) add(bytes int64) {
	a.Objects++
	a.Bytes += bytes
}

// Plus returns the sum of two amounts.
func (a Amount) Plus(b Amount) Amount { return Amount{a.Objects + b.Objects, a.Bytes + b.Bytes} }

// Progress is how much of an image is in the cache. The total grows until all
// manifests are known.
type Progress struct{ Done, Total Amount }

// Result is the outcome of warming an image.
type Result struct {
	Digest     digest.Digest // of the reference's manifest; empty if that failed
	New, There Amount        // fetched, and in the cache before
	Failed     []error       // one for each object that is not in the cache; each names it
	// Notes name in a line each the content that the registry lacks, without a failure: some
	// of the manifests of an index, referrers, and layers with addresses of their own.
	Notes []string
}

// Image pulls an image into the cache. An object that fails does not keep the
// others from coming. If the context ends, its cause is the last of the failures.
func Image(ctx context.Context, src Source, ref oci.Reference, opts Options) Result {
	opts.Jobs = max(opts.Jobs, 1)
	opts.MaxManifest = cmp.Or(opts.MaxManifest, oci.DefaultMaxManifest)
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &walk{src: src, opts: opts, cancel: cancel, seen: make(map[digest.Digest]bool)}
	w.manifests(limited, ref)
	w.blobs(limited)
	w.result.Notes = w.missing.notes()
	if limited.Err() != nil { // the caller's cause, or errGivenUp
		w.result.Failed = append(w.result.Failed, context.Cause(limited))
	}
	return w.result
}

var errGivenUp = errors.New("stopped after too many failures")

// walk is the state of one Image.
type walk struct {
	src    Source
	opts   Options
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	seen     map[digest.Digest]bool // manifests and blobs that were taken
	taken    int                    // manifests among them
	queue    []blob                 // to fetch once all manifests are known
	offered  []string               // platforms of the image's indexes
	matched  bool                   // one of the offered platforms was wanted
	found    bool                   // a manifest of the image itself was read, and not only indexes
	missing  missing
	progress Progress
	result   Result
}

type blob struct {
	ocispec.Descriptor
	likely  bool // to be in the cache: its manifest was
	foreign bool // the registry need not have it
}

// manifests reads all manifests, level by level, those of a level concurrently.
func (w *walk) manifests(ctx context.Context, ref oci.Reference) {
	for level := []node{{ref: ref}}; len(level) > 0 && ctx.Err() == nil; {
		next := make([][]node, len(level))
		w.each(ctx, len(level), func(i int) { next[i] = w.visit(ctx, level[i]) })
		level = nil
		for _, nodes := range next {
			level = append(level, nodes...)
		}
	}
	if names := w.missing.children; len(names) > 0 && !w.found && len(w.result.Failed) == 0 {
		w.fail(ctx, fmt.Errorf("the registry lacks all manifests that %s names: %s", ref, list(names)))
		w.missing.children = nil // which the failure names
	}
	// An image without an index offers no platforms, and is taken as it is.
	if len(w.offered) > 0 && !w.matched {
		w.fail(ctx, fmt.Errorf("%s has none of the requested platforms (%s), only %s", ref, formatPlatforms(w.opts.Platforms), list(w.offered)))
	}
}

// blobs fetches all blobs.
func (w *walk) blobs(ctx context.Context) {
	w.each(ctx, len(w.queue), func(i int) { w.fetch(ctx, w.queue[i]) })
}

// each calls f for 0 to n-1, opts.Jobs at once, and stops when the context ends.
func (w *walk) each(ctx context.Context, n int, f func(i int)) {
	var group errgroup.Group
	group.SetLimit(w.opts.Jobs)
	for i := range n {
		group.Go(func() error {
			if ctx.Err() == nil { // it may have ended while this job waited
				f(i)
			}
			return nil
		})
	}
	_ = group.Wait() // no job returns an error
}

func (w *walk) fetch(ctx context.Context, b blob) {
	// A source that starts a blob again reports fewer bytes than before, so the
	// difference may be negative.
	var arrived int64
	step := func(bytes int64) {
		w.advance(func(p *Progress) { p.Done.Bytes += bytes - arrived })
		arrived = bytes
	}
	there, err := w.src.Blob(ctx, b.Descriptor, b.likely, step)
	if b.foreign && isNotFound(err) {
		w.missLayer(b)
		return
	}
	if err != nil {
		w.fail(ctx, fmt.Errorf("blob %s: %w", b.Digest, err))
		return
	}
	step(b.Size)
	w.done(b.Size, there)
}

// done counts an object that is in the cache now. Its bytes have been counted.
func (w *walk) done(bytes int64, there bool) {
	w.advance(func(p *Progress) {
		p.Done.Objects++
		if there {
			w.result.There.add(bytes)
		} else {
			w.result.New.add(bytes)
		}
	})
}

// advance changes the progress and reports it.
func (w *walk) advance(change func(*Progress)) {
	// The lock also keeps the reports in order.
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.progress)
	if w.opts.Progress != nil {
		w.opts.Progress(w.progress)
	}
}

// fail records a failure.
func (w *walk) fail(ctx context.Context, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return // the failure only follows from the end of the context
	}
	w.result.Failed = append(w.result.Failed, err)
	// An upstream that is down would otherwise cost one attempt for each blob.
	if len(w.result.Failed) == maxFailures {
		w.cancel(errGivenUp)
	}
}

// Err returns the failures in one line, or nil if there are none.
func (r Result) Err() error {
	if len(r.Failed) == 0 {
		return nil
	}
	texts := make([]string, len(r.Failed))
	for i, err := range r.Failed {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}
