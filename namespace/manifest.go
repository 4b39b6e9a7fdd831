package namespace

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/upstream"
)

// Manifest is the answer to a request for a manifest.
type Manifest struct {
	Outcome
	Descriptor ocispec.Descriptor
	// Content reads the manifest; the caller closes it. It is nil if only the
	// descriptor was asked for.
	Content io.ReadSeekCloser
}

// found is the result of a lookup that several requests share. Body is nil if the
// manifest is in the store, or was not asked for.
type found struct {
	Outcome
	desc ocispec.Descriptor
	body []byte
	// standIn is set if another upstream than the first said so.
	standIn bool
}

// describe returns the answer without its content.
func (f found) describe() *Manifest { return &Manifest{Outcome: f.Outcome, Descriptor: f.desc} }

// Manifest returns a manifest by tag or digest. It returns an *OfflineError, or
// an error of package upstream.
func (n *Namespace) Manifest(ctx context.Context, repo string, ref oci.Reference) (*Manifest, error) {
	key := lookupKey{n.repoID(repo), getManifest, ref.Question()}
	m, err := n.manifest(ctx, key, n.known(ctx, key.repo, ref))
	if err == nil {
		n.noteServed(key.repo, m.Descriptor.Digest)
	}
	return m, err
}

func (n *Namespace) manifest(ctx context.Context, key lookupKey, known known) (*Manifest, error) {
	f, led, err := n.lookup(ctx, key, known)
	if err != nil {
		return nil, err
	}
	return n.open(ctx, key.repo, f, led)
}

// Head returns the descriptor of a manifest. A manifest that is not cached costs a
// HEAD upstream, and nothing is stored. Its errors are those of
// [Namespace.Manifest].
func (n *Namespace) Head(ctx context.Context, repo string, ref oci.Reference) (*Manifest, error) {
	key := lookupKey{n.repoID(repo), headManifest, ref.Question()}
	f, _, err := n.lookup(ctx, key, n.known(ctx, key.repo, ref))
	if err != nil {
		return nil, err
	}
	return f.describe(), nil
}

// lookup answers from the cache, or else asks the upstream, once for all callers
// with the same key. led is false if another caller's request made it ask.
func (n *Namespace) lookup(ctx context.Context, key lookupKey, known known) (f found, led bool, err error) {
	if known.state == fresh && n.standing(ctx, key.repo, manifestProof) != inForce {
		known.state, known.unproven = due, true // its right has to be confirmed, and not the content
	}
	if known.state == overdue {
		if o, ok := n.answerFirst(ctx, key, known); ok {
			return found{Outcome: o, desc: known.desc}, true, nil
		}
		known.state = due
	}
	switch {
	// The cache answers by itself: no request leaves the mirror.
	case known.state == fresh:
		o, err := n.recheck(ctx, key.repo, known.desc)
		if o.Cache == None {
			o.Cache, o.Checked = Hit, known.checked
		}
		return found{Outcome: o, desc: known.desc}, true, err
	case n.spec.Offline:
		return found{}, false, n.offline(manifestName(key.ref))
	case known.state == absent, n.standing(ctx, key.repo, manifestProof) == unknownStanding:
		// A cached tag is asked for in any case: it may have come back. A client without a
		// verdict must not see that it is cached.
		// A client that asks in a loop costs the upstream nothing.
		if err := n.cache.negativeHit(ctx, key); err != nil {
			return found{}, false, err
		}
	}
	f, led, err = n.shareAsk(ctx, key, known, true)
	// Nothing is cached that could stand in for a failure.
	if known.state == absent {
		return f, led, n.undecided(ctx, key.repo, manifestProof, manifestName(key.ref), err)
	}
	if err != nil {
		return n.fallBack(ctx, key, known, err)
	}
	return f.since(known, key.op), led, nil
}

// shareAsk asks the upstream, once for all callers with the same key. A caller that leaves
// does so with the first failure that the cache can answer.
func (n *Namespace) shareAsk(ctx context.Context, key lookupKey, known known, leaves bool) (f found, led bool, err error) {
	leaves = leaves && known.state == due
	// Nearly all requests for a busy tag join a lookup. They do without the closures of one.
	f, ok, err := join(ctx, n, n.cache.manifests, key, func(ctx context.Context, failure error) bool {
		return leaves && n.standsInFor(ctx, key, known, failure)
	})
	if ok {
		return f, false, err
	}
	return n.beginAsk(ctx, key, known, leaves)
}

