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

// ChainOptions are what a chain has besides its members.
type ChainOptions struct {
	Logger *slog.Logger // may be nil
}

// Chain reads several registries that hold the same content, in order: the
// next one is asked where one fails, and one that may be down still only after
// the others. When all fail, the error is the most
// hopeful of theirs and tells all of them. A chain has no state of its own.
type Chain struct {
	members []*Client
	logger  *slog.Logger
}

var _ oci.Registry = (*Chain)(nil)

// NewChain returns a chain of members in the order in which they are asked.
func NewChain(opts ChainOptions, members ...*Client) *Chain {
	return &Chain{members: members, logger: loggerOr(opts.Logger)}
}

// Blob is [Client.Blob] on the first member that has it. A member that recently
// delivered the wrong bytes for the digest is asked last.
func (c *Chain) Blob(ctx context.Context, repo string, dgst digest.Digest, offset, length int64) (oci.Blob, error) {
	var ordered, last []*Client
	for _, member := range c.members {
		if member.rejected.has(dgst) {
			last = append(last, member)
		} else {
			ordered = append(ordered, member)
		}
	}
	return openBlob(ctx, c.logger, append(ordered, last...), repo, dgst, offset, length)
}

// StatBlob is [Client.StatBlob] on the first member that has the blob.
func (c *Chain) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	return ask(ctx, c.logger, c.members, func(m *Client) (ocispec.Descriptor, error) { return m.StatBlob(ctx, repo, dgst) })
}

// Manifest is [Client.Manifest] on the first member that has it.
func (c *Chain) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	return ask(ctx, c.logger, c.members, func(m *Client) (*oci.Manifest, error) { return m.Manifest(ctx, repo, ref) })
}

// Head is [Client.Head] on the first member that has the manifest. A member that
// answers [ErrHeadUnsupported] ends the question: a GET may show that it has
// the manifest, and then the later members' word does not count.
func (c *Chain) Head(ctx context.Context, repo string, ref oci.Reference) (ocispec.Descriptor, error) {
	return ask(ctx, c.logger, c.members, func(m *Client) (ocispec.Descriptor, error) { return m.Head(ctx, repo, ref) })
}

// Tags is [Client.Tags] of the first member that has the repository.
func (c *Chain) Tags(ctx context.Context, repo string, query url.Values) (*oci.TagList, error) {
	return ask(ctx, c.logger, c.members, func(m *Client) (*oci.TagList, error) { return m.Tags(ctx, repo, query) })
}

// Referrers is [Client.Referrers] of the first member that knows of any, and
// an empty index only where every member has none.
func (c *Chain) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*oci.Referrers, error) {
	referrers, err := ask(ctx, c.logger, c.members, func(m *Client) (*oci.Referrers, error) {
		return m.referrers(ctx, repo, dgst, artifactType)
	})
	if len(c.members) == 0 {
		return nil, err
	}
	return orNone(referrers, err, c.members[0].Host())
}

// advances is the one table of which failure sends a question on to the next
// member: all of them do. What is left is no failure of the member: the client
// went away, or the question must be asked in another way.
func advances(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || errors.Is(err, ErrHeadUnsupported) {
		return false
	}
	switch e.Class {
	case ClassNotFound, ClassDenied, ClassRateLimited, ClassUnavailable:
		return true
	default:
		return false
	}
}

// ask puts one question to the members in order, until one has the answer.
func ask[T any](ctx context.Context, logger *slog.Logger, members []*Client, question func(*Client) (T, error)) (T, error) {
	var none T
	var failed []*Error
	members, halfOpen := halfOpenLast(members)
	for i, member := range members {
		answer, err := question(member)
		if err == nil {
			for _, m := range members[max(i+1, len(members)-halfOpen):] {
				m.probe()
			}
			return answer, nil
		}
		if !advances(err) {
			return none, err
		}
		failure, _ := errors.AsType[*Error](err)
		failed = append(failed, failure)
		if i+1 < len(members) {
			logger.Log(ctx, levelOf(failure), "an upstream failed, asking the next one", "upstream", member.Host(), "next", members[i+1].Host(), "error", err)
		}
	}
	for i, member := range members {
		if !lastResort(member, failed[i], failed) {
			continue
		}
		answer, err := question(member)
		if err == nil {
			logger.Log(ctx, slog.LevelInfo, "an upstream that was left alone is back", "upstream", member.Host())
			return answer, nil
		}
		if failure, ok := errors.AsType[*Error](err); ok {
			failed[i] = failure
		}
	}
	return none, mostHopeful(failed)
}

// lastResort reports whether a member that was not asked because it rests is
// asked all the same when nobody has answered. One that lied may be truthful by
// now, and what it says is verified. One that could not be connected to is tried
// where another one was asked and is broken; while nobody can be connected to,
// none is tried before its time.
func lastResort(member *Client, failure *Error, failed []*Error) bool {
	broken := func(e *Error) bool { return !e.coolingDown && e.Class >= ClassUnavailable }
	return failure.coolingDown &&
		(errors.Is(failure, ErrDigestMismatch) || slices.ContainsFunc(failed, broken)) &&
		member.cooldown.allowEarlyProbe(time.Now())
}

// halfOpenLast puts last the members that could not be connected to when they
// were last tried: whether they are back need not be found out at the expense of
// a request that another one answers. It returns how many these are.
func halfOpenLast(members []*Client) (ordered []*Client, halfOpen int) {
	now := time.Now()
	doubt := func(c *Client) bool { return c.cooldown.halfOpen(now) }
	if len(members) < 2 || !slices.ContainsFunc(members, doubt) {
		return members, 0
	}
	var last []*Client
	for _, c := range members {
		if doubt(c) {
			last = append(last, c)
		} else {
			ordered = append(ordered, c)
		}
	}
	return append(ordered, last...), len(last)
}

// levelOf keeps out of the log what chains are for, "not found", and what the
// log has said already: that a member rests.
func levelOf(failure *Error) slog.Level {
	if failure.Class == ClassNotFound || failure.coolingDown {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// mostHopeful returns the failure of the highest class, the soonest to be over
// among those of 429, with the others behind it.
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
	combined := *failed[best]
	combined.others = slices.Delete(slices.Clone(failed), best, best+1)
	return &combined
}
