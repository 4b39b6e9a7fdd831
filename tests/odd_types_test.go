package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A manifest of a type that Weir does not know comes to a client that accepts it, from a
// registry that shows it to no other.
func TestFurtherManifestTypes(t *testing.T) {
	t.Parallel()
	types := []string{
		"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json",
		"application/vnd.oci.image.index.v9+json", "application/vnd.example.model+json",
	}
	upstreams, artifacts, config := make([]*upstreamtest.Registry, len(types)), make([]ocispec.Descriptor, len(types)), ""
	for i, mediaType := range types {
		upstream := upstreamtest.New(t)
		upstream.Fault(func(r *http.Request) bool {
			return upstreamtest.Manifests(r) && !strings.Contains(r.Header.Get("Accept"), mediaType)
		}, upstreamtest.Status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"the Accept header does not support it"}]}`))
		artifacts[i] = upstream.AddManifest("app", "v1", mediaType, fmt.Appendf(nil, `{"mediaType":%q,"blobs":[]}`, mediaType))
		upstreams[i] = upstream
		config += blockOf(fmt.Sprint("types", i), []string{`tag_ttl = "1h"`, `negative_ttl = "1h"`}, at(upstream))
	}
	w := harness.StartWeir(t, config)
	docker := ocispec.MediaTypeImageManifest + ", application/json"
	for i, mediaType := range types {
		t.Run(mediaType, func(t *testing.T) {
			upstream, dgst := upstreams[i], artifacts[i].Digest
			repo := fmt.Sprintf("types%d/app", i)
			tag, byDigest := manifestPath(repo, "v1"), manifestPath(repo, dgst.String())
			wire := func(method, ref string, status int) string {
				return fmt.Sprintf("%s %s %d", method, manifestPath("app", ref), status)
			}
			for range 2 { // the second time it is remembered
				expect(t, "a client that does not accept it", w.Get(t, tag, "Accept", docker), 404, "")
				expect(t, "by digest", w.Get(t, byDigest, "Accept", docker), 404, "")
			}
			expectWire(t, upstream, "not accepted", wire("GET", "v1", 404), wire("GET", dgst.String(), 404))

			a := w.Do(t, http.MethodHead, tag, "Accept", docker, "Accept", mediaType+";q=0.5")
			expect(t, "HEAD", a, 200, statusPassed)
			a = w.Get(t, tag, "Accept", docker+", "+mediaType)
			expectContent(t, "GET", a, dgst, statusStored)
			if got := a.Header.Get("Content-Type"); got != mediaType {
				t.Errorf("it is a %s", got)
			}
			for _, record := range upstream.Log()[0:2] {
				if got := record.Header.Values("Accept"); len(got) != 1 || got[0] != oci.AcceptManifests+", "+mediaType {
					t.Errorf("%s accepts %q", record, got)
				}
			}
			expectWire(t, upstream, "accepted", wire("HEAD", "v1", 200), wire("GET", "v1", 200))

			expectContent(t, "cached", w.Get(t, tag, "Accept", mediaType), dgst, statusHit)
			expectContent(t, "cached, for any client", w.Get(t, tag), dgst, statusHit)
			expectContent(t, "cached, for containerd", w.Get(t, tag, "Accept", docker+", */*"), dgst, statusHit)
			expect(t, "cached, HEAD", w.Do(t, http.MethodHead, tag, "Accept", mediaType), 200, statusHit)
			expectContent(t, "cached, by digest", w.Get(t, byDigest, "Accept", docker), dgst, statusHit)
			expectWire(t, upstream, "cached")

			expect(t, "cached, not accepted", w.Get(t, tag, "Accept", docker), 404, "")
			expectContent(t, "still cached", w.Get(t, tag, "Accept", mediaType), dgst, statusHit)
		})
	}
}

// A hostile Accept header reaches no upstream, and costs no more than another one.
func TestHostileAccept(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", upstream))
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("application/vnd.%d+json", i))
	}
	for _, accept := range []string{
		strings.Repeat(",", 40*kib), strings.Repeat("application/vnd.", 2*kib) + "+json", strings.Join(many, ","),
		"application/vnd.a b+json", `application/vnd."+json`, "application/vnd.x/../y+json", "text/html;q=\"", ";;;=", "*/*;q=-1",
	} {
		a := w.Get(t, manifestPath("mirror/app", "v1"), "Accept", accept)
		expectContent(t, fmt.Sprintf("%.60q", accept), a, image.Digest, "")
		log := upstream.Log()
		got := log[len(log)-1].Header.Get("Accept")
		further := strings.TrimPrefix(got, oci.AcceptManifests)
		if further == got || len(further) > 600 || strings.ContainsAny(further, " \"/") && !strings.HasPrefix(further, ", application/vnd.0+json, ") {
			t.Errorf("%.60q: the upstream was asked for %q", accept, got)
		}
	}
}