// beginAsk is shareAsk if no lookup is under way.
func (n *Namespace) beginAsk(ctx context.Context, key lookupKey, known known, leaves bool) (f found, led bool, err error) {
	var standIn standIn
	if known.state == due { // also for a caller that stays: others may join, and leave
		standIn = func(ctx context.Context, failure error) bool {
			return leaves && n.standsInFor(ctx, key, known, failure)
		}
	}
	return share(ctx, n, n.cache.manifests, key, standIn, func(ctx context.Context) (found, error) {
		f, err := n.ask(ctx, key, known)
		n.rememberNegative(ctx, key, err)
		n.noteRight(ctx, key.repo, manifestProof, f.desc.Digest, err)
		return f, err
	})
}

// standsInFor reports whether a cached manifest is the answer in place of an upstream's failure.
func (n *Namespace) standsInFor(ctx context.Context, key lookupKey, known known, failure error) bool {
	_, ok := n.insteadOf(ctx, key.repo, known, failure)
	return ok
}

// state is how far the cache can answer for a reference.
type state uint8

const (
	absent  state = iota // the manifest is not cached, or not known to be this repository's
	due                  // the tag's manifest is cached, but the upstream has to confirm it
	overdue              // the cache answers, and the tag is checked behind the answer
	fresh                // the cache answers
)

// known is the cache's knowledge of a reference.
type known struct {
	state   state
	desc    ocispec.Descriptor // of the cached manifest
	checked time.Time          // a tag
	other   bool               // the client does not accept the type of the tag's manifest
	// unproven is set if the cache would answer a client with a right to the repository.
	unproven bool
}

func (n *Namespace) known(ctx context.Context, repo storage.RepoID, ref oci.Reference) known {
	dgst, k := ref.Digest(), known{state: fresh}
	if ref.IsTag() {
		record, ok := n.cache.book.Current(ctx, repo, ref.Tag())
		if !ok {
			return known{}
		}
		dgst, k.checked = record.Descriptor.Digest, record.Checked
		switch {
		case n.isFresh(ref.Tag(), record):
		case n.isOverdue(ctx, record.Checked):
			k.state = overdue
		default:
			k.state = due
		}
	}
	var ok bool
	if k.desc, ok = n.has(ctx, repo, dgst); !ok {
		return known{} // evicted, or its record is lost
	}
	// The HEAD of a check before the answer also confirms a right that is old.
	if k.state == overdue {
		if _, old := n.oldRight(ctx, repo, dgst); old {
			k.state = due
		}
	}
	// The upstream may have another manifest for this client, or none.
	if k.other = ref.IsTag() && !ref.Accepts(k.desc.MediaType); k.other && !n.spec.Offline {
		k.state = due
	}
	return k
}

// isFresh reports whether a cached tag is served without asking an upstream.
func (n *Namespace) isFresh(tag string, record catalog.Tag) bool {
	return n.spec.Offline ||
		time.Since(record.Checked) < n.spec.TagTTL ||
		// A stand-in of the first upstream may have another image of that name.
		!record.Fallback && n.policy.isImmutable(tag)
}

// askUpstream asks the upstream: with a HEAD if that may be enough, and else with a GET,
// whose manifest is then stored.
func (n *Namespace) askUpstream(ctx context.Context, key lookupKey, known known) (found, error) {
	repo, ref := key.repo, key.ref
	// A client that wants the manifest itself is helped by a HEAD only if the tag's last
	// manifest is stored, which the HEAD may name. Other manifests that are stored are
	// not this repository's: it gets them from its upstream.
	// A client without a verdict must not see by the kind of the request that it is not.
	if key.op == getManifest && known.state != due && n.standing(ctx, repo, manifestProof) == inForce {
		return n.fetch(ctx, repo, ref, ref.Tag())
	}
	removed := n.cache.removals.of(repo)
	m, err := n.spec.Upstreams.Head(ctx, repo.Name, ref)
	if err != nil {
		return found{}, err
	}
	if m.Body != nil {
		return n.store(ctx, repo, ref.Tag(), m), nil // the HEAD was no use, and a GET decided
	}
	if own, ok := n.has(ctx, repo, m.Descriptor.Digest); ok && n.spec.RecheckPossession > 0 {
		n.cache.putLinkSince(ctx, repo, own, removed) // the same HEAD confirms the right
	}
	return n.named(ctx, key, m, time.Now())
}

