package tests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// block is a repository block with one upstream.
func block(key string, upstream *upstreamtest.Registry, settings ...string) string {
	return fmt.Sprintf("[repository.%q]\n%s\n[[repository.%[1]q.upstream]]\nurl = %[3]q\n",
		key, inOrder(settings), upstream.URL.String())
}

// expectWire fails the test unless the upstream was asked exactly this since
// the last call.
func expectWire(t *testing.T, upstream *upstreamtest.Registry, label string, want ...string) {
	t.Helper()
	if got := upstream.Requests(); !slices.Equal(got, want) {
		t.Errorf("%s: the upstream was asked\n\t%s\nwant\n\t%s", label, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	upstream.ResetRequests()
}

// The whole of a pull by tag, cold and warm, request by request.
func TestPullOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", upstream))
	manifest := "/v2/mirror/org/app/manifests/"
	upstreamManifest := "/v2/org/app/manifests/"

	if a := w.Get(t, manifest+"v1"); a.Status != 200 || a.Header.Get("Docker-Content-Digest") != image.Digest.String() ||
		a.Header.Get("Cache-Status") != "weir; fwd=uri-miss; stored" {
		t.Errorf("cold: %d %v", a.Status, a.Header)
	}
	expectWire(t, upstream, "cold by tag", "GET "+upstreamManifest+"v1 200")

	if a := w.Get(t, manifest+"v1"); a.Status != 200 || a.Header.Get("Cache-Status") != "weir; hit; detail=revalidated" {
		t.Errorf("warm: %d %v", a.Status, a.Header)
	}
	expectWire(t, upstream, "warm by tag", "HEAD "+upstreamManifest+"v1 200")

	if a := w.Get(t, manifest+image.Digest.String()); a.Status != 200 || a.Header.Get("Cache-Status") != "weir; hit" {
		t.Errorf("by digest: %d %v", a.Status, a.Header)
	}
	expectWire(t, upstream, "by digest")
}

// dockerPull pulls as dockerd does and returns the digests that it saw: of the
// index, the first manifest, and its blobs.
func dockerPull(t *testing.T, w *harness.Weir, name, tag, cacheStatus string, manifest digest.Digest) []digest.Digest {
	t.Helper()
	expect(t, "ping", w.Get(t, "/v2/"), http.StatusOK, "")
	head := w.Do(t, http.MethodHead, manifestPath(name, tag))
	expect(t, "HEAD tag", head, http.StatusOK, "")
	index := digest.Digest(head.Header.Get("Docker-Content-Digest"))
	expectContent(t, "index", w.Get(t, manifestPath(name, index.String())), index, cacheStatus)
	image := w.Get(t, manifestPath(name, manifest.String()))
	expectContent(t, "manifest", image, manifest, cacheStatus)
	seen := []digest.Digest{index, manifest}
	for _, dgst := range contentOf(t, image.Body) {
		expectContent(t, "blob", w.Get(t, blobPath(name, dgst)), dgst, cacheStatus)
		seen = append(seen, dgst)
	}
	return seen
}

// Docker's way, at a registry with tokens and a CDN: one refusal for the
// challenge, one token, and no Authorization for the CDN, which would refuse
// it.
func TestDockerOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t,
		upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "s3cret"}),
		upstreamtest.WithCDN(upstreamtest.CDN{}))
	amd64 := upstream.AddImage("org/app", "amd64", []byte("layer one"), []byte("layer two"))
	arm64 := upstream.AddImage("org/app", "arm64", []byte("layer three"))
	upstream.AddIndex("org/app", "v1", amd64, arm64)
	w := harness.StartWeir(t, blockOf("mirror", nil, at(upstream, `username = "reader"`, `password = "s3cret"`)))

	seen := dockerPull(t, w, "mirror/org/app", "v1", statusStored, amd64.Digest)
	var cdn []string
	want := []string{"HEAD /v2/org/app/manifests/v1 401", "HEAD /v2/org/app/manifests/v1 200"}
	for _, manifest := range seen[:2] {
		want = append(want, "GET /v2/org/app/manifests/"+manifest.String()+" 200")
	}
	for _, blob := range seen[2:] {
		want = append(want, "GET "+blobPath("org/app", blob)+" 307")
		cdn = append(cdn, "GET /cdn/org/app/"+blob.String()+" 200")
	}
	if got := upstream.CDNRequests(); !slices.Equal(got, cdn) {
		t.Errorf("the CDN was asked %q, want %q", got, cdn)
	}
	if got := upstream.TokenRequests(); len(got) != 1 || !strings.Contains(got[0], "scope=repository%3Aorg%2Fapp%3Apull") {
		t.Errorf("the token service was asked %q, want once for pulling org/app", got)
	}
	for _, record := range upstream.Log() {
		authorization := record.Header.Get("Authorization")
		switch {
		case record.Server == "cdn" && authorization != "":
			t.Errorf("the CDN got the Authorization %q", authorization)
		case record.Server == "registry" && record.Status != http.StatusUnauthorized && !strings.HasPrefix(authorization, "Bearer token-"):
			t.Errorf("%s carried the Authorization %q", record, authorization)
		case record.Header.Get("Accept-Encoding") != "identity" && record.Server != "token":
			t.Errorf("%s accepts the encoding %q", record, record.Header.Get("Accept-Encoding"))
		}
	}
	expectWire(t, upstream, "cold", want...)
	w.MetricIs(t, 0, "weir_downloads") // all is stored

	dockerPull(t, w, "mirror/org/app", "v1", statusHit, amd64.Digest)
	if got := len(upstream.TokenRequests()) + len(upstream.CDNRequests()); got != 0 {
		t.Errorf("a warm pull caused %d requests to the token service and the CDN", got)
	}
	expectWire(t, upstream, "warm", "HEAD /v2/org/app/manifests/v1 200")

	// Another repository has a challenge and a token of its own.
	other := upstream.AddBlob("org/other", []byte("another blob"))
	expectContent(t, "another repository", w.Get(t, blobPath("mirror/org/other", other)), other, statusStored)
	expectWire(t, upstream, "another repository", "GET "+blobPath("org/other", other)+" 401", "GET "+blobPath("org/other", other)+" 307")
}

