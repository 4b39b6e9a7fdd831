package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// Member is one registry of a chain. [Client] is one.
type Member interface {
	oci.Registry
	// Host names the registry in log lines and errors.
	Host() string
	// Health reports whether the registry should be asked.
	Health() Health
}

// Health is the knowledge about a member's faults, which outlives a request. All
// methods may be called concurrently, and none blocks.
type Health interface {
	// Cooldown returns for how long the member refuses requests, 0 if it does
	// not. A member is half open if the next request is to find out whether the
	// member is back.
	Cooldown() (left time.Duration, halfOpen bool)
	// EndCooldown ends the cooldown for a request that no other member can
	// answer. It returns false if the cooldown may not be ended.
	EndCooldown() bool
	// Probe finds out in the background whether a half-open member is back. If it is
	// urgent, since no other member can answer, it does so every second for any
	// unreachable member, until a minute has passed without an urgent Probe.
	Probe(urgent bool)
	// Rejected reports whether the member recently delivered corrupt bytes for a
	// digest.
	Rejected(dgst digest.Digest) bool
	// Reject notes that the member delivered corrupt bytes for a digest, all of
	// them if alone.
	Reject(dgst digest.Digest, alone bool)
	// Broken counts a blob whose stream was unusable, and returns the cause as a
	// failure of the member. It returns the context's error if ctx is done.
	Broken(ctx context.Context, repo string, dgst digest.Digest, cause error) error
}

// ChainOptions are the parts of a chain besides its members.
type ChainOptions struct {
	// FallbackOn are the failures after which the next member is asked about a tag: a
	// manifest by tag, or a list. Nil: all of them. A shortage of this machine, which a
	// client can cause, is none. Content by digest may come from any member, since it is
	// verified.
	FallbackOn []Class
	Logger     *slog.Logger // may be nil
	Block      string       // whose requests take turns with those of other blocks at one upstream
}

// Chain reads several registries that hold the same content, in order. It asks
// the next member if one fails, and half-open members after the others. If all
// fail, the error has the class that is likeliest to end soon, and its text has
// the failures of all. A chain has no state of its own.
type Chain struct {
	members    []Member
	fallbackOn []Class // nil: all classes
	logger     *slog.Logger
	block      string
}

var _ oci.Registry = (*Chain)(nil)

// NewChain returns a chain of members in the order in which they are asked.
func NewChain(opts ChainOptions, members ...Member) *Chain {
	return &Chain{members: members, fallbackOn: opts.FallbackOn, logger: loggerOr(opts.Logger), block: opts.Block}
}

// Blob opens a blob on the first member that has it. If a stream breaks off, the
// blob continues at its offset, on the same member or another one: the digest
// makes the bytes of all members equal. Members that recently delivered corrupt
// bytes for the digest are asked last. A segment comes from the member that is named for it,
// or not at all.
func (c *Chain) Blob(ctx context.Context, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	members := c.members
	if host, ok := oci.SegmentOf(ctx); ok {
		members = slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Host() != host })
	}
	var ordered, last []Member
	for _, member := range members {
		if member.Health().Rejected(dgst) {
			last = append(last, member)
		} else {
			ordered = append(ordered, member)
		}
	}
	return openBlob(inBlock(ctx, c.block), c.logger, append(ordered, last...), repo, dgst, offset, length)
}

// StatBlob is [Client.StatBlob] on the first member that has the blob.
func (c *Chain) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	return ask(inBlock(ctx, c.block), c.logger, c.members, nil, func(ctx context.Context, m Member) (ocispec.Descriptor, error) { return m.StatBlob(ctx, repo, dgst) })
}

// Manifest is [Client.Manifest] on the first member that has it.
func (c *Chain) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	return c.askManifest(ctx, ref, func(ctx context.Context, m Member) (*oci.Manifest, error) { return m.Manifest(ctx, repo, ref) })
}

// Head is [Client.Head] on the first member that has the manifest.
func (c *Chain) Head(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	return c.askManifest(ctx, ref, func(ctx context.Context, m Member) (*oci.Manifest, error) { return m.Head(ctx, repo, ref) })
}

// askManifest asks for a manifest, and notes whether the first member answered.
func (c *Chain) askManifest(ctx context.Context, ref oci.Reference, question func(context.Context, Member) (*oci.Manifest, error)) (*oci.Manifest, error) {
	var fallbackOn []Class
	if ref.IsTag() {
		fallbackOn = c.fallbackOn
	}
	return ask(inBlock(ctx, c.block), c.logger, c.members, fallbackOn, func(ctx context.Context, member Member) (*oci.Manifest, error) {
		m, err := question(ctx, member)
		if err == nil {
			m.Fallback = member != c.members[0]
		}
		return m, err
	})
}

// Tags is [Client.Tags] of the first member that has the repository.
func (c *Chain) Tags(ctx context.Context, repo string, query url.Values) (*oci.TagList, error) {
	return ask(inBlock(ctx, c.block), c.logger, c.members, c.fallbackOn, func(ctx context.Context, m Member) (*oci.TagList, error) { return m.Tags(ctx, repo, query) })
}

// Referrers is [Client.Referrers] of the first member that can list them, and
// an empty index if no member can. No digest vouches for such a list, so the next member
// is asked as about a tag.
func (c *Chain) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*oci.Referrers, error) {
	referrers, err := ask(inBlock(ctx, c.block), c.logger, c.members, c.fallbackOn, func(ctx context.Context, m Member) (*oci.Referrers, error) {
		if m, ok := m.(referrersFinder); ok {
			return m.findReferrers(ctx, repo, dgst, artifactType)
		}
		return m.Referrers(ctx, repo, dgst, artifactType)
	})
	if len(c.members) == 0 {
		return nil, err // a chain without members knows nothing, not even an empty list
	}
	return orNone(referrers, err, c.members[0].Host())
}