// named answers a lookup with the manifest that an upstream named at some time, without its
// content.
func (n *Namespace) named(ctx context.Context, key lookupKey, m *oci.Manifest, at time.Time) (found, error) {
	repo, ref, desc := key.repo, key.ref, m.Descriptor
	if own, ok := n.has(ctx, repo, desc.Digest); ok {
		n.observe(ctx, repo, ref.Tag(), seen{desc: own, at: at, stored: true, fallback: m.Fallback})
		return found{Outcome: Outcome{Cache: Revalidated, Upstream: m.Upstream}, desc: own, standIn: m.Fallback}, nil
	}
	if key.op == headManifest {
		if desc.MediaType == "" || desc.Size <= 0 {
			// The HEAD says too little for an answer, the manifest says it all.
			return n.fetch(ctx, repo, ref, ref.Tag())
		}
		n.observe(ctx, repo, ref.Tag(), seen{desc: desc, at: at, fallback: m.Fallback})
		return found{Outcome: Outcome{Cache: Passed, Upstream: m.Upstream}, desc: desc, standIn: m.Fallback}, nil
	}
	return n.fetchNamed(ctx, key, m, at)
}

// fetchNamed gets the manifest with the digest that a HEAD named at some time. By digest the
// manifest is verified to be the one that the tag names, so any upstream may deliver it.
func (n *Namespace) fetchNamed(ctx context.Context, key lookupKey, head *oci.Manifest, at time.Time) (found, error) {
	repo, ref := key.repo, key.ref
	byDigest := lookupKey{repo, key.op, ref.WithDigest(head.Descriptor.Digest)}
	fetched := false
	f, err := n.fetchOnce(ctx, byDigest, func() (found, error) {
		fetched = true
		m, err := n.spec.Upstreams.Manifest(ctx, repo.Name, byDigest.ref)
		if err != nil {
			return found{}, err
		}
		m.Fallback = head.Fallback
		return n.store(ctx, repo, ref.Tag(), m), nil
	})
	if err == nil {
		if !fetched { // another replica brought it, and has its own records of tags
			f.standIn = head.Fallback
			n.observe(ctx, repo, ref.Tag(), seen{desc: f.desc, at: at, stored: f.Cache != Passed, fallback: head.Fallback})
		}
		return f, nil
	}
	// A HEAD may name a digest that GET does not find: a replica lags, or a proxy
	// converts manifests. The tag is not gone before a GET of the tag says so.
	if failed, ok := errors.AsType[*upstream.Error](err); ok && ref.IsTag() && failed.Answered() {
		return n.fetch(ctx, repo, ref, ref.Tag())
	}
	return found{}, err
}

// onlyClaimed reports whether another upstream than the first named a tag because a request
// of the lookup was in a loop. A client may have claimed the loop by its Via, so the answer is
// that client's alone.
func onlyClaimed(ctx context.Context, fallback bool) bool { return fallback && via.Looped(ctx) }

// observe records a tag in the book of tags, if there is one.
func (n *Namespace) observe(ctx context.Context, repo storage.RepoID, tag string, s seen) {
	if tag != "" && !onlyClaimed(ctx, s.fallback) {
		if s.at.IsZero() {
			s.at = time.Now()
		}
		n.cache.book.Observe(context.WithoutCancel(ctx), repo, tag, s)
	}
}

// fetch gets a manifest from upstream and stores it, together with the tag that
// names it, if there is one.
func (n *Namespace) fetch(ctx context.Context, repo storage.RepoID, ref oci.Reference, tag string) (found, error) {
	m, err := n.spec.Upstreams.Manifest(ctx, repo.Name, ref)
	if err != nil {
		return found{}, err
	}
	return n.store(ctx, repo, tag, m), nil
}

// store keeps a manifest that an upstream delivered, together with the tag that names
// it, if there is one.
func (n *Namespace) store(ctx context.Context, repo storage.RepoID, tag string, m *oci.Manifest) found {
	f := found{Outcome: Outcome{Cache: Miss, Upstream: m.Upstream}, desc: m.Descriptor, body: m.Body, standIn: m.Fallback}
	if onlyClaimed(ctx, m.Fallback) {
		tag = ""
	}
	ctx = context.WithoutCancel(ctx) // it is worth storing, even if all clients have left
	// The client gets the manifest in any case: a full store costs it nothing.
	if !n.cache.keep(ctx, repo, tag, m) {
		// A cached tag still leads to its old manifest, until this one is stored.
		n.observe(ctx, repo, tag, seen{desc: m.Descriptor, fallback: m.Fallback})
		f.Cache = Passed
	}
	return f
}

