package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// Answers shares answers of upstreams between replicas, so that one of them asks. Its methods
// return soon, whatever becomes of the service that shares them.
type Answers interface {
	// Ask returns the answer that another replica got to a question, and its age. If there is
	// none, body is nil, and the caller asks the upstream. It calls settle once with the
	// answer and how long that is fresh, or with nil.
	Ask(ctx context.Context, question string) (body []byte, age time.Duration, settle func(body []byte, fresh time.Duration))
	// Look is Ask without a turn: it returns an answer that is fresh, and waits for none.
	Look(ctx context.Context, question string) (body []byte, age time.Duration)
	// Tell shares an answer for as long as it is fresh. The others can see it when Tell returns.
	Tell(ctx context.Context, question string, body []byte, fresh time.Duration)
}

// sharedAnswer is an upstream's word about a tag or a digest, in the form that replicas share:
// the manifest that the tag names or that was fetched, or a "not found".
type sharedAnswer struct {
	Digest    digest.Digest `json:"digest,omitempty"`
	MediaType string        `json:"type,omitempty"`
	Size      int64         `json:"size,omitempty"`
	Host      string        `json:"host,omitempty"` // of the upstream
	Gone      *goneAnswer   `json:"gone,omitempty"`
}

// maxSharedGone bounds how long a "not found" is shared. Clients may invent any number of
// names, and nothing else bounds those that Redis has at once.
const maxSharedGone = time.Minute

type goneAnswer struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// sharesAnswers reports whether the answer to a lookup may be that of another replica. An
// answer to a client with rights of its own is for that client alone. A request that has
// passed other mirrors waits for none, see apart.
func (n *Namespace) sharesAnswers(ctx context.Context) bool {
	return n.cache.answers != nil && !n.spec.OnBehalf && !n.mayLoop(ctx)
}

// question is the question that a lookup asks an upstream, for all replicas. A block that leads
// elsewhere has other answers.
func (n *Namespace) question(key lookupKey) string {
	what := key.ref.Tag()
	switch {
	case key.ref.IsTag():
	case key.op == statBlob:
		what = "blob " + key.ref.Digest().String() // no tag has a blank
	default:
		what = "manifest " + key.ref.Digest().String()
	}
	return strings.Join([]string{n.FirstUpstream(), key.repo.Namespace, key.repo.Name, what, key.ref.Accept()}, "\n")
}

// mayLoop reports whether a request has passed another mirror, and could come back here or
// to another replica.
func (n *Namespace) mayLoop(ctx context.Context) bool {
	return len(via.From(ctx)) > 0 && n.spec.MayLeadToMirror != nil && n.spec.MayLeadToMirror()
}

// ask answers a lookup with the word of an upstream: one that another replica got, or else
// this one.
func (n *Namespace) ask(ctx context.Context, key lookupKey, known known) (found, error) {
	switch {
	case !n.sharesAnswers(ctx):
		return n.askUpstream(ctx, key, known)
	case !key.ref.IsTag():
		return n.askByDigest(ctx, key, known)
	}
	body, age, settle := n.cache.answers.Ask(ctx, n.question(key))
	a, ok := parseAnswer(body)
	switch {
	case ok:
		return n.believe(ctx, key, a, age)
	case body != nil: // of another version, or garbage
		return n.askUpstream(ctx, key, known)
	}
	settled := false
	if known.state == due {
		// Other replicas have the tag, too. They wait for an answer, and not while the
		// upstream is asked again.
		ctx = upstream.OnSetback(ctx, func(error) {
			if !settled {
				settle(nil, 0)
				settled = true
			}
		})
	}
	f, err := n.askUpstream(ctx, key, known)
	if !settled {
		n.settleTag(key, f, err, settle)
	}
	return f, err
}

// askByDigest is ask for a manifest by its digest. Replicas let one of them fetch it. Of a HEAD
// only the "not found" of another replica counts, and no replica waits for its answer.
func (n *Namespace) askByDigest(ctx context.Context, key lookupKey, known known) (found, error) {
	if key.op == getManifest && n.cache.sharing.usable() {
		return n.fetchOnce(ctx, key, func() (found, error) { return n.askUpstream(ctx, key, known) })
	}
	if err := n.refusedElsewhere(ctx, key); err != nil {
		return found{}, err
	}
	f, err := n.askUpstream(ctx, key, known)
	n.tellRefusal(ctx, key, err)
	return f, err
}

// refusedElsewhere returns the "not found" of the upstream that another replica got for a
// content a short time ago, or nil.
func (n *Namespace) refusedElsewhere(ctx context.Context, key lookupKey) error {
	if n.spec.NegativeTTL <= 0 || !n.sharesAnswers(ctx) {
		return nil
	}
	body, age := n.cache.answers.Look(ctx, n.question(key))
	a, ok := parseAnswer(body)
	if !ok || a.Gone == nil || age >= n.spec.NegativeTTL {
		return nil
	}
	return n.refusal(key, a.Gone, age)
}

