package namespace

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// A namespace with Prefetch downloads the layers of an image ahead of its clients. A request
// for a manifest starts nothing: many programs read manifests alone. The download of a whole
// blob starts it, if that is a layer of a manifest which a client has read here: this is a
// pull, and the client, which fetches some layers at a time, will ask for the others. One job
// for each manifest downloads them one after the other, in the order of the manifest.
//
// No request upstream is made that the pull would not make: layers that are stored, or on their
// way, are left to the client, with all proofs that they need. The job ends with the
// first failure.

const (
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

// noteServed remembers that a client has read a manifest.
func (n *Namespace) noteServed(repo storage.RepoID, manifest digest.Digest) {
	if !n.prefetches() {
		return
	}
	before, _ := n.cache.served.Get(repo)
	if len(before) > 0 && before[0] == manifest {
		return
	}
	served := append(make([]digest.Digest, 0, maxServed), manifest)
	for _, other := range before {
		if other != manifest && len(served) < maxServed {
			served = append(served, other)
		}
	}
	n.cache.served.Add(repo, served)
}

// prefetchBeside starts the prefetch of the layers beside a blob that begins to be downloaded,
// if it is one of an image that a client has read. A request that has come through another
// mirror starts none: the two could wait for each other.
func (n *Namespace) prefetchBeside(ctx context.Context, repo storage.RepoID, blob digest.Digest) {
	if !n.prefetches() || n.mayLoop(ctx) {
		return
	}
	served, _ := n.cache.served.Get(repo)
	for _, manifest := range served {
		body := n.stored(ctx, manifest)
		// Most manifests do not list the blob, and need not be decoded for that to show.
		if !bytes.Contains(body, []byte(blob.Encoded())) {
			continue
		}
		links, err := oci.References(body)
		if err != nil {
			continue
		}
		layers := links.Layers
		for _, layer := range layers {
			if layer.Digest == blob {
				// If the pool has no place, the client fetches its layers itself.
				n.cache.prefetchPool.Submit(prefetching{repo, manifest}, func(ctx context.Context) error {
					return n.prefetchLayers(ctx, repo, layers)
				})
				return
			}
		}
	}
}

// prefetchLayers downloads the layers that are not here and not on their way, in order.
func (n *Namespace) prefetchLayers(ctx context.Context, repo storage.RepoID, layers []ocispec.Descriptor) error {
	for _, layer := range layers {
		// A "not found" is remembered, or the store takes nothing, or has no room for it.
		if isForeign(layer) || n.cache.negativeHit(ctx, blobKey(repo, layer.Digest)) != nil {
			continue
		}
		if n.cache.content.Err() != nil || !n.cache.spools.Fits(n.Key(), layer.Size) {
			return nil
		}
		if err := n.prefetchLayer(ctx, repo, layer); err != nil {
			return err
		}
	}
	return nil
}

func (n *Namespace) prefetchLayer(ctx context.Context, repo storage.RepoID, layer ocispec.Descriptor) error {
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
	n.cache.ahead.begin(key, time.Now())
	began, err := n.cache.downloads.Prefetch(ctx, layer.Digest, source)
	if !began || err != nil {
		n.cache.ahead.asked(key)
	}
	if ctx.Err() != nil { // the mirror ends
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

// begin watches a layer whose prefetch begins.
func (a *ahead) begin(key aheadKey, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.layers == nil {
		a.layers = make(map[aheadKey]aheadLayer)
	}
	layer := aheadLayer{key: key, since: now}
	a.layers[key] = layer
	a.order = append(a.order, layer)
	a.expire(now)
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