// since describes how the result of a lookup relates to the manifest of the tag that
// was cached before.
func (f found) since(before known, op operation) found {
	switch {
	case op == getManifest && f.Cache == Passed:
		// It could not be stored, so the tag still leads to its old manifest. (A
		// HEAD stores nothing in any case.)
	case f.desc.Digest == before.desc.Digest:
		f.Cache = Revalidated
	default:
		f.Cache = Moved
	}
	return f
}

// fallBack answers an upstream's failure with a tag's cached manifest if the
// namespace does so, and otherwise returns the failure. A tag that is definitely
// gone is forgotten; a load balancer's "not found" is not definite.
func (n *Namespace) fallBack(ctx context.Context, key lookupKey, known known, failure error) (found, bool, error) {
	// Nothing of the cache counts for a client without a verdict.
	if n.standing(ctx, key.repo, manifestProof) == unknownStanding {
		return found{}, false, n.undecided(ctx, key.repo, manifestProof, manifestName(key.ref), failure)
	}
	if o, ok := n.insteadOf(ctx, key.repo, known, failure); ok {
		return found{Outcome: o, desc: known.desc}, true, nil
	}
	failure = upstream.Doubt(failure)
	// "Not found" for a client that does not accept the manifest, or that may not see it,
	// says nothing about others.
	if errors.Is(failure, upstream.ErrNotFound) && !known.other && !n.spec.OnBehalf {
		n.cache.book.Gone(ctx, key.repo, key.ref.Tag())
	}
	return found{}, false, n.undecided(ctx, key.repo, manifestProof, manifestName(key.ref), failure)
}

// insteadOf returns the outcome of an answer with a cached manifest in place of an upstream's
// failure. It reports false if the failure is the answer.
func (n *Namespace) insteadOf(ctx context.Context, repo storage.RepoID, known known, failure error) (Outcome, bool) {
	failure = upstream.Doubt(failure)
	switch {
	// Nothing of the cache counts for a client without a verdict.
	case n.standing(ctx, repo, manifestProof) == unknownStanding:
		return Outcome{}, false
	// The content needs no confirmation, and the right has some grace.
	case known.unproven && n.standsIn(ctx, repo, manifestProof, failure):
		return Outcome{Cache: Hit}, true
	default:
		return n.stale(ctx, repo, manifestProof, failure, known.checked)
	}
}

// open makes the answer for one of the callers that shared a lookup.
func (n *Namespace) open(ctx context.Context, repo storage.RepoID, f found, led bool) (*Manifest, error) {
	m := f.describe()
	// The cache status of the others says that they waited for one request.
	if !led && f.Cache != Revalidated && f.Cache != Passed {
		m.Cache = Collapsed
	}
	// The body has just come from upstream. It may not be stored yet.
	if f.body != nil {
		m.Content = inMemory(f.body)
		return m, nil
	}
	obj, err := n.cache.store.Open(ctx, f.desc.Digest)
	if err != nil {
		ref := oci.ByDigest(f.desc.Digest).Accepting(f.desc.MediaType)
		return n.refetch(ctx, lookupKey{repo, refetchManifest, ref.Question()}, err)
	}
	m.Content, m.Descriptor.Size = obj.Content, obj.Size
	return m, nil
}

// manifestName names a manifest in error messages.
func manifestName(ref oci.Reference) string {
	if ref.IsTag() {
		return "tag " + ref.Tag()
	}
	return "manifest " + ref.Digest().String()
}

// refetch gets a manifest that ought to be stored but cannot be opened. Either it
// was evicted a moment ago, or the store fails; neither must cost a client a
// manifest that the upstream still has.
func (n *Namespace) refetch(ctx context.Context, key lookupKey, failure error) (*Manifest, error) {
	evicted := errors.Is(failure, storage.ErrNotExist)
	switch {
	case n.spec.Offline && evicted:
		return nil, n.offline(manifestName(key.ref))
	case n.spec.Offline:
		return nil, failure
	case !evicted:
		n.logger.Warn("cannot read a stored manifest. Weir asks its upstream", "repository", key.repo.String(), "digest", key.ref.Digest(), "error", failure)
	}
	f, led, err := share(ctx, n, n.cache.manifests, key, nil, func(ctx context.Context) (found, error) {
		return n.fetch(ctx, key.repo, key.ref, "")
	})
	if err != nil {
		return nil, err
	}
	return n.open(ctx, key.repo, f, led)
}

// bytesContent is a blob in memory.
type bytesContent struct{ *bytes.Reader }

func (bytesContent) Close() error { return nil }

func inMemory(body []byte) io.ReadSeekCloser { return bytesContent{bytes.NewReader(body)} }
