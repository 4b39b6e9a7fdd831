package namespace

import (
	"context"
	"errors"
	"io"
	"slices"
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
// recently gave this credential something of this repository.
//
//	what                          is kept for
//	content, links, tags, lists   a repository: the upstream's word about content
//	verdicts, "not found",        a repository and a credential: the upstream's word
//	lookups under way             about a client
//	tokens, challenges, limits    an upstream and a credential (package upstream)
//
// So a client learns nothing about a repository before its own credential has opened it,
// and the refusal of one client is not that of another. Nor do the answer, its time and the
// requests upstream tell a client without a verdict what is cached: the upstream gets the
// same requests in both cases.

// maxRights and maxRightBytes bound the memory for verdicts. One takes about 800 bytes,
// and a lost one costs a HEAD.
const (
	maxRights     = 32768
	maxRightBytes = 12 << 20
)

// maxRead is how many manifests of a repository are remembered for a client: an index, the
// manifest of its platform, and the same of another image.
const maxRead = 4

// maxListing bounds a manifest that is searched for a blob, in bytes. Each request of a client
// may do so, and those of images have some KiB.
const maxListing = 256 << 10

// rightKey is a credential and a repository that it may read.
type rightKey struct {
	repo   storage.RepoID
	client string
}

// proof is what an upstream gave a client of a repository. Some registries have rights of
// their own for each kind. A manifest opens the whole repository, since it is the first thing
// that a pull asks for; the others open their kind alone.
type proof uint8

const (
	manifestProof proof = iota
	blobProof
	listProof

	proofs // how many there are
)

// right is an upstream's verdict for a credential.
type right struct {
	proven [proofs]time.Time // when the upstream gave something of the kind last; zero: never
	read   []digest.Digest   // the manifests that the credential read last, the last one first; never changed
}

// last returns when a right to a kind of content was proven last.
func (r right) last(kind proof) time.Time {
	if r.proven[kind].After(r.proven[manifestProof]) {
		return r.proven[kind]
	}
	return r.proven[manifestProof]
}

// add notes a proof. The manifest may be empty.
func (r *right) add(by proof, manifest digest.Digest) {
	r.proven[by] = time.Now()
	if manifest != "" && (len(r.read) == 0 || r.read[0] != manifest) {
		read := append([]digest.Digest{manifest}, slices.DeleteFunc(slices.Clone(r.read), func(d digest.Digest) bool { return d == manifest })...)
		r.read = read[:min(len(read), maxRead)]
	}
}

func (r right) size(key rightKey) int {
	const fixed = 200 // of the times, the list and the headers of its strings
	bytes := fixed + len(key.repo.Namespace) + len(key.repo.Name) + len(key.client)
	for _, manifest := range r.read {
		bytes += len(manifest)
	}
	return bytes
}

// UndecidedError says that an upstream could not tell whether a client may have content,
// cached or not.
type UndecidedError struct {
	Content string
	Err     error // of the upstream
}

func (e *UndecidedError) Error() string {
	return e.Content + ": the mirror cannot determine whether the client may read it: " + e.Err.Error()
}

func (e *UndecidedError) Unwrap() error { return e.Err }

// standing is how good a client's right is at the moment.
type standing uint8

const (
	unknownStanding standing = iota
	inGrace                  // the verdict is old, and counts while the upstream is unavailable
	inForce
)

// standing returns the client's right to content of a kind of a repository. Everything that
// the mirror asks for itself, such as a warming, has one.
func (n *Namespace) standing(ctx context.Context, repo storage.RepoID, kind proof) standing {
	if !n.spec.OnBehalf {
		return inForce
	}
	client := upstream.ClientOf(ctx)
	if client == "" {
		return inForce
	}
	r, _ := n.cache.rights.Get(rightKey{repo, client})
	proven := r.last(kind)
	switch age := time.Since(proven); {
	case proven.IsZero():
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
func (n *Namespace) noteRight(ctx context.Context, repo storage.RepoID, by proof, manifest digest.Digest, err error) {
	client := upstream.ClientOf(ctx)
	if !n.spec.OnBehalf || client == "" {
		return
	}
	key := rightKey{repo, client}
	switch {
	case err == nil:
		r, _ := n.cache.rights.Get(key)
		r.add(by, manifest)
		n.cache.rights.Add(key, r)
	case errors.Is(err, upstream.ErrDenied), errors.Is(err, upstream.ErrNotFound):
		n.cache.rights.Remove(key)
	}
}

// standsIn reports whether content of the cache may stand in for an upstream's failure. Towards a
// client whose own rights decide, only an upstream that is away counts: a limit of requests, here
// or there, is one that clients can reach, to keep a right that has been withdrawn.
func (n *Namespace) standsIn(ctx context.Context, repo storage.RepoID, kind proof, failure error) bool {
	if !n.spec.OnBehalf {
		return true
	}
	return errors.Is(failure, upstream.ErrUnavailable) && n.standing(ctx, repo, kind) != unknownStanding
}

// undecided returns the failure of a lookup as a client gets it. While the upstream is unavailable,
// a client whose right it has not confirmed gets one answer, whether the content is cached or
// not.
func (n *Namespace) undecided(ctx context.Context, repo storage.RepoID, kind proof, content string, failure error) error {
	failed, isUpstream := errors.AsType[*upstream.Error](failure)
	if !isUpstream || failed.Class != upstream.ClassUnavailable || failed.Loop() || n.standing(ctx, repo, kind) == inForce {
		return failure
	}
	return &UndecidedError{content, failure}
}

// permit makes sure that a client may have a blob. Without a verdict, the upstream shows it
// by a manifest that lists the blob and that the client has read, with one request for all
// blobs of an image, or else by the blob itself.
func (n *Namespace) permit(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error {
	if n.standing(ctx, repo, blobProof) == inForce {
		return nil
	}
	if manifest := n.listedIn(ctx, repo, dgst); manifest != "" {
		err := n.inquire(ctx, lookupKey{repo, proveByManifest, oci.ByDigest(manifest)}, func(ctx context.Context) error {
			_, err := n.spec.Upstreams.Head(ctx, repo.Name, oci.ByDigest(manifest))
			n.noteRight(ctx, repo, manifestProof, manifest, err)
			return err
		})
		// The manifest may be gone, and the blob not.
		if !errors.Is(err, upstream.ErrNotFound) {
			return n.unlessStanding(ctx, repo, dgst, err)
		}
	}
	err := n.inquire(ctx, lookupKey{repo, proveByBlob, oci.ByDigest(dgst)}, func(ctx context.Context) error {
		_, err := n.spec.Upstreams.StatBlob(ctx, repo.Name, dgst)
		n.noteRight(ctx, repo, blobProof, "", err)
		return err
	})
	return n.unlessStanding(ctx, repo, dgst, err)
}

// inquire asks the upstream about a right to a blob, once for all requests of the client.
func (n *Namespace) inquire(ctx context.Context, key lookupKey, ask func(context.Context) error) error {
	standIn := func(ctx context.Context, failure error) bool { return n.standsIn(ctx, key.repo, blobProof, failure) }
	_, _, err := share(ctx, n, n.cache.access, key, standIn, func(ctx context.Context) (none ocispec.Descriptor, err error) {
		return none, ask(ctx)
	})
	return err
}

// unlessStanding returns the failure to confirm a client's right to a blob, or nil if an
// older verdict counts.
func (n *Namespace) unlessStanding(ctx context.Context, repo storage.RepoID, dgst digest.Digest, failure error) error {
	if failure == nil || n.standsIn(ctx, repo, blobProof, failure) {
		return nil
	}
	return n.undecided(ctx, repo, blobProof, "blob "+dgst.String(), failure)
}

// listedIn returns a manifest that the client of a request has read and that lists a blob, or
// "". Manifests that only other clients have read do not count: the requests upstream would
// tell that they are cached.
func (n *Namespace) listedIn(ctx context.Context, repo storage.RepoID, blob digest.Digest) digest.Digest {
	known, _ := n.cache.rights.Get(rightKey{repo, upstream.ClientOf(ctx)})
	for _, manifest := range known.read {
		if slices.ContainsFunc(n.contentOf(ctx, manifest), func(d ocispec.Descriptor) bool { return d.Digest == blob }) {
			return manifest
		}
	}
	return ""
}

// contentOf returns the content that a stored manifest lists, none if it cannot be read.
func (n *Namespace) contentOf(ctx context.Context, manifest digest.Digest) []ocispec.Descriptor {
	links, err := oci.References(n.stored(ctx, manifest))
	if err != nil {
		return nil
	}
	return links.Content()
}

// stored returns the bytes of a stored manifest, or nil.
func (n *Namespace) stored(ctx context.Context, manifest digest.Digest) []byte {
	obj, err := n.cache.store.Open(ctx, manifest)
	if err != nil {
		return nil
	}
	defer obj.Content.Close()
	if obj.Size > maxListing {
		return nil
	}
	body := make([]byte, obj.Size) // a reader of an unknown length would take three times as much
	if _, err := io.ReadFull(obj.Content, body); err != nil {
		return nil
	}
	return body
}
