package namespace

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// Replicas get a manifest from the upstream once. One of them has the turn to ask. The others
// wait until the manifest is where they can read it. In a bucket they read the link too: their
// right is that of the link, as it is later without a wait. Without one the first replica has
// proven the right of the repository with the whole manifest, a HEAD of each further replica
// confirms it, and the bytes come from the first one.

// Commons are the content that replicas share, and the links in a bucket.
type Commons interface {
	// Await waits until a blob of this replica, and the link of a repository to it if links
	// are shared, are there for all. It returns an error if that cannot be expected.
	Await(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error
	// Reread makes the next use of a link read it, if there was none at the last one.
	Reread(repo storage.RepoID, dgst digest.Digest)
	// Links reports whether links are shared.
	Links() bool
	// Lasting is for how long it is worth telling that a blob is there. With links it is
	// for how long a replica may remember that there is none.
	Lasting() time.Duration
	// Paused reports whether they are not used at the moment.
	Paused() bool
}

const (
	// shareTime is how long the other replicas wait until a manifest that one of them has
	// is shared: the patience for a record. Beyond, each asks by itself.
	shareTime = 3 * time.Second
	// slowPause is how long a replica takes no part after a manifest was not shared in time.
	slowPause = time.Minute
	// maxSharing bounds the manifests that are being shared. Beyond, each replica asks by itself.
	maxSharing = 256
)

// sharing is the work of sharing manifests in the background.
type sharing struct {
	commons Commons // nil: there are none
	logger  *slog.Logger

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	places  chan struct{}
	slow    atomic.Pointer[time.Time] // the end of the last slowPause
}

func newSharing(commons Commons, logger *slog.Logger) *sharing {
	ctx, stop := context.WithCancel(context.Background())
	return &sharing{commons: commons, logger: logger, ctx: ctx, stop: stop, places: make(chan struct{}, maxSharing)}
}

func (s *sharing) close() {
	s.stop()
	s.running.Wait()
}

// usable reports whether replicas wait for manifests of each other.
func (s *sharing) usable() bool {
	if s.commons == nil || s.commons.Paused() {
		return false
	}
	slow := s.slow.Load()
	return slow == nil || time.Now().After(*slow)
}

// slowed notes that a manifest was not shared in time.
func (s *sharing) slowed(dgst digest.Digest) {
	if !s.usable() {
		return // another one was late too
	}
	until := time.Now().Add(slowPause)
	s.slow.Store(&until)
	s.logger.Info("replicas did not share a manifest in time. Each one fetches manifests itself for a while", "digest", dgst, "limit", shareTime, "pause", slowPause)
}

// share calls then as soon as a manifest of a repository is shared, and reports whether it is.
// It does not wait for that.
func (s *sharing) share(repo storage.RepoID, dgst digest.Digest, then func(shared bool)) {
	select {
	case s.places <- struct{}{}:
	default:
		then(false)
		return
	}
	s.running.Go(func() {
		defer func() { <-s.places }()
		ctx, cancel := context.WithTimeout(s.ctx, shareTime)
		defer cancel()
		err := s.commons.Await(ctx, repo, dgst)
		if ctx.Err() != nil && s.ctx.Err() == nil {
			s.slowed(dgst)
		}
		then(err == nil)
	})
}

// fetchOnce gets a manifest by its digest for all replicas: from the commons if another
// replica brought it there, and else by fetch, which asks the upstream.
func (n *Namespace) fetchOnce(ctx context.Context, key lookupKey, fetch func() (found, error)) (found, error) {
	if key.op != getManifest || !n.sharesAnswers(ctx) || !n.cache.sharing.usable() {
		return fetch()
	}
	begun := time.Now()
	body, age, settle := n.cache.answers.Ask(ctx, n.question(key))
	if body == nil && time.Since(begun) >= shareTime {
		n.cache.sharing.slowed(key.ref.Digest()) // another replica could not share it, or its upstream is slow
	}
	switch a := decodeAnswer(body); {
	case a.Gone != nil:
		return found{}, n.refusal(key, a.Gone, age)
	case a.Digest == key.ref.Digest():
		if f, ok, err := n.brought(ctx, key, a); ok || err != nil {
			return f, err
		}
	}
	f, err := fetch()
	if body == nil {
		n.settleManifest(key, f, err, settle)
	}
	return f, err
}

// brought returns the manifest that another replica has brought to the commons. It reports false
// if it is not there, or if this repository's right to it is not proven.
func (n *Namespace) brought(ctx context.Context, key lookupKey, a sharedAnswer) (found, bool, error) {
	commons := n.cache.sharing.commons
	commons.Reread(key.repo, a.Digest)
	own, ok := n.has(ctx, key.repo, a.Digest)
	if !ok && !commons.Links() {
		return n.confirmed(ctx, key, a)
	}
	return found{Outcome: Outcome{Cache: Collapsed, Upstream: n.FirstUpstream()}, desc: own}, ok, nil
}

// confirmed returns a manifest of which another replica says that this repository's upstream
// delivered it there. One HEAD confirms that, and the bytes come from the replica. The HEAD alone
// would prove nothing, since an upstream may say yes to any digest.
func (n *Namespace) confirmed(ctx context.Context, key lookupKey, a sharedAnswer) (found, bool, error) {
	desc := ocispec.Descriptor{MediaType: a.MediaType, Digest: a.Digest, Size: a.Size}
	if !oci.IsManifestType(a.MediaType) { // clients may accept any other text as a type
		return found{}, false, nil
	}
	m, err := n.spec.Upstreams.Head(ctx, key.repo.Name, key.ref)
	switch {
	case err != nil:
		return found{}, false, err
	case m.Body != nil: // the HEAD was no use, and a GET decided
		return n.store(ctx, key.repo, "", m), true, nil
	case m.Descriptor.Digest != desc.Digest, m.Descriptor.Size > 0 && m.Descriptor.Size != desc.Size:
		return found{}, false, nil
	}
	// A replica may be gone, or have evicted it.
	if !n.cache.recall(ctx, key.repo, desc) || !n.cache.putLink(ctx, key.repo, desc) {
		return found{}, false, nil
	}
	return found{Outcome: Outcome{Cache: Collapsed, Upstream: m.Upstream, FromPeer: true}, desc: desc}, true, nil
}

// settleManifest tells the other replicas the answer to a question about a digest: a refusal at
// once, and a manifest as soon as they can read it.
func (n *Namespace) settleManifest(key lookupKey, f found, err error, settle func(body []byte, fresh time.Duration)) {
	if err != nil {
		settle(n.shareable(f, err))
		return
	}
	n.shareStored(key.repo, f, func(shared bool) {
		if !shared {
			settle(nil, 0)
			return
		}
		settle(describe(f).encode(), n.cache.sharing.commons.Lasting())
	})
}

// shareStored calls then as soon as the others can read the manifest of a lookup, or if they
// never can.
func (n *Namespace) shareStored(repo storage.RepoID, f found, then func(shared bool)) {
	if f.Cache != Miss { // it was not stored
		then(false)
		return
	}
	n.cache.sharing.share(repo, f.desc.Digest, then)
}

// settleTag tells the other replicas the answer to a question about a tag. If it brought a
// new manifest, they wait until they can read that too: each would fetch it otherwise.
func (n *Namespace) settleTag(key lookupKey, f found, err error, settle func(body []byte, fresh time.Duration)) {
	body, fresh := n.shareable(f, err)
	if body == nil || err != nil || f.Cache != Miss || !n.cache.sharing.usable() {
		settle(body, fresh)
		return
	}
	n.shareStored(key.repo, f, func(shared bool) {
		// Without a link in common, the others ask for the digest next.
		if s := n.cache.sharing; shared && !s.commons.Links() {
			byDigest := lookupKey{key.repo, getManifest, key.ref.WithDigest(f.desc.Digest)}
			n.cache.answers.Tell(s.ctx, n.question(byDigest), describe(f).encode(), s.commons.Lasting())
		}
		settle(body, fresh)
	})
}
