// Package warm brings all that belongs to an image into a cache: the manifest
// that a reference names, the manifests of an index, their configurations and
// layers, and what refers to any of them, such as signatures.
//
// [Image] is the walk. What it walks over it reads through a [Source], which
// stands for one repository: of a running mirror over HTTP, or of the mirror's
// own cache. The walk trusts none of what it reads: manifests are compared with
// their digests, and numbers, sizes and depths are bounded.
package warm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// maxManifest is the size of the largest manifest that is read, in bytes.
	maxManifest = 32 << 20
	// maxBlob is the size of the largest blob that is believed in, in bytes.
	maxBlob = 1 << 40
	// maxManifests and maxBlobs are how many of them one image may have.
	maxManifests = 1000
	maxBlobs     = 10000
	// maxNesting is how deep indexes lie in one another.
	maxNesting = 4
	// maxReferring is how long a chain of referrers is followed: a signature of
	// an image, and what refers to that signature.
	maxReferring = 2
	// maxFailures is after how many failures an image is given up.
	maxFailures = 10
)

// Source is one repository that a cache stands before. Its methods are called
// concurrently. Their errors need not name what was asked for.
type Source interface {
	// Manifest returns the manifest that a tag or a digest names, which is in
	// the cache from then on.
	Manifest(ctx context.Context, reference string) (Manifest, error)
	// Referrers returns what refers to a manifest.
	Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Blob returns when a blob is in the cache as a whole, and reports whether
	// it was there before. Probably is whether that is to be expected. Arrived
	// may be called with the number of bytes that have come so far.
	Blob(ctx context.Context, blob ocispec.Descriptor, probably bool, arrived func(bytes int64)) (there bool, err error)
}

// Manifest is a manifest that was read.
type Manifest struct {
	Body  []byte
	There bool // it was in the cache before
	// Stale says, in words, that the upstream did not confirm that this is
	// what the tag names now. It is empty where all is well.
	Stale string
}

// ReadManifest reads the body of a manifest, which must not be larger than a
// manifest can be.
func ReadManifest(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(body) > maxManifest {
		err = fmt.Errorf("is larger than %d MiB, which no manifest is", maxManifest>>20)
	}
	return body, err
}

// Options say what of an image is wanted.
type Options struct {
	// Platforms are those wanted of an index; none means all. Manifests that
	// name no platform are always wanted: attestations, for instance.
	Platforms []ocispec.Platform
	// Referrers is whether signatures and the like are wanted, too.
	Referrers bool
	// Jobs is how many requests may be under way at once.
	Jobs int
	// Progress, when set, is told of every step, by one goroutine at a time.
	Progress func(Progress)
}

// Amount is a number of contents and their size.
type Amount struct{ Objects, Bytes int64 }

func (a *Amount) add(bytes int64) {
	a.Objects++
	a.Bytes += bytes
}

// Plus returns the sum of two amounts.
func (a Amount) Plus(b Amount) Amount { return Amount{a.Objects + b.Objects, a.Bytes + b.Bytes} }

// Progress is how far an image has come. What it has in all grows until all of
// its manifests are known.
type Progress struct{ Done, Total Amount }

// Result is what became of an image.
type Result struct {
	Digest     digest.Digest // what the reference names; empty where that failed
	New, There Amount        // what was brought, and what was in the cache before
	Failed     []error       // what is not in the cache, and why; each names a content
}

// Image brings an image into the cache, as far as that is possible: what fails
// does not keep the rest from coming. When the context ends, its cause is the
// last of the failures.
func Image(ctx context.Context, src Source, reference string, opts Options) Result {
	opts.Jobs = max(opts.Jobs, 1)
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &walk{src: src, opts: opts, cancel: cancel, seen: make(map[digest.Digest]bool)}
	w.manifests(limited, reference)
	w.blobs(limited)
	if limited.Err() != nil {
		w.result.Failed = append(w.result.Failed, context.Cause(limited))
	}
	return w.result
}

var errGivenUp = errors.New("given up after so many failures")

// walk is the state of one Image.
type walk struct {
	src    Source
	opts   Options
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	seen     map[digest.Digest]bool // manifests and blobs that are taken
	taken    int                    // manifests among them
	queue    []blob
	offered  []string // platforms of the image's indexes
	matched  bool     // one of them was wanted
	progress Progress
	result   Result
}

type blob struct {
	ocispec.Descriptor
	probably bool // it is in the cache, as the manifest that names it was
}

// manifests reads all manifests, those of one level at once.
func (w *walk) manifests(ctx context.Context, reference string) {
	for level := []node{{reference: reference}}; len(level) > 0 && ctx.Err() == nil; {
		next := make([][]node, len(level))
		w.each(ctx, len(level), func(i int) { next[i] = w.visit(ctx, level[i]) })
		level = nil
		for _, nodes := range next {
			level = append(level, nodes...)
		}
	}
	if len(w.offered) > 0 && !w.matched {
		w.fail(ctx, fmt.Errorf("%s has none of the platforms that are wanted (%s), only %s", reference, names(w.opts.Platforms), list(w.offered)))
	}
}

// blobs brings all blobs.
func (w *walk) blobs(ctx context.Context) {
	w.each(ctx, len(w.queue), func(i int) { w.bring(ctx, w.queue[i]) })
}

// each calls f for 0 to n-1, as many at once as is allowed, and stops when the
// context ends.
func (w *walk) each(ctx context.Context, n int, f func(i int)) {
	var group errgroup.Group
	group.SetLimit(w.opts.Jobs)
	for i := range n {
		group.Go(func() error {
			if ctx.Err() == nil { // it may have ended while this waited for its turn
				f(i)
			}
			return nil
		})
	}
	_ = group.Wait()
}

func (w *walk) bring(ctx context.Context, b blob) {
	var arrived int64
	step := func(bytes int64) {
		w.advance(func(p *Progress) { p.Done.Bytes += bytes - arrived })
		arrived = bytes
	}
	there, err := w.src.Blob(ctx, b.Descriptor, b.probably, step)
	if err != nil {
		w.fail(ctx, fmt.Errorf("blob %s: %w", b.Digest, err))
		return
	}
	step(b.Size)
	w.done(b.Size, there)
}

// done counts a content that is in the cache now. Its bytes have been told.
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

// advance changes the progress and tells of it.
func (w *walk) advance(change func(*Progress)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.progress)
	if w.opts.Progress != nil {
		w.opts.Progress(w.progress)
	}
}

// fail keeps a failure, unless it only comes of the context's end.
func (w *walk) fail(ctx context.Context, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	w.result.Failed = append(w.result.Failed, err)
	if len(w.result.Failed) == maxFailures {
		w.cancel(errGivenUp)
	}
}

// Err returns the failures in one line, or nil where there are none.
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