// Containerd 2.4's way: the ns parameter, and a range of everything on
// everything.
func TestContainerdOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	upstream.AddIndex("org/app", "v2", image)
	w := harness.StartWeir(t, block("ghcr.io", upstream))

	get := func(path string, dgst digest.Digest) harness.Answer {
		t.Helper()
		a := w.Get(t, path+"?ns=ghcr.io", "Range", "bytes=0-")
		expect(t, path, a, http.StatusPartialContent, statusStored)
		if got := dgst.Algorithm().FromBytes(a.Body); got != dgst {
			t.Errorf("%s: digest %s, want %s", path, got, dgst)
		}
		if got := a.Header.Get("OCI-Namespace"); got != "ghcr.io" {
			t.Errorf("%s: OCI-Namespace %q", path, got)
		}
		if got, want := a.Header.Get("Content-Range"), fmt.Sprintf("bytes 0-%d/%[2]d", len(a.Body)-1, len(a.Body)); got != want {
			t.Errorf("%s: Content-Range %q, want %q", path, got, want)
		}
		return a
	}
	head := w.Do(t, http.MethodHead, "/v2/org/app/manifests/v2?ns=ghcr.io")
	expect(t, "HEAD tag", head, http.StatusOK, statusPassed)
	index := digest.Digest(head.Header.Get("Docker-Content-Digest"))
	get(manifestPath("org/app", index.String()), index)
	manifest := get(manifestPath("org/app", image.Digest.String()), image.Digest)
	want := []string{
		"HEAD /v2/org/app/manifests/v2 200",
		"GET " + manifestPath("org/app", index.String()) + " 200",
		"GET " + manifestPath("org/app", image.Digest.String()) + " 200",
	}
	for _, dgst := range contentOf(t, manifest.Body) {
		get(blobPath("org/app", dgst), dgst)
		want = append(want, "GET "+blobPath("org/app", dgst)+" 200")
	}
	expectWire(t, upstream, "containerd", want...)
}

// Podman's way: no HEAD, and a connection for each request.
func TestPodmanOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	index := upstream.AddIndex("org/app", "v2", image)
	w := harness.StartWeir(t, block("quay.io", upstream))

	get := func(path string) harness.Answer { return w.Get(t, path, "Connection", "close") }
	expect(t, "ping", get("/v2/"), http.StatusOK, "")
	expectContent(t, "GET tag", get(manifestPath("quay.io/org/app", "v2")), index.Digest, statusStored)
	manifest := get(manifestPath("quay.io/org/app", image.Digest.String()))
	expectContent(t, "GET manifest", manifest, image.Digest, statusStored)
	want := []string{
		"GET /v2/org/app/manifests/v2 200",
		"GET " + manifestPath("org/app", image.Digest.String()) + " 200",
	}
	for _, dgst := range contentOf(t, manifest.Body) {
		expectContent(t, "GET blob", get(blobPath("quay.io/org/app", dgst)), dgst, statusStored)
		want = append(want, "GET "+blobPath("org/app", dgst)+" 200")
	}
	expectWire(t, upstream, "podman", want...)
}

