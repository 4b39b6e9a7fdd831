package namespace_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

type uselessHead struct {
	effect   upstreamtest.Effect
	statuses []int
}

// uselessHeads are answers to a HEAD of content that a GET finds, with the status of
// each try.
var uselessHeads = map[string]uselessHead{
	"400":                {upstreamtest.Status(400, ""), []int{400}},
	"403":                {upstreamtest.Status(403, ""), []int{403}},
	"404":                {upstreamtest.Status(404, ""), []int{404}},
	"405":                {upstreamtest.Status(405, ""), []int{405}},
	"406":                {upstreamtest.Status(406, ""), []int{406}},
	"410":                {upstreamtest.Status(410, ""), []int{410}},
	"500":                {upstreamtest.Status(500, ""), []int{500}},
	"501":                {upstreamtest.Status(501, ""), []int{501}},
	"503":                {upstreamtest.Status(503, ""), []int{503, 503, 503}},
	"broken connection":  {upstreamtest.Drop(), []int{0, 0, 0}},
	"a page for a login": {upstreamtest.Header("Content-Type", "text/html"), []int{200}},
}

// TestUselessHead asks again and again for a tag whose HEAD is useless. No answer of
// HEAD keeps a client from the tag, whether it is cached or not, moves or stays.
func TestUselessHead(t *testing.T) {
	heads := maps.Clone(uselessHeads)
	// The store takes sha256 and sha512 only.
	for name, dgst := range map[string]string{
		"sha384": digest.SHA384.FromString("x").String(), "another algorithm": "blake3:" + strings.Repeat("0", 64), "short": "sha256:00",
		"upper case": "sha256:" + strings.Repeat("A", 64), "a tag": "latest", "a path": "sha256:../../" + strings.Repeat("0", 58),
		"combined": "sha256+b64:" + strings.Repeat("0", 64), "long": "sha512:" + strings.Repeat("0", 4096),
	} {
		heads["digest: "+name] = uselessHead{upstreamtest.Header("Docker-Content-Digest", dgst), []int{200}}
	}
	for name, useless := range heads {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, negativeTTL(time.Minute), staleOn(upstream.ClassUnavailable))
				r.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")), useless.effect)
				image := r.AddImage("app", "tag", []byte("a layer"))
				var headed []string
				for _, status := range useless.statuses {
					headed = append(headed, manifestRequest("HEAD", "app", "tag", status))
				}
				got := manifestRequest("GET", "app", "tag", 200)
				wantManifest(t, head(t, n, "app", "tag"), namespace.Miss, image)
				wantRequests(t, r, append(headed, got)...)
				for range 2 {
					wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
					wantRequests(t, r, got)
					wantManifest(t, head(t, n, "app", "tag"), namespace.Revalidated, image)
					wantRequests(t, r, got)
				}
				moved := r.AddImage("app", "tag", []byte("another layer"))
				wantManifest(t, get(t, n, "app", "tag"), namespace.Moved, moved)
				wantRequests(t, r, got)
				// An hour later the HEAD is tried again, and nothing else changes.
				time.Sleep(time.Hour)
				// Of a HEAD that is tried more than once, the client sees the first try.
				status := namespace.Revalidated
				if len(headed) > 1 {
					status = namespace.Stale
				}
				wantManifest(t, get(t, n, "app", "tag"), status, moved)
				time.Sleep(time.Second)
				wantRequests(t, r, append(slices.Clone(headed), got)...)
				wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, moved)
				wantRequests(t, r, got)
			})
		})
	}
}

// TestUselessHeadOfBlob has a blob's useless HEAD decide neither about the
// possession of a blob nor about a client's HEAD.
func TestUselessHeadOfBlob(t *testing.T) {
	for name, useless := range uselessHeads {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, negativeTTL(time.Minute))
				r.Fault(upstreamtest.All(upstreamtest.Blobs, upstreamtest.Method("HEAD")), useless.effect)
				content := []byte("a layer")
				dgst := r.AddBlob("app", content)
				r.AddBlob("fork", content)
				b, err := n.HeadBlob(t.Context(), "app", dgst)
				if err != nil || b.Cache != namespace.Passed || b.Size != int64(len(content)) {
					t.Errorf("got %+v, %v", b, err)
				}
				var want []string
				for _, status := range useless.statuses {
					want = append(want, blobRequest("HEAD", "app", dgst, fmt.Sprint(status)))
				}
				wantRequests(t, r, append(want, blobRequest("GET", "app", dgst, "bytes=0-0 206"))...)
				// No "not found" of the HEAD is left that this GET could read.
				wantBlob(t, getBlob(t, n, "app", dgst), namespace.Miss, content)
				wantRequests(t, r, blobRequest("GET", "app", dgst, "200"))
				wantBlob(t, getBlob(t, n, "fork", dgst), namespace.Revalidated, content)
				wantRequests(t, r, blobRequest("GET", "fork", dgst, "200"))
			})
		})
	}
}

