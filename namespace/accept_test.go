package namespace_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const artifactType = "application/vnd.oci.artifact.manifest.v1+json"

// negotiate makes a registry hide a tag or digest from clients that do not accept its
// type, as distribution does.
func negotiate(r *upstreamtest.Registry, mediaType, ref string) {
	r.Fault(func(req *http.Request) bool {
		return strings.HasSuffix(req.URL.Path, "/manifests/"+ref) && !strings.Contains(req.Header.Get("Accept"), mediaType)
	}, upstreamtest.Status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"the Accept header does not support it"}]}`))
}

// client is a client with an Accept header; "": none.
type client struct {
	t      *testing.T
	n      *namespace.Namespace
	accept string
}

func (c client) ref(ref string) oci.Reference {
	if c.accept == "" {
		return reference(c.t, ref).Accepting()
	}
	return reference(c.t, ref).Accepting(c.accept)
}

func (c client) get(ref string) answer {
	c.t.Helper()
	return read(c.t)(c.n.Manifest(c.t.Context(), "app", c.ref(ref)))
}

func (c client) head(ref string) answer {
	c.t.Helper()
	m, err := c.n.Head(c.t.Context(), "app", c.ref(ref))
	if err != nil {
		return answer{err: err}
	}
	return answer{Cache: m.Cache, desc: m.Descriptor, warn: m.Warning}
}

// A client that accepts a type is not answered by one that does not, neither with a
// remembered "not found" nor with another client's cached manifest.
func TestFurtherTypes(t *testing.T) {
	for _, mediaType := range []string{artifactType, "application/vnd.cncf.oras.artifact.manifest.v1+json", "application/vnd.oci.image.manifest.v9+json"} {
		t.Run(mediaType, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, negativeTTL(time.Hour), tagTTL(time.Minute), staleOn(upstream.ClassUnavailable))
				artifact := r.AddManifest("app", "v1", mediaType, fmt.Appendf(nil, `{"mediaType":%q,"blobs":[]}`, mediaType))
				dgst := artifact.Digest.String()
				negotiate(r, mediaType, "v1")
				negotiate(r, mediaType, dgst)
				old, modern, any := client{t, n, ocispec.MediaTypeImageIndex}, client{t, n, ocispec.MediaTypeImageIndex + ", " + mediaType}, client{t, n, "*/*"}
				const tag = "v1"
				wantMissing := func(got answer) {
					t.Helper()
					if !errors.Is(got.err, upstream.ErrNotFound) {
						t.Errorf("%+v, want not found", got)
					}
				}

				// The old client's "not found" holds for its like, and for no other.
				for range 2 {
					wantMissing(old.get(tag))
					wantMissing(old.get(dgst))
					wantMissing(old.head(tag))
				}
				wantRequests(t, r, manifestRequest("GET", "app", tag, 404), manifestRequest("GET", "app", dgst, 404))
				wantManifest(t, modern.head(tag), namespace.Passed, artifact)
				wantManifest(t, modern.get(dgst), namespace.Miss, artifact)
				wantRequests(t, r, manifestRequest("HEAD", "app", tag, 200), manifestRequest("GET", "app", dgst, 200))

				// It is cached, for all that accept it. By digest that is everybody.
				wantManifest(t, modern.get(tag), namespace.Hit, artifact)
				wantManifest(t, any.get(tag), namespace.Hit, artifact)
				wantManifest(t, client{t, n, ""}.head(tag), namespace.Hit, artifact)
				wantManifest(t, old.get(dgst), namespace.Hit, artifact)
				wantRequests(t, r)

				// The old client's question is another one, and forgets no tag.
				wantMissing(old.head(tag))
				wantMissing(old.get(tag))
				r.ResetRequests()
				wantManifest(t, modern.get(tag), namespace.Hit, artifact)
				wantRequests(t, r)

				// Later the tag is confirmed in the client's terms.
				time.Sleep(time.Hour)
				wantManifest(t, modern.get(tag), namespace.Revalidated, artifact)

				// Without an upstream there is no better answer.
				r.Close()
				time.Sleep(time.Hour)
				wantManifest(t, old.get(tag), namespace.Stale, artifact)
				wantManifest(t, client{t, m.namespace("up.example", r, offline), ocispec.MediaTypeImageIndex}.get(tag), namespace.Hit, artifact)
			})
		})
	}
}

// A registry that does not negotiate answers an old client with a manifest that it may
// not understand, and so does the mirror: the tag costs a HEAD.
func TestFurtherTypesWithoutNegotiation(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, tagTTL(time.Hour))
		artifact := r.AddManifest("app", "v1", artifactType, []byte(`{"mediaType":"`+artifactType+`","blobs":[]}`))
		old := client{t, n, ocispec.MediaTypeImageIndex}
		wantManifest(t, old.get("v1"), namespace.Miss, artifact)
		wantManifest(t, old.get("v1"), namespace.Revalidated, artifact)
		wantManifest(t, client{t, n, artifactType}.get("v1"), namespace.Hit, artifact)
		wantRequests(t, r, manifestRequest("GET", "app", "v1", 200), manifestRequest("HEAD", "app", "v1", 200))
	})
}

// A registry with two manifests under one tag gives each client its own, also of an
// immutable tag.
func TestTwoManifestsOfOneTag(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, immutable)
		artifact := r.AddManifest("app", "new", artifactType, []byte(`{"mediaType":"`+artifactType+`","blobs":[]}`))
		image := r.AddImage("app", "v1", []byte("layer"))
		r.Fault(func(req *http.Request) bool {
			if strings.Contains(req.Header.Get("Accept"), artifactType) {
				req.URL.Path = strings.Replace(req.URL.Path, "/v1", "/new", 1)
			}
			return false
		})
		modern, old := client{t, n, artifactType}, client{t, n, ocispec.MediaTypeImageManifest}
		wantManifest(t, modern.get("v1"), namespace.Miss, artifact)
		wantManifest(t, old.get("v1"), namespace.Moved, image)
		wantManifest(t, old.get("v1"), namespace.Hit, image)
	})
}

// The manifest that a HEAD named is asked for in the same terms, and so is one that was
// evicted.
func TestFurtherTypesAreSentAlong(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		modern := client{t, n, artifactType}
		add := func(text string) ocispec.Descriptor {
			return r.AddManifest("app", "v1", artifactType, []byte(`{"mediaType":"`+artifactType+`","blobs":[],"n":"`+text+`"}`))
		}
		negotiate(r, artifactType, "v1")
		first := add("one")
		wantManifest(t, modern.get("v1"), namespace.Miss, first)
		second := add("two")
		negotiate(r, artifactType, second.Digest.String())
		wantManifest(t, modern.get("v1"), namespace.Moved, second)
		if err := m.store.Delete(t.Context(), second.Digest); err != nil {
			t.Fatal(err)
		}
		wantManifest(t, modern.get("v1"), namespace.Miss, second)
		for _, record := range r.Log() {
			if got := record.Header.Values("Accept"); len(got) != 1 || got[0] != oci.AcceptManifests+", "+artifactType {
				t.Errorf("%s accepts %q", record, got)
			}
		}
	})
}
