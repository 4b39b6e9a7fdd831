package namespace

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
)

// A namespace with Prefetch downloads the layers of an image ahead of its clients. A request
// for a manifest starts nothing: many programs read manifests alone. The download of a whole
// blob starts it, if that is a layer of a manifest which a client has read here: this is a
// pull, and the client, which fetches some layers at a time, will ask for the others. One job
// for each manifest downloads them in the order of the manifest, three at a time.
//
// No request upstream is made that the pull would not make: layers that are stored, or on their
// way, are left to the client, with all proofs that they need. After the first failure the job
// begins no further layer.

const (
	// prefetchedAtOnce is how many layers a job downloads at once, as many as Docker does. If
	// clients have joined all of them, as many are under way as the clients alone would have.
	// Small layers are then here before the last segments of a large one, which fill the line.
	prefetchedAtOnce = 3
	// maxServed is how many manifests of a repository are remembered: clients pull few tags
	// of one at a time.
	maxServed = 8
	// servedSize is the memory of a digest, with the longest hash.
	servedSize = 152
	// unusedAfter is how long a prefetched layer is expected to be asked for.
	unusedAfter = time.Hour
	// maxAhead bounds the layers that are watched for that time.
	maxAhead = 8192
)

// prefetching is the key of the job that prefetches the layers of a manifest.
type prefetching struct {
	repo     storage.RepoID
	manifest digest.Digest
}

func (p prefetching) Block() string { return p.repo.Namespace }

func (p prefetching) String() string {
	return "prefetch the layers of " + p.manifest.String() + " of " + p.repo.String()
}

// prefetches reports whether the namespace prefetches. Where the rights of clients decide, the
// right to one layer is none to another.
func (n *Namespace) prefetches() bool {
	return n.spec.Prefetch && !n.spec.OnBehalf && !n.spec.Offline
}

// servedManifest is a manifest that a client has read.
type servedManifest struct {
	digest digest.Digest
	// begun says that a job has downloaded its layers since, or is about to.
	begun bool
}

// noteServed remembers that a client has read a manifest.
func (n *Namespace) noteServed(repo storage.RepoID, manifest digest.Digest) {
	if !n.prefetches() {
		return
	}
	latest := servedManifest{digest: manifest}
	if before, _ := n.cache.served.Get(repo); len(before) > 0 && before[0] == latest {
		return
	}
	n.cache.serving.Lock()
	defer n.cache.serving.Unlock()
	before, _ := n.cache.served.Get(repo)
	served := append(make([]servedManifest, 0, maxServed), latest)
	for _, other := range before {
		if other.digest != manifest && len(served) < maxServed {
			served = append(served, other)
		}
	}
	n.cache.served.Add(repo, served)
}

// noteBegun notes whether the layers of a manifest are being downloaded: later ones of them
// need no look at it.
func (n *Namespace) noteBegun(repo storage.RepoID, manifest digest.Digest, begun bool) {
	n.cache.serving.Lock()
	defer n.cache.serving.Unlock()
	before, _ := n.cache.served.Get(repo)
	served := slices.Clone(before) // others read it without the lock
	for i := range served {
		if served[i].digest == manifest {
			served[i].begun = begun
			n.cache.served.Add(repo, served)
		}
	}
}

// prefetchBeside starts the prefetch of the other layers of a blob that begins to be downloaded,
// if it is one of an image that a client has read. A request that has come through another
// mirror starts none: the two could wait for each other.
func (n *Namespace) prefetchBeside(ctx context.Context, repo storage.RepoID, blob digest.Digest) {
	if !n.prefetches() || n.mayLoop(ctx) {
		return
	}
	wanted := n.cache.removals.unchanged(repo)
	served, _ := n.cache.served.Get(repo)
	for _, manifest := range served {
		if manifest.begun {
			continue
		}
		body := n.stored(ctx, manifest.digest)
		// Most manifests do not list the blob, and need not be decoded for that to show.
		if !bytes.Contains(body, []byte(blob.Encoded())) {
			continue
		}
		links, err := oci.References(body)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(links.Layers, func(layer ocispec.Descriptor) bool { return layer.Digest == blob }) {
			n.beginPrefetch(prefetching{repo, manifest.digest}, links.Layers, wanted)
			return
		}
	}
}

// beginPrefetch starts the job that prefetches the layers of a manifest. If the pool has no
// place, the client fetches its layers itself. The job ends when the image is no longer wanted.
func (n *Namespace) beginPrefetch(image prefetching, layers []ocispec.Descriptor, wanted func() bool) {
	n.noteBegun(image.repo, image.manifest, true)
	submitted := n.cache.prefetchPool.Submit(image, func(ctx context.Context) error {
		all, err := n.prefetchLayers(ctx, image.repo, layers, wanted)
		if !all {
			n.noteBegun(image.repo, image.manifest, false)
		}
		return err
	})
	if !submitted {
		n.noteBegun(image.repo, image.manifest, false)
	}
}

// prefetchLayers downloads the layers that are not here and not on their way, in order. It
// reports whether it left none out that a later request may bring.
func (n *Namespace) prefetchLayers(ctx context.Context, repo storage.RepoID, layers []ocispec.Descriptor, wanted func() bool) (all bool, err error) {
	var running errgroup.Group
	running.SetLimit(prefetchedAtOnce)
	var failed, leftOut atomic.Bool
	for _, layer := range layers {
		running.Go(func() error {
			if isForeign(layer) {
				return nil
			}
			if failed.Load() || !wanted() || !n.mayPrefetch(ctx, repo, layer) {
				leftOut.Store(true)
				return nil
			}
			err := n.prefetchLayer(ctx, repo, layer, wanted)
			failed.Store(failed.Load() || err != nil)
			return err
		})
	}
	err = running.Wait()
	return err == nil && !leftOut.Load() && ctx.Err() == nil, err
}