// All the names by which clients know one image share one cache. The upstream
// is Docker Hub by its name, which a proxy leads to the fake.
func TestSpellingsShareOneCache(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	app := upstream.AddImage("org/app", "v1", []byte("an app"))
	nginx := upstream.AddImage("library/nginx", "v1", []byte("nginx"))
	hub := []string{`url = "http://registry-1.docker.io"`, fmt.Sprintf("proxy = %q", upstream.URL)}
	w := harness.StartWeir(t, blockOf("docker.io", []string{"default = true"}, hub))

	for _, image := range []struct {
		digest   digest.Digest
		upstream string
		names    []string
	}{
		{app.Digest, "org/app", []string{
			"/v2/docker.io/org/app/manifests/%s", "/v2/org/app/manifests/%s",
			"/v2/org/app/manifests/%s?ns=docker.io", "/v2/org/app/manifests/%s?ns=INDEX.docker.io",
			"/v2/docker.io/org/app/manifests/%s?ns=registry-1.docker.io", "/v2/docker.io/org/app/manifests/%s?ns=unknown.example",
		}},
		{nginx.Digest, "library/nginx", []string{
			"/v2/docker.io/nginx/manifests/%s", "/v2/docker.io/library/nginx/manifests/%s",
			"/v2/nginx/manifests/%s", "/v2/library/nginx/manifests/%s", "/v2/nginx/manifests/%s?ns=docker.io",
		}},
	} {
		for i, name := range image.names {
			cacheStatus := statusHit
			if i == 0 {
				cacheStatus = statusStored
			}
			path := fmt.Sprintf(name, image.digest)
			expectContent(t, path, w.Get(t, path), image.digest, cacheStatus)
		}
		expectWire(t, upstream, image.upstream, "GET "+manifestPath(image.upstream, image.digest.String())+" 200")
	}
}

