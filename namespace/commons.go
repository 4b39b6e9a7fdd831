package namespace

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// Replicas that share their content and their links, in a bucket, get a manifest from the
// upstream once. One of them has the turn to ask. The others wait until the manifest and the
// link are in the bucket, read the link, and recall the manifest: their right is that of
// the link, as it is later without a wait.

// Commons are the content and the links that replicas share.
type Commons interface {
	// Await waits until a content of this replica, and the link of a repository to it, are
	// there for all. It returns an error if that cannot be expected.
	Await(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error
	// Reread makes the next use of a link read it, if there was none at the last one.
	Reread(repo storage.RepoID, dgst digest.Digest)
	// Absence is for how long a replica may remember that there is no link.
	Absence() time.Duration
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
	s.logger.Info("a manifest was not in the bucket in time. Each replica fetches manifests by itself for a while", "digest", dgst, "limit", shareTime, "pause", slowPause)
}

// share calls then as soon as a manifest of a repository is shared, and tells whether it is.
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
	if key.op != getManifest || !n.sharesAnswers(ctx, key) || !n.cache.sharing.usable() {
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
		if f, ok := n.brought(ctx, key); ok {
			return f, nil
		}
	}
	f, err := fetch()
	if body == nil {
		n.settleManifest(key, f, err, settle)
	}
	return f, err
}

// brought returns the manifest that another replica has brought to the commons, if this
// repository has a link to it there.
func (n *Namespace) brought(ctx context.Context, key lookupKey) (found, bool) {
	n.cache.sharing.commons.Reread(key.repo, key.ref.Digest())
	own, ok := n.has(ctx, key.repo, key.ref.Digest())
	return found{Outcome: Outcome{Cache: Collapsed, Upstream: n.FirstUpstream()}, desc: own}, ok
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
		// Later the others see the link by themselves.
		settle(sharedAnswer{Digest: key.ref.Digest()}.encode(), n.cache.sharing.commons.Absence())
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
	n.shareStored(key.repo, f, func(bool) { settle(body, fresh) })
}
