package pages

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const (
	// hostile would change the title of a page if it ran, or the direction of the text behind it.
	hostile = `"><script>document.title = "run"</script><img src=x onerror='document.title = "run"'>` + "\u202e\u2066abc"
	repo    = "up/acme/app"
)

// mirror is a mirror with cached images, some of which have hostile texts.
type mirror struct {
	*harness.Weir

	upstream *upstreamtest.Registry
	image    digest.Digest // tag v1
	config   digest.Digest // of that image, with its labels
	multi    digest.Digest // tag multi, an index
	amd64    digest.Digest // a platform of the index
	longTag  string
	longName string
}

// config is the configuration of a mirror of an upstream.
func config(upstream *upstreamtest.Registry) string {
	return fmt.Sprintf(`[ui]
name = "Mirror of Acme"
[repository.up]
namespace = "registry.example.com"
prefetch = false
[[repository.up.upstream]]
url = %q
segments = 1
[repository."ghcr.io"]
[[repository."ghcr.io".upstream]]
url = "http://127.0.0.1:1"
`, upstream.URL.String())
}

func startMirror(t *testing.T) *mirror {
	t.Helper()
	chromium.start(t) // a missing browser skips the test at once
	m := &mirror{upstream: upstreamtest.New(t), longTag: "1.2.3-a-very-long-tag-" + strings.Repeat("x", 90), longName: "acme/" + strings.Repeat("long-name/", 15) + "end"}
	m.fill(t)
	m.Weir = harness.StartWeir(t, config(m.upstream))
	for _, path := range []string{
		"acme/app/manifests/v1", "acme/app/manifests/multi", "acme/app/manifests/" + m.image.String(), "acme/app/referrers/" + m.image.String(), "acme/app/blobs/" + m.config.String(),
		"acme/app/tags/list", "acme/app/manifests/none", "acme/tool/manifests/" + m.longTag, m.longName + "/manifests/latest",
	} {
		want := http.StatusOK
		if strings.HasSuffix(path, "/none") {
			want = http.StatusNotFound
		}
		if a := m.Get(t, "/v2/up/"+path); a.Status != want {
			t.Fatalf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	return m
}

// fill puts images into the upstream.
func (m *mirror) fill(t *testing.T) {
	t.Helper()
	r := m.upstream
	config := harness.Marshal(t, map[string]any{
		"os": "linux", "architecture": "amd64", "created": "2026-01-02T03:04:05Z",
		"config": map[string]any{"Labels": map[string]string{hostile: hostile, "long": strings.Repeat("x", 64<<10), "org.opencontainers.image.source": "https://example.com"}},
	})
	m.config = r.AddBlob("acme/app", config)
	layer := []byte("layer")
	m.image = r.AddManifest("acme/app", "v1", ocispec.MediaTypeImageManifest, harness.Marshal(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: m.config, Size: int64(len(config))},
		Layers: []ocispec.Descriptor{
			{MediaType: hostile, Digest: r.AddBlob("acme/app", layer), Size: int64(len(layer))},
			{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("absent"), Size: 30 << 20},
		},
		Annotations: map[string]string{hostile: hostile, "org.opencontainers.image.title": hostile},
	})).Digest
	amd64 := r.AddImage("acme/app", "", []byte("one"))
	amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 := r.AddImage("acme/app", "", []byte("two"))
	arm64.Platform = &ocispec.Platform{OS: hostile, Architecture: "arm64"}
	m.multi, m.amd64 = r.AddIndex("acme/app", "multi", amd64, arm64).Digest, amd64.Digest
	r.AddReferrer("acme/app", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: m.image}, "application/vnd.example.signature", []byte("signature"))
	r.AddReferrer("acme/app", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: m.image}, hostile, []byte("hostile"))
	r.AddImage("acme/tool", m.longTag, []byte("three"))
	r.AddImage(m.longName, "latest", []byte("four"))
}

// view is a page as a browser asks for it.
type view struct {
	name   string
	path   string
	status int
}

// address returns the path of a page with parameters, each a name and a value.
func address(path string, parameters ...string) string {
	query := make(url.Values)
	for i := 0; i+1 < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	return path + "?" + query.Encode()
}

// views are the pages of a mirror with images.
func (m *mirror) views() []view {
	return []view{
		{"overview", "/", 200},
		{"repositories", address("/repositories", "sort", "last"), 200},
		{"repositories-none", address("/repositories", "q", hostile), 200},
		{"repository", address("/repository", "name", repo), 200},
		{"repository-long", address("/repository", "name", "up/"+m.longName), 200},
		{"tag", address("/image", "name", repo, "tag", "v1"), 200},
		{"tag-long", address("/image", "name", "up/acme/tool", "tag", m.longTag), 200},
		{"index", address("/image", "name", repo, "tag", "multi"), 200},
		{"image", address("/image", "name", repo, "digest", m.image.String()), 200},
		{"pins", "/pins", 200},
		{"activity", "/activity", 200},
		{"activity-none", address("/activity", "q", hostile, "client", hostile), 200},
		{"upstreams", "/upstreams", 200},
		{"clients", "/clients", 200},
		{"clients-containerd", address("/clients", "client", "containerd"), 200},
		{"clients-wrong", address("/clients", "client", "docker", "url", hostile), 200},
		{"configuration", "/configuration", 200},
		{"add-registry", "/add-registry", 200},
		{"add-registry-private", address("/add-registry", "kind", "private", "added", hostile), 200},
		{"add-registry-certificate", address("/add-registry", "kind", "mtls", "removed", hostile), 200},
		{"failure-404", address("/repository", "name", "up/acme/none"), 404},
		{"failure-name", address("/repository", "name", hostile), 404},
		{"failure-tag", address("/image", "name", repo, "tag", hostile), 400},
	}
}