// An image of a registry that no block mirrors is answered with 404, and its name
// reaches no upstream: not the default block's, whose image would be another one.
func TestOtherRegistriesAreUnknown(t *testing.T) {
	t.Parallel()
	hub, ghcr := upstreamtest.New(t), upstreamtest.New(t)
	for _, name := range []string{"library/nginx", "nginx", "org/app", "quay.io/org/app", "ghrc.io/acme/app", "localhost/app", "ghcr.io/other/app"} {
		hub.AddImage(name, "v1", []byte("another image of this name"))
	}
	w := harness.StartWeir(t, blockOf("docker.io", []string{"default = true"}, at(hub))+blockOf("ghcr.io/acme", nil, at(ghcr)))

	for path, nearest := range map[string]string{
		"/v2/library/nginx/manifests/v1?ns=quay.io":                        "",
		"/v2/org/app/manifests/v1?ns=dokcer.io":                            "did you mean docker.io/org/app?",
		"/v2/nginx/manifests/v1?ns=localhost:5000":                         "",
		"/v2/org/app/tags/list?ns=ghcr.io":                                 "",
		"/v2/quay.io/org/app/manifests/v1":                                 "",
		"/v2/ghrc.io/acme/app/manifests/v1":                                "did you mean ghcr.io/acme/app?",
		"/v2/ghrc.io/acme/app/manifests/v1?ns=ghrc.io":                     "",
		"/v2/localhost/app/manifests/v1":                                   "",
		"/v2/ghcr.io/other/app/manifests/v1":                               "",
		"/v2/10.0.0.1:5000/app/manifests/v1":                               "",
		"/v2/index.docker.io/library/nginx/tags/list":                      "did you mean docker.io/library/nginx?",
		"/v2/quay.io/org/app/blobs/" + digest.FromString("x").String():     "",
		"/v2/quay.io/org/app/referrers/" + digest.FromString("x").String(): "",
	} {
		a := w.Get(t, path)
		if a.Status != http.StatusNotFound || a.ErrorCode() != "NAME_UNKNOWN" || !strings.Contains(string(a.Body), nearest) ||
			!strings.Contains(string(a.Body), "names begin with docker.io, ghcr.io/acme") {
			t.Errorf("%s: %d %s, want NAME_UNKNOWN and %q", path, a.Status, a.Body, nearest)
		}
	}
	if a := w.Do(t, http.MethodPut, "/v2/quay.io/org/app/manifests/v1"); a.Status != http.StatusNotFound {
		t.Errorf("a write: %d %s", a.Status, a.Body)
	}
	for _, upstream := range []*upstreamtest.Registry{hub, ghcr} {
		if asked := upstream.Requests(); len(asked) > 0 {
			t.Errorf("an upstream was asked %q", asked)
		}
	}
	// Names without a host are the default block's. It stands for Docker Hub by
	// its key, although its upstream is another registry.
	for _, name := range []string{"/v2/nginx/manifests/v1", "/v2/library/nginx/manifests/v1?ns=docker.io"} {
		if a := w.Get(t, name); a.Status != http.StatusOK {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	expectWire(t, hub, "library/nginx", "GET /v2/library/nginx/manifests/v1 200", "HEAD /v2/library/nginx/manifests/v1 200")
}

// Content that one repository has cached is served to another one only if that
// one's upstream confirms it.
func TestRepositoriesAreIsolated(t *testing.T) {
	t.Parallel()
	upstream, private := upstreamtest.New(t), upstreamtest.New(t)
	shared := upstream.AddBlob("org/one", []byte("shared by two"))
	upstream.AddBlob("org/two", []byte("shared by two"))
	image := upstream.AddImage("org/one", "v1", []byte("shared by two"))
	w := harness.StartWeir(t, block("public", upstream)+block("private", private))
	expectContent(t, "first blob", w.Get(t, blobPath("public/org/one", shared)), shared, statusStored)
	expectContent(t, "first manifest", w.Get(t, manifestPath("public/org/one", "v1")), image.Digest, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	upstream.ResetRequests()

	expectContent(t, "a repository that has it", w.Get(t, blobPath("public/org/two", shared)), shared, statusRevalidated)
	// A word is no proof: the upstream shows the content, and so small a one as a whole.
	expectWire(t, upstream, "a repository that has it", "GET "+blobPath("org/two", shared)+" 200")
	expectContent(t, "once more", w.Get(t, blobPath("public/org/two", shared)), shared, statusHit)
	expectWire(t, upstream, "once more")

	for _, name := range []string{"public/org/three", "private/org/one"} {
		a := w.Get(t, blobPath(name, shared))
		expect(t, name, a, http.StatusNotFound, "")
		if a.ErrorCode() != "BLOB_UNKNOWN" {
			t.Errorf("%s: %s", name, a.Body)
		}
		a = w.Get(t, manifestPath(name, image.Digest.String()))
		expect(t, name, a, http.StatusNotFound, "")
	}
	expectWire(t, upstream, "a repository that does not have it",
		"GET "+blobPath("org/three", shared)+" 404", "GET "+manifestPath("org/three", image.Digest.String())+" 404")
	expectWire(t, private, "another upstream that does not have it",
		"GET "+blobPath("org/one", shared)+" 404", "GET "+manifestPath("org/one", image.Digest.String())+" 404")
}

// A tag that moves costs a HEAD and a GET of the new content by its digest; an
// immutable one is never asked for again.
func TestTagsThatMove(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	first := upstream.AddImage("org/app", "v1", []byte("one"))
	upstream.Tag("org/app", "latest", first.Digest)
	w := harness.StartWeir(t, block("mirror", upstream, "immutable_tags = true", `immutable_tags_exclusions = ["^latest$"]`))
	for _, tag := range []string{"v1", "latest"} {
		expectContent(t, "cold "+tag, w.Get(t, manifestPath("mirror/org/app", tag)), first.Digest, statusStored)
	}
	second := upstream.AddImage("org/app", "v1", []byte("two"))
	upstream.Tag("org/app", "latest", second.Digest)
	upstream.ResetRequests()

	expectContent(t, "immutable", w.Get(t, manifestPath("mirror/org/app", "v1")), first.Digest, statusHit)
	expectWire(t, upstream, "immutable")
	expectContent(t, "moved", w.Get(t, manifestPath("mirror/org/app", "latest")), second.Digest, statusMoved)
	expectWire(t, upstream, "moved", "HEAD /v2/org/app/manifests/latest 200", "GET "+manifestPath("org/app", second.Digest.String())+" 200")
	expectContent(t, "settled", w.Get(t, manifestPath("mirror/org/app", "latest")), second.Digest, statusRevalidated)
}

// Clients may speak HTTP/2 without TLS, as proxies before a mirror do.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", mib, 80)
	w := harness.StartWeir(t, block("mirror", upstream))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(request(t, w, blobPath("mirror/org/app", dgst)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := digest.FromReader(resp.Body)
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK || got != dgst || err != nil {
		t.Errorf("%s %s, digest %s, %v", resp.Proto, resp.Status, got, err)
	}
}
