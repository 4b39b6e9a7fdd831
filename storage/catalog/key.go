package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// A record's key is the namespace as one escaped segment, the segments of the
// repository's name, and the segment of its sort, such as
//
//	ghcr.io/acme/app/_tags/latest
//
// No segment of a name begins with an underscore (distribution-spec, "Pulling
// manifests"), so that a repository's records never mix with those of a
// repository whose name continues below it. A record of a whole namespace has no name:
//
//	ghcr.io/_deliveries/sha256/<hex>
const (
	tagsSegment       = "_tags"       // /<tag>
	linksSegment      = "_links"      // /<algorithm>/<hex>
	documentsSegment  = "_documents"  // /<kind>/<sha256 of the document's name>
	deliveriesSegment = "_deliveries" // /<algorithm>/<hex>, of a namespace
	pullsSegment      = "_pulls"      // /<mirror>
	historySegment    = "_history"    // /<tag>
)

// sort is one sort of record.
type sort struct {
	segment string
	whole   bool // of a whole namespace
	// digest returns the digest of the content that a record is about. It is
	// nil for records that are kept as long as a record of another sort.
	digest func(ctx context.Context, c *Catalog, key string) (digest.Digest, error)
	delete func(ctx context.Context, c *Catalog, key string) error
	count  func(*PruneReport) *int // the number of removed records; nil: not reported
}

// sorts has a row for each sort of record.
var sorts = []sort{
	{
		segment: tagsSegment,
		digest: func(ctx context.Context, c *Catalog, key string) (digest.Digest, error) {
			return c.digestOfTag(ctx, key)
		},
		delete: func(ctx context.Context, c *Catalog, key string) error { return c.tags.delete(ctx, key) },
		count:  func(r *PruneReport) *int { return &r.Tags },
	},
	{
		segment: linksSegment,
		digest: func(_ context.Context, _ *Catalog, key string) (digest.Digest, error) {
			return digestBelow(linksSegment, key), nil
		},
		delete: func(ctx context.Context, c *Catalog, key string) error { return c.links.delete(ctx, key) },
		count:  func(r *PruneReport) *int { return &r.Links },
	},
	{
		segment: deliveriesSegment,
		whole:   true,
		digest: func(_ context.Context, _ *Catalog, key string) (digest.Digest, error) {
			return digestBelow(deliveriesSegment, key), nil
		},
		delete: func(ctx context.Context, c *Catalog, key string) error { return c.deliveries.delete(ctx, key) },
	},
	{
		segment: documentsSegment,
		delete:  func(ctx context.Context, c *Catalog, key string) error { return c.documents.delete(ctx, key) },
	},
	{
		segment: pullsSegment,
		delete:  func(ctx context.Context, c *Catalog, key string) error { return c.pulls.delete(ctx, key) },
	},
	{
		segment: historySegment,
		delete:  func(ctx context.Context, c *Catalog, key string) error { return c.histories.delete(ctx, key) },
	},
}

// repositoryKey returns the key below which a repository's records of one sort
// lie.
func repositoryKey(repo storage.RepoID, segment string) (string, error) {
	if err := checkRepository(repo); err != nil {
		return "", err
	}
	key := url.PathEscape(repo.Namespace) + "/" + repo.Name + "/" + segment
	return key, storage.ValidateKey(key)
}

// checkRepository returns an error that matches storage.ErrInvalidKey for a repository whose
// records would lie among those of another one.
func checkRepository(repo storage.RepoID) error {
	if repo.Namespace == "" {
		return fmt.Errorf("%w: repository %q has no namespace", storage.ErrInvalidKey, repo.Name)
	}
	if strings.HasPrefix(repo.Name, "_") || strings.Contains(repo.Name, "/_") {
		return fmt.Errorf("%w: repository %q has a segment that begins with an underscore", storage.ErrInvalidKey, repo.Name)
	}
	return nil
}