// referrersFinder is a member that distinguishes a registry that cannot list
// referrers, by [ErrNotFound], from one whose list is empty. The chain asks the
// next member after the former only.
type referrersFinder interface {
	findReferrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*oci.Referrers, error)
}

// advances reports whether an error sends a question on to the next member. Every
// failure of a member does. Other errors do not: the client left.
func advances(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Class {
	case ClassNotFound, ClassDenied, ClassRateLimited, ClassUnavailable:
		return true
	default:
		return false
	}
}

// ask puts one question to the members in order, until one has the answer. After a
// failure of a class that is not in fallbackOn, unless that is nil, no later member is
// asked: its answer could be about another content of the same name.
func ask[T any](ctx context.Context, logger *slog.Logger, members []Member, fallbackOn []Class, question func(context.Context, Member) (T, error)) (T, error) {
	var none T
	var failed []*Error
	configured, halfOpen := members, 0
	// To ask another member first is to fall back on it.
	fallsBack := fallbackOn == nil || slices.Contains(fallbackOn, ClassUnavailable)
	if fallsBack {
		members, halfOpen = halfOpenLast(members)
	}
	for i := 0; i < len(members); i++ {
		member := members[i]
		answer, err := question(inChain(ctx, failed, fallsBack && i+1 < len(members)), member)
		if err == nil {
			// Half-open members that were not needed are probed in the
			// background, so that no request has to wait for that.
			for _, m := range members[max(i+1, len(members)-halfOpen):] {
				m.Health().Probe(false)
			}
			return answer, nil
		}
		if !advances(err) {
			return none, err
		}
		failure, _ := errors.AsType[*Error](err)
		failed = append(failed, failure)
		if fallbackOn != nil && (failure.Local() || !slices.Contains(fallbackOn, failure.Class)) {
			members = withoutLater(members, i, configured)
		}
		if i+1 < len(members) {
			logger.Log(ctx, levelOf(failure), "an upstream failed, asking the next one", "upstream", member.Host(), "next", members[i+1].Host(), "error", err)
		}
	}
	// Every member failed. Those that were not asked, because they cool down, may
	// be the client's last chance.
	for i, member := range members {
		if !lastResort(member, failed[i], failed) {
			continue
		}
		answer, err := question(ctx, member)
		if err == nil {
			// No line says that it is back: the member does so itself, once it has stayed
			// sound for a while. A corrupt one answers well, and then sends wrong bytes.
			return answer, nil
		}
		if failure, ok := errors.AsType[*Error](err); ok {
			failed[i] = failure
		}
	}
	// While all are unavailable, the requests fail at once and cannot find out about a return.
	if !slices.ContainsFunc(failed, func(e *Error) bool { return !failureOf(e).away && !e.coolingDown }) {
		for _, member := range members {
			member.Health().Probe(true)
		}
	}
	return none, mostHopeful(failed)
}

// withoutLater returns members without those that would be asked after the member at i
// and that are configured after it. Half-open members before it are still asked.
func withoutLater(members []Member, i int, configured []Member) []Member {
	later := configured[slices.Index(configured, members[i])+1:]
	rest := slices.DeleteFunc(slices.Clone(members[i+1:]), func(m Member) bool { return slices.Contains(later, m) })
	return append(slices.Clone(members[:i+1]), rest...)
}

// lastResort reports whether a member that cools down is asked anyway,
// after every member failed. One that delivered corrupt content is: its bytes are
// verified. One that is unreachable is only if another member was asked and is
// broken; while every member is unreachable, none is tried before its time.
func lastResort(member Member, failure *Error, failed []*Error) bool {
	broken := func(e *Error) bool { return !e.coolingDown && e.Class >= ClassUnavailable }
	return failure.coolingDown && failure.Class != ClassRateLimited && // that limit was set by the registry
		(errors.Is(failure, ErrDigestMismatch) || slices.ContainsFunc(failed, broken)) &&
		member.Health().EndCooldown()
}

// halfOpenLast puts the half-open members last: a request that another member
// answers must not wait to find out whether they are back. It returns how many
// these are.
func halfOpenLast(members []Member) (ordered []Member, halfOpen int) {
	if len(members) < 2 {
		return members, 0 // no other member could answer instead
	}
	var last []Member
	for _, m := range members {
		if _, probe := m.Health().Cooldown(); probe {
			last = append(last, m)
		} else {
			ordered = append(ordered, m)
		}
	}
	return append(ordered, last...), len(last)
}

// levelOf lowers the level of failures that an operator need not see: "not found"
// is the ordinary work of a chain, and the start of a cooldown was logged.
func levelOf(failure *Error) slog.Level {
	if failure.Class == ClassNotFound || failure.coolingDown {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// mostHopeful returns the failure that is likeliest to end: the one of the highest
// class, and among several of 429 the one that ends first. It holds the others.
func mostHopeful(failed []*Error) error {
	switch len(failed) {
	case 0:
		return &Error{Class: ClassUnavailable, Err: errors.New("no upstream is configured")}
	case 1:
		return failed[0]
	}
	best := 0
	for i, e := range failed {
		b := failed[best]
		if e.Class > b.Class || e.Class == ClassRateLimited && b.Class == ClassRateLimited && e.RetryAfter < b.RetryAfter {
			best = i
		}
	}
	combined := *failed[best] // a copy, since the member's error may be shared
	combined.others = slices.Delete(slices.Clone(failed), best, best+1)
	return &combined
}
