package catalog

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
)

// FuzzKeys holds the keys of records to their repositories: each leads back to its own, so
// that no two repositories share a record.
func FuzzKeys(f *testing.F) {
	for _, c := range [][3]string{{"ghcr.io", "acme/app", "v1"}, {"ghcr.io/acme", "app", "v1"}, {"ghcr.io%2Facme", "app", "v1"}, {"localhost:5000", "a/_tags/b", "_links"}, {"é", "..", "."}, {"a", "b/", "c/_tags/d"}} {
		f.Add(c[0], c[1], c[2])
	}
	f.Fuzz(func(t *testing.T, namespace, name, leaf string) {
		repo := storage.RepoID{Namespace: namespace, Name: name}
		keys := make(map[string]string)
		for sort, key := range map[string]func() (string, error){
			tagsSegment:      func() (string, error) { return tagKey(repo, leaf) },
			linksSegment:     func() (string, error) { return LinkKey(repo, digest.FromString(leaf)) },
			documentsSegment: func() (string, error) { return documentKey(repo, "list", leaf) },
			historySegment:   func() (string, error) { return leafKey(repo, historySegment, leaf) },
			pullsSegment:     func() (string, error) { return leafKey(repo, pullsSegment, leaf) },
		} {
			key, err := key()
			if err != nil {
				continue
			}
			if owner, of, ok := splitKey(key); !ok || owner != repo || of.segment != sort {
				t.Errorf("%q is a key of %+v and %s, not of %+v and %s", key, owner, of.segment, repo, sort)
			}
			if other, twice := keys[key]; twice || storage.ValidateKey(key) != nil || strings.HasPrefix(key, "/") {
				t.Errorf("%q is the key of %s and %s", key, sort, other)
			}
			keys[key] = sort
		}
	})
}

// Repositories and names that are spelt alike have records of their own.
func TestKeysAreDistinct(t *testing.T) {
	result := func(key string, err error) (string, bool) { return key, err == nil }
	dgst := digest.FromString("x")
	for name, key := range map[string]func(a, b string) (string, bool){
		"links": func(a, b string) (string, bool) { return result(LinkKey(storage.RepoID{Namespace: a, Name: b}, dgst)) },
		"tags of repositories": func(a, b string) (string, bool) {
			return result(tagKey(storage.RepoID{Namespace: a, Name: b}, "v1"))
		},
		"tags": func(a, b string) (string, bool) {
			return result(tagKey(storage.RepoID{Namespace: "ghcr.io", Name: a}, b))
		},
		"documents": func(a, b string) (string, bool) {
			return result(documentKey(storage.RepoID{Namespace: "ghcr.io", Name: a}, "list", b))
		},
		"kinds of documents": func(a, b string) (string, bool) {
			return result(documentKey(storage.RepoID{Namespace: "ghcr.io", Name: "app"}, a, b))
		},
		// A record of a whole block is none of a repository.
		"deliveries": func(a, b string) (string, bool) {
			if b == "" {
				return result(deliveryKey(a, dgst))
			}
			return result(LinkKey(storage.RepoID{Namespace: a, Name: b}, dgst))
		},
	} {
		t.Run(name, func(t *testing.T) { testutil.Distinct(t, key) })
	}
}