// TestHeadNamesMissingDigest has a HEAD name a digest that the GET by digest does not
// find, and the GET by tag decide.
func TestHeadNamesMissingDigest(t *testing.T) {
	converted := digest.FromString("the manifest before a proxy converted it")
	for name, answer := range map[string]upstreamtest.Effect{
		"404":               upstreamtest.Status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`),
		"404, empty":        upstreamtest.Status(404, ""),
		"400":               upstreamtest.Status(400, `{"errors":[{"code":"DIGEST_INVALID"}]}`),
		"403":               upstreamtest.Status(403, ""),
		"500":               upstreamtest.Status(500, ""),
		"another manifest":  nil,
		"a page for people": upstreamtest.Status(200, "<html>"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, negativeTTL(time.Minute), staleOn(upstream.ClassUnavailable))
				old := r.AddImage("app", "tag", []byte("old"))
				wantManifest(t, get(t, n, "app", "tag"), namespace.Miss, old)
				r.ResetRequests()
				moved := r.AddImage("app", "tag", []byte("new"))
				r.Fault(upstreamtest.Method("HEAD"), upstreamtest.Header("Docker-Content-Digest", converted.String()))
				status := 200
				if answer == nil {
					r.AddManifest("app", converted.String(), moved.MediaType, []byte(`{"schemaVersion":2}`))
				} else {
					r.Fault(upstreamtest.Path(converted.String()), answer)
					fmt.Sscan(name, &status)
				}
				wantManifest(t, get(t, n, "app", "tag"), namespace.Moved, moved)
				wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200),
					manifestRequest("GET", "app", converted, status), manifestRequest("GET", "app", "tag", 200))
				// The HEAD's word is not asked for again for a while.
				wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, moved)
				wantManifest(t, head(t, n, "app", "tag"), namespace.Revalidated, moved)
				wantRequests(t, r, manifestRequest("GET", "app", "tag", 200), manifestRequest("GET", "app", "tag", 200))
			})
		})
	}
}

// A client's HEAD is passed the digest that the upstream's HEAD names. If the client
// then cannot get it, its next HEAD tells the digest that a GET finds.
func TestClientHeadNamesMissingDigest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "tag", []byte("a layer"))
		converted := digest.FromString("the manifest before a proxy converted it").String()
		r.Fault(upstreamtest.Method("HEAD"), upstreamtest.Header("Docker-Content-Digest", converted))
		if got := head(t, n, "app", "tag"); got.err != nil || got.desc.Digest.String() != converted {
			t.Errorf("got %+v", got)
		}
		if got := get(t, n, "app", converted); got.err == nil {
			t.Errorf("got %+v", got)
		}
		wantManifest(t, head(t, n, "app", "tag"), namespace.Miss, image)
		wantManifest(t, get(t, n, "app", image.Digest.String()), namespace.Hit, image)
	})
}

// The tag of a first upstream with a useless HEAD does not move back to the manifest
// of a second one that lags.
func TestUselessHeadBeforeLaggingUpstream(t *testing.T) {
	for name, useless := range uselessHeads {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				first, second := m.registry("first.example"), m.registry("second.example")
				current := first.AddImage("app", "tag", []byte("new"))
				second.AddImage("app", "tag", []byte("old"))
				first.Fault(upstreamtest.Method("HEAD"), useless.effect)
				n := m.chain("up.example", []*upstreamtest.Registry{first, second})
				wantManifest(t, get(t, n, "app", "tag"), namespace.Miss, current)
				for range 3 {
					wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, current)
				}
				wantRequests(t, second)
			})
		})
	}
}

// TestNotFoundNeedsRegistry has a cached tag survive refusals that are not a
// registry's word. A tag that is not cached is "not found" anyway, and that is
// not remembered.
func TestNotFoundNeedsRegistry(t *testing.T) {
	coded := func(code string) string { return `{"errors":[{"code":"` + code + `"}]}` }
	for name, row := range map[string]struct {
		status int
		body   string
		want   upstream.Class // of the failure if the tag is not cached
		kept   bool           // if it is cached
	}{
		"an ingress":        {404, "default backend - 404", upstream.ClassNotFound, true},
		"a page":            {404, "<html>", upstream.ClassNotFound, true},
		"a gateway":         {404, `{"message":"no route"}`, upstream.ClassNotFound, true},
		"unsupported":       {404, coded("UNSUPPORTED"), upstream.ClassNotFound, true},
		"TLS expected":      {400, "<html>The plain HTTP request was sent to HTTPS port", upstream.ClassUnavailable, true},
		"a wrong page":      {400, coded("PAGINATION_NUMBER_INVALID"), upstream.ClassUnavailable, true},
		"gone, with a page": {410, "<html>", upstream.ClassUnavailable, true},
		"unknown":           {404, coded("MANIFEST_UNKNOWN"), upstream.ClassNotFound, false},
		"of Harbor":         {404, coded("NOT_FOUND"), upstream.ClassNotFound, false},
		"invalid":           {400, coded("NAME_INVALID"), upstream.ClassNotFound, false},
		"gone":              {410, coded("NAME_UNKNOWN"), upstream.ClassNotFound, false},
		"nothing":           {404, "", upstream.ClassNotFound, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, negativeTTL(time.Minute), staleOn(upstream.ClassUnavailable))
				image := r.AddImage("app", "tag", []byte("a layer"))
				get(t, n, "app", "tag")
				fault := r.Fault(upstreamtest.Manifests, upstreamtest.Status(row.status, row.body))
				for _, ask := range []func(*testing.T, *namespace.Namespace, string, string) answer{head, get, head, get} {
					if got := ask(t, n, "app", "tag"); row.kept {
						wantManifest(t, got, namespace.Stale, image)
					} else if upstream.ClassOf(got.err) != upstream.ClassNotFound {
						t.Errorf("got %+v", got)
					}
				}
				r.ResetRequests()
				for range 2 {
					if got := get(t, n, "app", "other"); upstream.ClassOf(got.err) != row.want {
						t.Errorf("not cached: %+v", got)
					}
				}
				if remembered := len(r.Requests()) == 1; remembered == row.kept {
					t.Errorf("not cached, asked twice: %v", r.Requests())
				}
				fault.Remove()
				if got := get(t, m.namespace("up.example", r, offline), "app", "tag"); row.kept {
					wantManifest(t, got, namespace.Hit, image)
				} else if !isOffline(got.err) {
					t.Errorf("the record is still there: %+v", got)
				}
			})
		})
	}
}

// A failure that is not a registry's word is a failure of the upstream if the tag is
// cached and may not be served stale. The tag is there again when the upstream is.
func TestDoubtfulNotFoundWithoutStale(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn())
		image := r.AddImage("app", "tag", []byte("a layer"))
		get(t, n, "app", "tag")
		fault := r.Fault(upstreamtest.Manifests, upstreamtest.Status(404, "<html>"))
		if got := get(t, n, "app", "tag"); upstream.ClassOf(got.err) != upstream.ClassUnavailable {
			t.Errorf("got %+v", got)
		}
		fault.Remove()
		wantManifest(t, get(t, n, "app", "tag"), namespace.Revalidated, image)
	})
}

// A list that is cached stands in for a load balancer's page, too.
func TestDoubtfulNotFoundOfTags(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
		r.AddImage("app", "tag", []byte("a layer"))
		if _, err := n.Tags(t.Context(), "app", nil); err != nil {
			t.Fatal(err)
		}
		for body, stale := range map[string]bool{"<html>": true, "default backend - 404": true, "": false} {
			fault := r.Fault(upstreamtest.Tags, upstreamtest.Status(404, body))
			list, err := n.Tags(t.Context(), "app", nil)
			if got := err == nil && list.Cache == namespace.Stale; got != stale {
				t.Errorf("%q: %+v, %v", body, list, err)
			}
			fault.Remove()
		}
	})
}

// TestManifestWithoutType serves and keeps a manifest that nothing gives a type, by
// the type of its shape. A HEAD does not pass on a type that is none.
func TestManifestWithoutType(t *testing.T) {
	for shape, want := range map[string]string{
		`{"schemaVersion":2,"config":{},"layers":[]}`: ocispec.MediaTypeImageManifest,
		`{"schemaVersion":2,"manifests":[]}`:          ocispec.MediaTypeImageIndex,
	} {
		for _, header := range []string{"", "text/plain", "text/html", "application/octet-stream", "application/json"} {
			t.Run(want+" as "+header, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mirror) {
					r := m.registry("up.example")
					n := m.namespace("up.example", r)
					image := r.AddManifest("app", "tag", header, []byte(shape))
					r.AddManifest("fork", "tag", header, []byte(shape))
					image.MediaType = want
					// Neither asks for more than the manifest, which is stored.
					wantManifest(t, head(t, n, "app", "tag"), namespace.Miss, image)
					wantRequests(t, r, manifestRequest("HEAD", "app", "tag", 200), manifestRequest("GET", "app", "tag", 200))
					for _, ask := range []func(*testing.T, *namespace.Namespace, string, string) answer{get, head} {
						wantManifest(t, ask(t, n, "app", "tag"), namespace.Revalidated, image)
						wantManifest(t, ask(t, n, "app", image.Digest.String()), namespace.Hit, image)
					}
					for _, request := range r.Requests() {
						if !strings.Contains(request, " /v2/app/manifests/tag ") {
							t.Errorf("asked again for stored content: %s", request)
						}
					}
					wantManifest(t, get(t, m.namespace("up.example", r, offline), "app", "tag"), namespace.Hit, image)
					if got := get(t, n, "fork", image.Digest.String()); got.err != nil || got.desc.MediaType != want {
						t.Errorf("got %+v", got)
					}
				})
			})
		}
	}
}