// mayPrefetch reports whether a layer is worth a download: no "not found" is remembered, and the
// store works and has room for it.
func (n *Namespace) mayPrefetch(ctx context.Context, repo storage.RepoID, layer ocispec.Descriptor) bool {
	return n.cache.negativeHit(ctx, blobKey(repo, layer.Digest)) == nil &&
		n.cache.content.Err() == nil && n.cache.spools.Fits(n.Key(), layer.Size)
}

func (n *Namespace) prefetchLayer(ctx context.Context, repo storage.RepoID, layer ocispec.Descriptor, wanted func() bool) error {
	link, _ := n.link(ctx, repo, layer.Digest)
	source := n.source(ctx, repo, layer.Digest)
	source.Size, source.Lent = link.Size, n.cache.lent(repo, layer.Digest)
	var size int64
	verified := source.Verified
	source.Verified = func(info storage.Info, proven bool) {
		size = info.Size
		verified(info, proven)
	}
	key := aheadKey{n.Key(), layer.Digest}
	first := n.cache.ahead.begin(key, time.Now())
	began, err := n.cache.downloads.Prefetch(ctx, layer.Digest, source, wanted)
	if first && (!began || err != nil) {
		n.cache.ahead.asked(key)
	}
	if ctx.Err() != nil || errors.Is(err, download.ErrForgotten) { // the mirror ends, or the image is removed
		return nil
	}
	if err != nil {
		n.rememberNegative(ctx, blobKey(repo, layer.Digest), err) // so that a client does not ask again
		return err
	}
	if !began {
		return nil
	}
	n.cache.ahead.end(key, size)
	return nil
}

// isForeign reports whether clients fetch a layer from elsewhere, or not at all (image-spec,
// "Non-Distributable Layers").
func isForeign(layer ocispec.Descriptor) bool {
	return len(layer.URLs) > 0 || strings.Contains(layer.MediaType, "foreign") || strings.Contains(layer.MediaType, "nondistributable")
}

// aheadKey is a layer that was prefetched for a block.
type aheadKey struct {
	block  string
	digest digest.Digest
}

// ahead watches prefetched layers until a client asks for them. Its zero value is ready to use.
type ahead struct {
	blocks sync.Map     // from the key of a block to its *aheadBytes; they outlive a change of the configuration
	number atomic.Int64 // of layers

	mu     sync.Mutex
	layers map[aheadKey]aheadLayer
	order  []aheadLayer // the oldest first, with those that have been asked for
}

// aheadLayer is a layer that no client has asked for.
type aheadLayer struct {
	key   aheadKey
	since time.Time
	size  int64
}

// aheadBytes count the bytes of prefetched layers, and of those that no client asked for.
type aheadBytes struct{ all, unused atomic.Int64 }

func (a *ahead) of(block string) *aheadBytes {
	counts, ok := a.blocks.Load(block)
	if !ok {
		counts, _ = a.blocks.LoadOrStore(block, new(aheadBytes))
	}
	return counts.(*aheadBytes)
}

// begin watches a layer whose prefetch begins. It reports false if the layer is watched already,
// since another image has it too.
func (a *ahead) begin(key aheadKey, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(now)
	if _, ok := a.layers[key]; ok {
		return false
	}
	if a.layers == nil {
		a.layers = make(map[aheadKey]aheadLayer)
	}
	layer := aheadLayer{key: key, since: now}
	a.layers[key] = layer
	a.order = append(a.order, layer)
	a.expire(now) // one too many
	return true
}

// end counts a layer that has been prefetched.
func (a *ahead) end(key aheadKey, size int64) {
	a.of(key.block).all.Add(size)
	a.mu.Lock()
	defer a.mu.Unlock()
	if layer, ok := a.layers[key]; ok { // else a client has asked for it meanwhile
		layer.size = size
		a.layers[key] = layer
	}
}

// asked ends the watch of a layer.
func (a *ahead) asked(key aheadKey) {
	if a.number.Load() == 0 { // most mirrors have nothing to watch most of the time
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.layers, key)
	a.number.Store(int64(len(a.layers)))
}

// expire counts layers as unused whose time is over, or that are too many. The caller holds
// the mutex.
func (a *ahead) expire(now time.Time) {
	for len(a.order) > 0 && (len(a.order) > maxAhead || now.Sub(a.order[0].since) >= unusedAfter) {
		oldest := a.order[0]
		a.order = a.order[1:]
		if layer, ok := a.layers[oldest.key]; ok && layer.since.Equal(oldest.since) {
			a.of(layer.key.block).unused.Add(layer.size)
			delete(a.layers, layer.key)
		}
	}
	a.number.Store(int64(len(a.layers)))
}

// counts returns the bytes of a block that were prefetched, and of these the ones that no client
// has asked for in time.
func (a *ahead) counts(block string) (all, unused int64) {
	a.mu.Lock()
	a.expire(time.Now())
	a.mu.Unlock()
	bytes := a.of(block)
	return bytes.all.Load(), bytes.unused.Load()
}