// refusal returns the "not found" that another replica got for a blob, or for a manifest by its digest.
func (n *Namespace) refusal(key lookupKey, gone *goneAnswer, age time.Duration) error {
	host, dgst := n.FirstUpstream(), key.ref.Digest()
	if key.op == statBlob {
		return &agedError{upstream.NewGoneBlob(host, key.repo.Name, dgst, gone.Status, gone.Code, gone.Message), age}
	}
	return &agedError{upstream.NewGone(host, key.repo.Name, dgst.String(), gone.Status, gone.Code, gone.Message), age}
}

// tellRefusal tells the other replicas of a "not found" of the upstream for a blob, or for a
// manifest by its digest. Other results are none of theirs.
func (n *Namespace) tellRefusal(ctx context.Context, key lookupKey, err error) {
	if err == nil || !n.sharesAnswers(ctx) {
		return
	}
	if body, fresh := n.shareable(found{}, err); body != nil {
		n.cache.answers.Tell(ctx, n.question(key), body, fresh)
	}
}

// shareable returns the part of an answer that other replicas may know, and for how long it is
// fresh; nil: nothing.
func (n *Namespace) shareable(f found, err error) (body []byte, fresh time.Duration) {
	switch {
	case err == nil && f.standIn:
		return nil, 0 // another replica may reach the first upstream
	case err == nil:
		return describe(f).encode(), n.spec.TagTTL
	}
	failed, ok := errors.AsType[*upstream.Error](upstream.Doubt(err))
	if !ok || failed.Class != upstream.ClassNotFound || n.spec.NegativeTTL <= 0 {
		return nil, 0
	}
	a := sharedAnswer{Host: failed.Host, Gone: &goneAnswer{failed.Status, failed.Code, failed.Message}}
	return a.encode(), min(n.spec.NegativeTTL, maxSharedGone)
}

// describe returns the answer that names the manifest of a lookup.
func describe(f found) sharedAnswer {
	return sharedAnswer{Digest: f.desc.Digest, MediaType: f.desc.MediaType, Size: f.desc.Size, Host: f.Upstream}
}

func (a sharedAnswer) encode() []byte {
	body, err := json.Marshal(a)
	if err != nil {
		return nil // cannot be: strings and numbers
	}
	return body
}

// decodeAnswer reads an answer of another replica. One that cannot be read says nothing.
func decodeAnswer(body []byte) (a sharedAnswer) {
	if len(body) == 0 || json.Unmarshal(body, &a) != nil {
		return sharedAnswer{}
	}
	return a
}

// parseAnswer reads an answer about a tag. It returns false for one that does not name a
// manifest and is no "not found".
func parseAnswer(body []byte) (a sharedAnswer, ok bool) {
	if a = decodeAnswer(body); a.Gone != nil {
		return a, true
	}
	_, err := oci.ParseDigest(a.Digest.String())
	return a, err == nil && a.Size > 0 && a.Size <= oci.DefaultMaxManifest && oci.IsManifestType(a.MediaType)
}

// believe answers a lookup with the word of another replica's upstream. It stands in for a
// HEAD alone: a manifest without a link is fetched from this repository's own upstream, once
// for all replicas that share their links.
func (n *Namespace) believe(ctx context.Context, key lookupKey, a sharedAnswer, age time.Duration) (found, error) {
	repo, ref := key.repo, key.ref
	if a.Gone != nil {
		return found{}, &agedError{upstream.NewGone(n.FirstUpstream(), repo.Name, ref.Tag(), a.Gone.Status, a.Gone.Code, a.Gone.Message), age}
	}
	// The replica that asked may have brought the manifest since this one looked for its link.
	// Later no replica remembers that there was none.
	if n.cache.sharing.usable() && age < n.cache.sharing.commons.Lasting() {
		n.cache.sharing.commons.Reread(repo, a.Digest)
	}
	desc := ocispec.Descriptor{MediaType: a.MediaType, Digest: a.Digest, Size: a.Size}
	m := &oci.Manifest{Descriptor: desc, Upstream: a.Host}
	f, err := n.named(ctx, key, m, time.Now().Add(-age))
	if err != nil || f.Cache != Revalidated || n.spec.RecheckPossession <= 0 {
		return f, err
	}
	// The word about a tag confirms no right.
	proven, err := n.cache.catalog.Proven(ctx, repo, f.desc.Digest)
	if err != nil || time.Since(proven) < n.spec.RecheckPossession {
		return f, nil // a link that is missing by now was there a moment ago
	}
	return f, n.confirm(ctx, lookupKey{repo, recheckBlob, oci.ByDigest(f.desc.Digest)}, f.desc)
}

// agedError is a failure that another replica learned some time ago.
type agedError struct {
	failure *upstream.Error
	age     time.Duration
}

func (e *agedError) Error() string { return e.failure.Error() }

func (e *agedError) Unwrap() error { return e.failure }

// ageOf returns how long ago another replica learned of a failure.
func ageOf(err error) time.Duration {
	if aged, ok := errors.AsType[*agedError](err); ok {
		return aged.age
	}
	return 0
}
