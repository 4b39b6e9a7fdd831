package namespace_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestTagNotCached(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "latest", []byte("a layer"))
		wantManifest(t, get(t, n, "app", "latest"), namespace.Miss, image)
		wantRequests(t, r, manifestRequest("GET", "app", "latest", 200))
		// By digest it is cached now.
		wantManifest(t, get(t, n, "app", image.Digest.String()), namespace.Hit, image)
		wantManifest(t, head(t, n, "app", image.Digest.String()), namespace.Hit, image)
		wantRequests(t, r)
	})
}

func TestClientHeadCostsOneHead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "latest", []byte("a layer"))
		wantManifest(t, head(t, n, "app", "latest"), namespace.Passed, image)
		wantManifest(t, head(t, n, "app", image.Digest.String()), namespace.Passed, image)
		wantRequests(t, r,
			manifestRequest("HEAD", "app", "latest", 200),
			manifestRequest("HEAD", "app", image.Digest, 200))
		if commits := m.store.Calls("Commit"); commits != 0 {
			t.Errorf("a HEAD stored %d contents", commits)
		}
	})
}

// TestCachedTag holds the rows of the table "Tags" of a tag that is cached. The
// method is the client's; the requests are the upstream's.
func TestCachedTag(t *testing.T) {
	head405 := upstreamtest.Status(http.StatusMethodNotAllowed, "")
	type row struct {
		change   []func(*namespace.Spec)
		after    time.Duration
		moved    bool
		fault    upstreamtest.Effect // of HEADs
		cache    namespace.CacheStatus
		requests []string // {old} and {new} are the digests
	}
	getTag, headTag, getNew := "GET tag 200", "HEAD tag 200", "GET new 200"
	for name, row := range map[string]row{
		"immutable":            {[]func(*namespace.Spec){immutable}, 1000 * time.Hour, true, nil, namespace.Hit, nil},
		"within tag_ttl":       {[]func(*namespace.Spec){tagTTL(time.Hour)}, time.Hour - 1, true, nil, namespace.Hit, nil},
		"beyond tag_ttl":       {[]func(*namespace.Spec){tagTTL(time.Hour)}, time.Hour, false, nil, namespace.Revalidated, []string{headTag}},
		"offline":              {[]func(*namespace.Spec){offline}, 1000 * time.Hour, true, nil, namespace.Hit, nil},
		"same":                 {nil, 0, false, nil, namespace.Revalidated, []string{headTag}},
		"moved":                {nil, 0, true, nil, namespace.Moved, []string{headTag, getNew}},
		"same, no digest":      {nil, 0, false, upstreamtest.OmitDigest(), namespace.Revalidated, []string{headTag, getTag}},
		"moved, no digest":     {nil, 0, true, upstreamtest.OmitDigest(), namespace.Moved, []string{headTag, getTag}},
		"same, no length":      {nil, 0, false, upstreamtest.Chunked(), namespace.Revalidated, []string{headTag}},
		"moved, no length":     {nil, 0, true, upstreamtest.Chunked(), namespace.Moved, []string{headTag, getNew}},
		"same, HEAD refused":   {nil, 0, false, head405, namespace.Revalidated, []string{"HEAD tag 405", getTag}},
		"moved, HEAD refused":  {nil, 0, true, head405, namespace.Moved, []string{"HEAD tag 405", getTag}},
		"HEAD says 403":        {nil, 0, false, upstreamtest.Status(403, ""), namespace.Revalidated, []string{"HEAD tag 403", getTag}},
		"HEAD says 401":        {nil, 0, false, upstreamtest.Status(401, ""), namespace.Revalidated, []string{"HEAD tag 401", getTag}},
		"HEAD with other type": {nil, 0, false, upstreamtest.Header("Content-Type", "application/vnd.example.other+json"), namespace.Revalidated, []string{headTag}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				// Cached by a namespace of the same key that is online.
				old := r.AddImage("app", "tag", []byte("old"))
				wantManifest(t, get(t, m.namespace("up.example", r), "app", "tag"), namespace.Miss, old)
				n := m.namespace("up.example", r, row.change...)
				want := old
				if row.moved {
					moved := r.AddImage("app", "tag", []byte("new"))
					if row.cache == namespace.Moved {
						want = moved
					}
				}
				if row.fault != nil {
					r.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), row.fault)
				}
				time.Sleep(row.after)
				r.ResetRequests()
				wantManifest(t, get(t, n, "app", "tag"), row.cache, want)
				var requests []string
				for _, request := range row.requests {
					var method, ref string
					var status int
					fmt.Sscan(request, &method, &ref, &status)
					if ref == "new" {
						ref = want.Digest.String()
					}
					requests = append(requests, manifestRequest(method, "app", ref, status))
				}
				wantRequests(t, r, requests...)
				r.ClearFaults()
				// The record holds for a HEAD, and while the upstream is away.
				off := m.namespace("up.example", r, offline)
				wantManifest(t, get(t, off, "app", "tag"), namespace.Hit, want)
				wantManifest(t, head(t, off, "app", "tag"), namespace.Hit, want)
			})
		})
	}
}

