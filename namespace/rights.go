package namespace

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// In some namespaces the rights of each client at the upstream decide what it may pull
// (Spec.OnBehalf). Then each request to the upstream has the credential of its client
// (upstream.OnBehalf), and each answer from the cache needs a verdict: that the upstream
// lately gave this credential something of this repository.
//
//	what                          is kept for
//	content, links, tags, lists   a repository: the upstream's word about content
//	verdicts, "not found",        a repository and a credential: the upstream's word
//	lookups under way             about a client
//	tokens, challenges, limits    an upstream and a credential (package upstream)
//
// So a client learns nothing about a repository before its own credential has opened it,
// and the refusal of one client is not that of another. A verdict costs no request of its
// own where the upstream is asked anyway: for a tag that is due, for content that is not
// cached, for a list.

// maxRights and maxRightBytes bound the memory for verdicts. One takes about 300 bytes,
// and a lost one costs a HEAD.
const (
	maxRights     = 32768
	maxRightBytes = 12 << 20
)

// rightKey is a credential and a repository that it may read at an upstream.
type rightKey struct {
	repo     storage.RepoID
	upstream string
	client   string
}

func (n *Namespace) rightKey(ctx context.Context, repo storage.RepoID) rightKey {
	return rightKey{repo, n.FirstUpstream(), clientOf(ctx)}
}

// right is an upstream's verdict for a credential.
type right struct {
	proven   time.Time
	manifest digest.Digest // that the credential read last; empty: none
}

func (r right) size(key rightKey) int {
	return len(key.repo.Namespace) + len(key.repo.Name) + len(key.upstream) + len(key.client) + len(r.manifest)
}

// UndecidedError says that an upstream could not tell whether a client may have content
// that is cached.
type UndecidedError struct {
	Content string
	Err     error // of the upstream
}

func (e *UndecidedError) Error() string {
	return e.Content + ": whether the client may have it cannot be told: " + e.Err.Error()
}

func (e *UndecidedError) Unwrap() error { return e.Err }

// standing is how good a client's right is at the moment.
type standing uint8

const (
	unknownStanding standing = iota
	inGrace                  // the verdict is old, and counts while the upstream is away
	inForce
)

// clientOf returns the ID of the credential of a request, "" if the configured one counts.
func clientOf(ctx context.Context) string {
	c, _ := upstream.CredentialOf(ctx)
	return c.ID
}

// standing returns the client's right to a repository. Everything that the mirror asks
// for itself, such as a warming, has one.
func (n *Namespace) standing(ctx context.Context, repo storage.RepoID) standing {
	client := clientOf(ctx)
	if !n.spec.OnBehalf || client == "" {
		return inForce
	}
	r, ok := n.cache.rights.Get(n.rightKey(ctx, repo))
	switch age := time.Since(r.proven); {
	case !ok:
		return unknownStanding
	case age < n.spec.AuthCheckTTL:
		return inForce
	case age < n.spec.AuthCheckTTL+n.spec.AuthStaleGrace:
		return inGrace
	default:
		return unknownStanding
	}
}

// noteRight records that the upstream gave a client something of a repository, or refused.
// A "not found" may hide a refusal, so it ends a right as well. A manifest may be empty.
func (n *Namespace) noteRight(ctx context.Context, repo storage.RepoID, manifest digest.Digest, err error) {
	client := clientOf(ctx)
	if !n.spec.OnBehalf || client == "" {
		return
	}
	key := n.rightKey(ctx, repo)
	switch {
	case err == nil:
		if manifest == "" {
			known, _ := n.cache.rights.Get(key)
			manifest = known.manifest
		}
		n.cache.rights.Add(key, right{time.Now(), manifest})
	case errors.Is(err, upstream.ErrDenied), errors.Is(err, upstream.ErrNotFound):
		n.cache.rights.Remove(key)
	}
}

// standsIn reports whether content of the cache may stand in for an upstream's failure
// towards a client whose own rights decide.
func (n *Namespace) standsIn(ctx context.Context, repo storage.RepoID, failure error) bool {
	if !n.spec.OnBehalf {
		return true
	}
	_, busy := errors.AsType[*BusyError](failure) // the upstream was not asked
	away := busy || errors.Is(failure, upstream.ErrUnavailable) || errors.Is(failure, upstream.ErrRateLimited)
	return away && n.standing(ctx, repo) != unknownStanding
}

// permit makes sure that a client may have a blob. Without a verdict, the upstream shows it
// by the manifest that the client read last, with one request for all blobs of an image, or
// else by the blob itself.
func (n *Namespace) permit(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error {
	if n.standing(ctx, repo) == inForce {
		return nil
	}
	known, _ := n.cache.rights.Get(n.rightKey(ctx, repo))
	key := lookupKey{repo, proveRight, oci.ByDigest(dgst)}
	if known.manifest != "" {
		key.ref = oci.ByDigest(known.manifest)
	}
	_, _, err := share(ctx, n, n.cache.access, key, nil, func(ctx context.Context) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, n.inquire(ctx, repo, known.manifest, dgst)
	})
	switch {
	case err == nil:
		return nil
	case n.standsIn(ctx, repo, err):
		return nil
	case errors.Is(err, upstream.ErrUnavailable):
		return &UndecidedError{"blob " + dgst.String(), err}
	default:
		return err
	}
}

// inquire asks the upstream whether it gives a client a manifest or, if that is empty or
// gone, a blob, and records the answer.
func (n *Namespace) inquire(ctx context.Context, repo storage.RepoID, manifest, blob digest.Digest) error {
	if manifest != "" {
		_, err := n.spec.Upstreams.Head(ctx, repo.Name, oci.ByDigest(manifest))
		if !errors.Is(err, upstream.ErrNotFound) {
			n.noteRight(ctx, repo, manifest, err)
			return err
		}
	}
	_, err := n.spec.Upstreams.StatBlob(ctx, repo.Name, blob)
	n.noteRight(ctx, repo, "", err)
	return err
}