func tagKey(repo storage.RepoID, tag string) (string, error) {
	return leafKey(repo, tagsSegment, tag)
}

// LinkKey returns the key of the record that a repository possesses a blob. It returns
// ErrInvalidKey, or an error about the digest, if there is none.
func LinkKey(repo storage.RepoID, dgst digest.Digest) (string, error) {
	if err := storage.ValidateDigest(dgst); err != nil {
		return "", err
	}
	if err := checkRepository(repo); err != nil {
		return "", err
	}
	// Each warm pull makes this key, in one piece.
	algorithm, encoded, _ := strings.Cut(string(dgst), ":")
	key := url.PathEscape(repo.Namespace) + "/" + repo.Name + "/" + linksSegment + "/" + algorithm + "/" + encoded
	return key, storage.ValidateKey(key)
}

func deliveryKey(namespace string, dgst digest.Digest) (string, error) {
	if namespace == "" {
		return "", fmt.Errorf("%w: a delivery without a namespace", storage.ErrInvalidKey)
	}
	if err := storage.ValidateDigest(dgst); err != nil {
		return "", err
	}
	key := url.PathEscape(namespace) + "/" + deliveriesSegment + "/" + dgst.Algorithm().String() + "/" + dgst.Encoded()
	return key, storage.ValidateKey(key)
}

func documentKey(repo storage.RepoID, kind, name string) (string, error) {
	if strings.Contains(kind, "/") {
		return "", fmt.Errorf("%w: kind %q of a document has a slash", storage.ErrInvalidKey, kind)
	}
	sum := sha256.Sum256([]byte(name))
	return leafKey(repo, documentsSegment+"/"+kind, hex.EncodeToString(sum[:]))
}

func leafKey(repo storage.RepoID, segment, leaf string) (string, error) {
	key, err := repositoryKey(repo, segment)
	if err != nil {
		return "", err
	}
	if strings.Contains(leaf, "/") {
		return "", fmt.Errorf("%w: %q has a slash", storage.ErrInvalidKey, leaf)
	}
	key += "/" + leaf
	return key, storage.ValidateKey(key)
}

// splitKey returns the repository that a key belongs to, and the sort of its
// record. The repository of a record of a whole namespace has no name. It reports
// false for a key that no [Catalog] makes.
func splitKey(key string) (repo storage.RepoID, of sort, ok bool) {
	// A namespace is escaped in one way only; other spellings are not ours.
	escaped, rest, _ := strings.Cut(key, "/")
	namespace, err := url.PathUnescape(escaped)
	if err != nil || url.PathEscape(namespace) != escaped {
		return storage.RepoID{}, sort{}, false
	}
	// The first underscore at the start of a segment ends the name.
	name, record, ok := strings.Cut("/"+rest, "/_")
	if !ok {
		return storage.RepoID{}, sort{}, false
	}
	name = strings.TrimPrefix(name, "/")
	segment, _, ok := strings.Cut("_"+record, "/")
	row := slices.IndexFunc(sorts, func(s sort) bool { return s.segment == segment })
	if !ok || row < 0 || sorts[row].whole != (name == "") {
		return storage.RepoID{}, sort{}, false
	}
	return storage.RepoID{Namespace: namespace, Name: name}, sorts[row], true
}

// Owns reports whether a key is that of a record that a [Catalog] makes. A store may hold
// other records too, such as certificates with their private keys.
func Owns(key string) bool {
	_, _, ok := splitKey(key)
	return ok || key == keepingKey || strings.HasPrefix(key, trafficSegment+"/") || strings.HasPrefix(key, pinsSegment+"/")
}

// digestBelow returns the digest that a key below a segment was made from.
func digestBelow(segment, key string) digest.Digest {
	at := strings.LastIndex(key, segment+"/") + len(segment) + 1
	algorithm, encoded, _ := strings.Cut(key[at:], "/")
	return digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
}

func compareRepositories(a, b storage.RepoID) int {
	return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.Namespace, b.Namespace))
}
