package namespace_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestBlobOfAnotherRepository(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, negativeTTL(time.Minute))
		content := []byte("a secret layer")
		dgst := r.AddBlob("private", content)
		r.AddBlob("fork", content)
		wantBlob(t, getBlob(t, n, "private", dgst), namespace.Miss, content)
		r.ResetRequests()

		// One GET proves the right, once.
		wantBlob(t, getBlob(t, n, "fork", dgst), namespace.Revalidated, content)
		wantBlob(t, getBlob(t, n, "fork", dgst), namespace.Hit, content)
		wantRequests(t, r, blobRequest("GET", "fork", dgst, "200"))

		// If it is refused, nothing is served, by GET or by HEAD.
		for range 2 {
			if got := getBlob(t, n, "public", dgst); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("served to a repository that does not have it: %+v", got)
			}
			if _, err := n.HeadBlob(t.Context(), "public", dgst); !errors.Is(err, upstream.ErrNotFound) {
				t.Errorf("HEAD: %v", err)
			}
		}
		wantRequests(t, r, blobRequest("GET", "public", dgst, "404"))
		if got := getBlob(t, m.namespace("up.example", r, offline), "public", dgst); !isOffline(got.err) {
			t.Errorf("offline: %+v", got)
		}
		// Another block is another repository, even of the same name.
		other := m.namespace("other.example", m.registry("other.example"))
		if got := getBlob(t, other, "private", dgst); !errors.Is(got.err, upstream.ErrNotFound) {
			t.Errorf("served to another block: %+v", got)
		}
	})
}

func TestHeadBlobOfAnotherRepository(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		content := []byte("a layer")
		dgst := r.AddBlob("private", content)
		r.AddBlob("fork", content)
		getBlob(t, n, "private", dgst)
		r.ResetRequests()
		// The answer is the upstream's, and proves nothing.
		for range 2 {
			if b, err := n.HeadBlob(t.Context(), "fork", dgst); err != nil || b.Cache != namespace.Passed || b.Size != int64(len(content)) {
				t.Errorf("got %+v, %v", b, err)
			}
		}
		wantRequests(t, r, blobRequest("HEAD", "fork", dgst, "200"), blobRequest("HEAD", "fork", dgst, "200"))
		wantBlob(t, getBlob(t, n, "fork", dgst), namespace.Revalidated, content)
		wantRequests(t, r, blobRequest("GET", "fork", dgst, "200"))
		if b, err := n.HeadBlob(t.Context(), "fork", dgst); err != nil || b.Cache != namespace.Hit || b.Size != int64(len(content)) {
			t.Errorf("got %+v, %v", b, err)
		}
		wantRequests(t, r)
	})
}

// TestBlobThatAnotherRepositoryDownloads joins a running download.
func TestBlobThatAnotherRepositoryDownloads(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		dgst := r.AddRandomBlob("private", 1<<20, 1)
		r.AddRandomBlob("fork", 1<<20, 1)
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.All(upstreamtest.Blobs, upstreamtest.Method("GET")), upstreamtest.StallAfter(100<<10, gate))
		first, err := n.Blob(t.Context(), "private", dgst, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got := getBlob(t, n, "public", dgst); !errors.Is(got.err, upstream.ErrNotFound) {
			t.Errorf("a running download was given to a repository without the blob: %+v", got.err)
		}
		joined, err := n.Blob(t.Context(), "fork", dgst, 0, -1)
		if err != nil || joined.Cache != namespace.Collapsed {
			t.Fatalf("got %+v, %v", joined, err)
		}
		gate.Open()
		for _, b := range []*namespace.Blob{first, joined} {
			if got, err := digest.FromReader(b.Content); err != nil || got != dgst {
				t.Errorf("got %s, %v", got, err)
			}
			b.Content.Close()
		}
		synctest.Wait()
		wantSampled(t, r,
			blobRequest("GET", "private", dgst, "200"),
			blobRequest("GET", "public", dgst, "PART 404"),
			blobRequest("GET", "fork", dgst, "PART 206"),
			blobRequest("GET", "fork", dgst, "PART 206"),
			blobRequest("GET", "fork", dgst, "bytes=1047552-1048575 206"))
		// Both possess it now.
		for _, repo := range []string{"private", "fork"} {
			if b, err := n.HeadBlob(t.Context(), repo, dgst); err != nil || b.Cache != namespace.Hit {
				t.Errorf("%s: %+v, %v", repo, b, err)
			}
		}
		wantRequests(t, r)
	})
}

// TestHeadOfWhatIsNotCached leaves no trace in the catalogue.
func TestHeadOfWhatIsNotCached(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		dgst := r.AddBlob("app", []byte("a layer"))
		b, err := n.HeadBlob(t.Context(), "app", dgst)
		if err != nil || b.Cache != namespace.Passed || b.Size != 7 {
			t.Errorf("got %+v, %v", b, err)
		}
		if repositories, err := m.cache.Repositories(t.Context()); err != nil || len(repositories) != 0 {
			t.Errorf("the catalogue has %v, %v", repositories, err)
		}
		if got := getBlob(t, n, "app", dgst); got.err != nil {
			t.Error(got.err)
		}
		want := storage.RepoID{Namespace: "up.example", Name: "app"}
		if repositories, err := m.cache.Repositories(t.Context()); err != nil || len(repositories) != 1 || repositories[0] != want {
			t.Errorf("the catalogue has %v, %v", repositories, err)
		}
	})
}

