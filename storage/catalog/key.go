package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// A record's key is the namespace as one escaped segment, the segments of the
// repository's name, and one of these. No segment of a name begins with an
// underscore (distribution-spec, "Pulling manifests"), so that a repository's
// records never mix with those of one whose name goes on below it.
const (
	tagsSegment      = "_tags"      // /<tag>
	linksSegment     = "_links"     // /<algorithm>/<hex>
	documentsSegment = "_documents" // /<kind>/<sha256 of the document's name>
)

// repositoryKey returns the key below which a repository's records of one sort
// lie.
func repositoryKey(repo storage.RepoID, sort string) (string, error) {
	if repo.Namespace == "" {
		return "", fmt.Errorf("%w: repository %q has no namespace", storage.ErrInvalidKey, repo.Name)
	}
	if strings.HasPrefix(repo.Name, "_") || strings.Contains(repo.Name, "/_") {
		return "", fmt.Errorf("%w: repository %q has a segment that begins with an underscore", storage.ErrInvalidKey, repo.Name)
	}
	key := url.PathEscape(repo.Namespace) + "/" + repo.Name + "/" + sort
	return key, storage.ValidateKey(key)
}

func tagKey(repo storage.RepoID, tag string) (string, error) {
	return leafKey(repo, tagsSegment, tag)
}

func linkKey(repo storage.RepoID, dgst digest.Digest) (string, error) {
	if err := storage.ValidateDigest(dgst); err != nil {
		return "", err
	}
	return leafKey(repo, linksSegment+"/"+dgst.Algorithm().String(), dgst.Encoded())
}

func documentKey(repo storage.RepoID, kind, name string) (string, error) {
	if strings.Contains(kind, "/") {
		return "", fmt.Errorf("%w: kind %q of a document has a slash", storage.ErrInvalidKey, kind)
	}
	sum := sha256.Sum256([]byte(name))
	return leafKey(repo, documentsSegment+"/"+kind, hex.EncodeToString(sum[:]))
}

func leafKey(repo storage.RepoID, sort, leaf string) (string, error) {
	key, err := repositoryKey(repo, sort)
	if err != nil {
		return "", err
	}
	if strings.Contains(leaf, "/") {
		return "", fmt.Errorf("%w: %q has a slash", storage.ErrInvalidKey, leaf)
	}
	key += "/" + leaf
	return key, storage.ValidateKey(key)
}

// parseKey returns the repository that a tag's or a link's key belongs to. It
// reports false for all other keys.
func parseKey(key string) (storage.RepoID, bool) {
	repo, sort, ok := splitKey(key)
	return repo, ok && (sort == tagsSegment || sort == linksSegment)
}

// splitKey returns the repository that a key belongs to, and the sort of its
// record. It reports false for what no key of a [Catalog] is.
func splitKey(key string) (repo storage.RepoID, sort string, ok bool) {
	escaped, rest, _ := strings.Cut(key, "/")
	namespace, err := url.PathUnescape(escaped)
	if err != nil || url.PathEscape(namespace) != escaped {
		return storage.RepoID{}, "", false
	}
	name, record, ok := strings.Cut(rest, "/_")
	if !ok || name == "" {
		return storage.RepoID{}, "", false
	}
	sort, _, ok = strings.Cut("_"+record, "/")
	if !ok || sort != tagsSegment && sort != linksSegment && sort != documentsSegment {
		return storage.RepoID{}, "", false
	}
	return storage.RepoID{Namespace: namespace, Name: name}, sort, true
}

// digestOfLink returns the digest that a link's key was made from.
func digestOfLink(key string) digest.Digest {
	at := strings.LastIndex(key, linksSegment+"/") + len(linksSegment) + 1
	algorithm, encoded, _ := strings.Cut(key[at:], "/")
	return digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
}

func compareRepositories(a, b storage.RepoID) int {
	return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.Namespace, b.Namespace))
}