func TestHeadOfCachedTag(t *testing.T) {
	for name, fault := range map[string]upstreamtest.Effect{
		"plain":      upstreamtest.Header("X-Nothing", "1"),
		"no length":  upstreamtest.Chunked(),
		"other type": upstreamtest.Header("Content-Type", "application/vnd.example.other+json"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r)
				old := r.AddImage("app", "tag", []byte("old"))
				get(t, n, "app", "tag")
				r.ResetRequests()
				r.Fault(upstreamtest.Method("HEAD"), fault)
				wantManifest(t, head(t, n, "app", "tag"), namespace.Revalidated, old)
				wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
				// The type by which it is served stays that of its body.
				wantManifest(t, get(t, n, "app", old.Digest.String()), namespace.Hit, old)
			})
		})
	}
}

func TestHeadOfMovedTag(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		r.AddImage("app", "tag", []byte("old"))
		get(t, n, "app", "tag")
		moved := r.AddImage("app", "tag", []byte("new"))
		r.ResetRequests()
		wantManifest(t, head(t, n, "app", "tag"), namespace.Moved, moved)
		wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
	})
}

// TestHeadThatSaysTooLittle has the upstream asked for the manifest itself.
func TestHeadThatSaysTooLittle(t *testing.T) {
	for name, fault := range map[string]upstreamtest.Effect{
		"no digest": upstreamtest.OmitDigest(),
		"no length": upstreamtest.Chunked(),
		"no type":   upstreamtest.Header("Content-Type", ""),
		"401":       upstreamtest.Status(401, ""),
		"403":       upstreamtest.Status(403, ""),
		"405":       upstreamtest.Status(405, ""),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r)
				image := r.AddImage("app", "tag", []byte("a layer"))
				r.Fault(upstreamtest.Method("HEAD"), fault)
				wantManifest(t, head(t, n, "app", "tag"), namespace.Miss, image)
				if len(r.Requests()) != 2 {
					t.Errorf("requests: %v", r.Requests())
				}
				wantManifest(t, get(t, m.namespace("up.example", r, offline), "app", "tag"), namespace.Hit, image)
			})
		})
	}
}

// TestHeadByDigestWithoutItsHeader needs no more than the HEAD: the digest is the
// one in the request.
func TestHeadByDigestWithoutItsHeader(t *testing.T) {
	for name, fault := range map[string]upstreamtest.Effect{
		"none":    upstreamtest.OmitDigest(),
		"another": upstreamtest.Header("Docker-Content-Digest", "sha256:"+fmt.Sprintf("%064d", 7)),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r)
				image := r.AddImage("app", "tag", []byte("a layer"))
				r.Fault(upstreamtest.Method("HEAD"), fault)
				wantManifest(t, head(t, n, "app", image.Digest.String()), namespace.Passed, image)
				wantRequests(t, r, manifestRequest("HEAD", "app", image.Digest, 200))
			})
		})
	}
}