func TestManifestOfAnotherRepository(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, negativeTTL(time.Minute))
		image := r.AddImage("private", "tag", []byte("a layer"))
		for _, repo := range []string{"fork", "fork2"} {
			r.AddImage(repo, "tag", []byte("a layer"))
		}
		get(t, n, "private", "tag")
		// Neither the type nor the length that a header tells is believed.
		r.Fault(upstreamtest.Method("HEAD"), upstreamtest.Header("Content-Type", "application/vnd.example.other+json"), upstreamtest.Chunked())
		r.ResetRequests()
		dgst := image.Digest.String()
		wantManifest(t, get(t, n, "fork", dgst), namespace.Miss, image)
		wantManifest(t, get(t, n, "fork", dgst), namespace.Hit, image)
		wantManifest(t, head(t, n, "fork2", dgst), namespace.Miss, image)
		wantManifest(t, head(t, n, "fork2", dgst), namespace.Hit, image)
		for _, ask := range []func(*testing.T, *namespace.Namespace, string, string) answer{get, head, get} {
			if got := ask(t, n, "public", dgst); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("served to a repository that does not have it: %+v", got)
			}
		}
		wantRequests(t, r,
			manifestRequest("GET", "fork", dgst, 200),
			manifestRequest("HEAD", "fork2", dgst, 200),
			manifestRequest("GET", "fork2", dgst, 200),
			manifestRequest("GET", "public", dgst, 404))
		if got := get(t, m.namespace("up.example", r, offline), "public", dgst); !isOffline(got.err) {
			t.Errorf("offline: %+v", got)
		}
	})
}

// TestTagOfAnotherRepositorysManifest has a HEAD of a tag prove nothing, and a GET by
// digest link the manifest and the tag.
func TestTagOfAnotherRepositorysManifest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		off := m.namespace("up.example", r, offline)
		image := r.AddImage("private", "tag", []byte("a layer"))
		r.AddImage("fork", "tag", []byte("a layer"))
		get(t, n, "private", "tag")
		r.ResetRequests()
		wantManifest(t, head(t, n, "fork", "tag"), namespace.Passed, image)
		if got := get(t, off, "fork", image.Digest.String()); !isOffline(got.err) {
			t.Errorf("a HEAD has linked a manifest: %+v", got)
		}
		wantManifest(t, get(t, n, "fork", image.Digest.String()), namespace.Miss, image)
		wantRequests(t, r, manifestRequest("HEAD", "fork", "tag", 200), manifestRequest("GET", "fork", image.Digest, 200))
		wantManifest(t, get(t, off, "fork", "tag"), namespace.Hit, image)
	})
}

func TestBlobIsNoManifest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		blob := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{},"layers":[]}`)
		dgst := r.AddBlob("app", blob)
		wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, blob)
		for _, ask := range []func(*testing.T, *namespace.Namespace, string, string) answer{get, head} {
			if got := ask(t, n, "app", dgst.String()); !errors.Is(got.err, upstream.ErrNotFound) {
				t.Errorf("a blob was served as a manifest: %+v", got)
			}
		}
		if got := get(t, m.namespace("up.example", r, offline), "app", dgst.String()); !isOffline(got.err) {
			t.Errorf("offline: %+v", got)
		}
	})
}

// TestBlobThatAnUpstreamCallsAManifest is not served as one when it is none.
func TestBlobThatAnUpstreamCallsAManifest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		blob := []byte("\x1f\x8b a layer")
		dgst := r.AddBlob("app", blob)
		r.AddManifest("app", dgst.String(), ocispec.MediaTypeImageManifest, blob)
		getBlob(t, n, "app", dgst)
		if got := get(t, n, "app", dgst.String()); !errors.Is(got.err, upstream.ErrUnavailable) {
			t.Errorf("got %+v", got)
		}
	})
}

// blobAnswer is the answer to a client's request for a blob.
type blobAnswer struct {
	cache namespace.CacheStatus
	size  int64
	body  []byte
	err   error
}

func getBlob(t *testing.T, n *namespace.Namespace, repo string, dgst digest.Digest) blobAnswer {
	t.Helper()
	b, err := n.Blob(t.Context(), repo, dgst, 0, -1)
	if err != nil {
		return blobAnswer{err: err}
	}
	body, err := io.ReadAll(b.Content)
	b.Content.Close()
	synctest.Wait() // for the commit
	return blobAnswer{cache: b.Cache, size: b.Size, body: body, err: err}
}

func wantBlob(t *testing.T, got blobAnswer, cache namespace.CacheStatus, want []byte) {
	t.Helper()
	if got.err != nil || string(got.body) != string(want) || got.cache != cache {
		t.Errorf("got %v, %d bytes, %v; want %v, %d bytes", got.cache, len(got.body), got.err, cache, len(want))
	}
}