func TestMovedTagWhoseContentIsCached(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		r.AddImage("app", "tag", []byte("old"))
		moved := r.AddImage("app", "other", []byte("new"))
		get(t, n, "app", "tag")
		get(t, n, "app", "other")
		r.Tag("app", "tag", moved.Digest)
		// Without a length in the HEAD, the store knows the size.
		r.Fault(upstreamtest.Method("HEAD"), upstreamtest.Chunked())
		r.ResetRequests()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Moved, moved)
		wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200))
		wantManifest(t, get(t, m.namespace("up.example", r, offline), "app", "tag"), namespace.Hit, moved)
	})
}

func TestNotFound(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, negativeTTL(time.Minute))
		image := r.AddImage("app", "tag", []byte("a layer"))
		for ref, ask := range map[string]func(*testing.T, *namespace.Namespace, string, string) answer{"a": get, "b": head} {
			want := []string{manifestRequest("GET", "app", ref, 404)}
			if ref == "b" { // a HEAD's "not found" needs a GET's word
				want = append([]string{manifestRequest("HEAD", "app", ref, 404)}, want...)
			}
			for range 3 {
				if got := ask(t, n, "app", ref); !errors.Is(got.err, upstream.ErrNotFound) {
					t.Errorf("%s: %v", ref, got.err)
				}
			}
			wantRequests(t, r, want...)
			r.Tag("app", ref, image.Digest)
			time.Sleep(time.Minute)
			if got := ask(t, n, "app", ref); got.err != nil {
				t.Errorf("%s after negative_ttl: %v", ref, got.err)
			}
			r.ResetRequests()
		}
	})
}

func TestTagThatIsGone(t *testing.T) {
	for name, ask := range map[string]func(*testing.T, *namespace.Namespace, string, string) answer{"GET": get, "HEAD": head} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, negativeTTL(time.Minute), staleOn(upstream.ClassUnavailable))
				image := r.AddImage("app", "tag", []byte("a layer"))
				get(t, n, "app", "tag")
				r.Untag("app", "tag")
				r.ResetRequests()
				for range 2 {
					if got := ask(t, n, "app", "tag"); !errors.Is(got.err, upstream.ErrNotFound) {
						t.Errorf("got %v", got.err)
					}
				}
				wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 404), manifestRequest("GET", "app", "tag", 404))
				// The record is gone, the content is not.
				if got := get(t, m.namespace("up.example", r, offline), "app", "tag"); !isOffline(got.err) {
					t.Errorf("the record is still there: %v, %v", got, got.err)
				}
				wantManifest(t, get(t, n, "app", image.Digest.String()), namespace.Hit, image)
			})
		})
	}
}

func TestOfflineNotCached(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, offline)
		image := r.AddImage("app", "tag", []byte("a layer"))
		for _, ref := range []string{"tag", image.Digest.String()} {
			for _, got := range []answer{get(t, n, "app", ref), head(t, n, "app", ref)} {
				if !isOffline(got.err) {
					t.Errorf("%s: %v", ref, got.err)
				}
			}
		}
		wantRequests(t, r)
	})
}

// A store that takes nothing is told once, however many manifests are pulled.
func TestManifestsWhereTheStoreFails(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "v1", []byte("a layer"))
		m.store.FailCommit(errors.New("disk full"))
		for range 3 {
			got, err := n.Manifest(t.Context(), "app", oci.ByTag("v1"))
			if err != nil || got.Descriptor.Digest != image.Digest || got.Cache != namespace.Passed {
				t.Fatalf("got %+v, %v", got, err)
			}
			got.Content.Close()
		}
		if got := m.log.Count("cannot store content"); got != 1 {
			t.Errorf("the log says so %d times, want once", got)
		}
	})
}
