package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Scripts read the JSON: its names do not change, lists are never null, and a
// feature that was not tried is null.
func TestResultAsJSON(t *testing.T) {
	expires := time.Date(2027, 3, 4, 5, 6, 7, 0, time.FixedZone("CET", 3600))
	full := check{
		blocks: []string{"b"}, keys: []string{"k"}, host: "ghcr.io", image: image{origin: cached, repository: "app", reference: oci.ByTag("1")},
		report: upstream.Report{
			Reached: true, Latency: 12345 * time.Microsecond, Dated: true, Skew: 2900 * time.Millisecond, Challenge: "bearer", Accepted: true,
			Head: upstream.Supported, Range: upstream.Unsupported, Redirects: []string{"cdn"}, CertificateExpires: expires,
			RateLimit: &upstream.RateLimit{Limit: 100, Remaining: 7, Window: 6 * time.Hour},
		},
	}
	for name, c := range map[string]struct {
		check check
		want  string
	}{
		"full": {full, `{"upstream":"ghcr.io","blocks":["b"],"keys":["k"],"status":"ok","image":"app:1","reachable":true,"latency_ms":12.345,` +
			`"authentication":"anonymous","challenge":"bearer","head":true,"range":false,` +
			`"rate_limit":{"limit":100,"remaining":7,"window_seconds":21600},"redirects_to":["cdn"],"clock_skew_seconds":2,` +
			`"certificate_expires":"2027-03-04T04:06:07Z","errors":[],"remarks":["it ignores ranges. A download that breaks off starts over"]}`},
		"offline": {check{blocks: []string{"b"}, keys: []string{"k"}, host: "ghcr.io", offline: true, image: full.image, report: full.report},
			`{"upstream":"ghcr.io","blocks":["b"],"keys":["k"],"status":"skipped","image":"","reachable":false,"latency_ms":null,` +
				`"authentication":"unknown","challenge":"","head":null,"range":null,"rate_limit":null,"redirects_to":[],` +
				`"clock_skew_seconds":null,"certificate_expires":null,"errors":[],"remarks":[]}`},
	} {
		body, err := json.Marshal(c.check.result(expires.AddDate(-1, 0, 0), advice))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, string(body)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// A clock is wrong if tokens and certificates suffer from it, in either direction.
func TestClockWrong(t *testing.T) {
	for skew, want := range map[int64]bool{0: false, 30: false, -30: false, 31: true, -31: true} {
		if got := (Result{ClockSkewSeconds: &skew}).ClockWrong(); got != want {
			t.Errorf("%d s: %t", skew, got)
		}
	}
	if (Result{}).ClockWrong() {
		t.Error("a clock that is not known is wrong")
	}
}

func TestRateLimitText(t *testing.T) {
	for want, l := range map[string]RateLimit{
		"100 in 6h": {Limit: 100, WindowSeconds: 21600},
		"100":       {Limit: 100},
		"5 in 1m":   {Limit: 5, Remaining: 3, WindowSeconds: 60},
	} {
		if got := l.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A failure names all keys under which the configuration has the upstream, and the
// limit that is used up names the remedy that fits.
func TestAdviceNamesAllKeys(t *testing.T) {
	c := check{keys: []string{"first", "second"}, credentials: true, report: upstream.Report{
		Reached: true, RateLimit: &upstream.RateLimit{Limit: 10},
		Err: &upstream.Error{Host: "ghcr.io", Repository: "app", Reference: "1", Class: upstream.ClassDenied, Credentials: true},
	}}
	r := c.result(time.Now(), advice)
	if len(r.Errors) != 2 || !strings.HasSuffix(r.Errors[0], "is used up. Wait, raise tag_ttl, or add another upstream") ||
		!strings.Contains(r.Errors[1], "username and password of first and second") {
		t.Errorf("%q", r.Errors)
	}
}

// The reads that a registry may count are made only for an image that the operator
// has named.
func TestOnlyANamedImageSpends(t *testing.T) {
	for _, origin := range []origin{public, cached, named} {
		r := upstreamtest.New(t)
		manifest := r.AddImage("app", "v1", []byte("a layer"))
		r.Fault(upstreamtest.Manifests, upstreamtest.Header("RateLimit-Limit", "100;w=21600"), upstreamtest.Header("RateLimit-Remaining", "50;w=21600"))
		c := check{client: newClient(t, r.URL.String()), image: image{origin: origin, repository: "app", reference: oci.ByTag("v1")}}
		c.probe(t.Context())
		got := slices.ContainsFunc(r.Log(), func(q upstreamtest.Record) bool {
			return q.Method == http.MethodGet && strings.Contains(q.URI, "/manifests/")
		})
		if want := origin == named; got != want || c.report.RateLimit == nil {
			t.Errorf("origin %d, %v: a manifest was read: %t, want %t; %+v", origin, manifest, got, want, c.report)
		}
	}
}

// Of a cached repository a tag is asked for if there is one: digests of an upstream
// may be gone.
func TestCachedTag(t *testing.T) {
	records := catalog.New(storagetest.NewMemory(t).Records(), catalog.Options{})
	repo := storage.RepoID{Namespace: "a", Name: "app"}
	manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("manifest"), Size: 8}
	if err := records.PutLink(t.Context(), repo, manifest); err != nil {
		t.Fatal(err)
	}
	if err := records.PutTag(t.Context(), repo, "v2", catalog.Tag{Descriptor: manifest, Checked: time.Now()}); err != nil {
		t.Fatal(err)
	}
	images, err := NewImages([]namespace.Spec{{Key: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := images.AddCached(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	if got := images.byKey["a"]; got.String() != "app:v2" || got.origin != cached || got.blob != "" {
		t.Errorf("%+v", got)
	}
}

// A manifest of a type that Weir does not know is found at a registry that shows it only
// to clients which accept it.
func TestArtifacts(t *testing.T) {
	const artifact, model = "application/vnd.oci.artifact.manifest.v1+json", "application/vnd.example.model+json"
	repo := storage.RepoID{Namespace: "a", Name: "app"}
	for name, c := range map[string]struct {
		mediaType string
		add       func(images *Images, records *catalog.Catalog, manifest ocispec.Descriptor) error
		found     bool
	}{
		"cached by digest": {model, func(images *Images, records *catalog.Catalog, manifest ocispec.Descriptor) error {
			return errors.Join(records.PutLink(t.Context(), repo, manifest), images.AddCached(t.Context(), records))
		}, true},
		"cached by tag": {model, func(images *Images, records *catalog.Catalog, manifest ocispec.Descriptor) error {
			return errors.Join(records.PutLink(t.Context(), repo, manifest),
				records.PutTag(t.Context(), repo, "v1", catalog.Tag{Descriptor: manifest, Checked: time.Now()}), images.AddCached(t.Context(), records))
		}, true},
		"named": {artifact, func(images *Images, _ *catalog.Catalog, _ ocispec.Descriptor) error {
			return images.Add(oci.Image{Name: "a/app", Reference: oci.ByTag("v1")})
		}, true},
		"named, of a type that no record tells": {model, func(images *Images, _ *catalog.Catalog, _ ocispec.Descriptor) error {
			return images.Add(oci.Image{Name: "a/app", Reference: oci.ByTag("v1")})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			r.Fault(func(r *http.Request) bool {
				return upstreamtest.Manifests(r) && !strings.Contains(r.Header.Get("Accept"), c.mediaType)
			}, upstreamtest.Status(404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`))
			manifest := r.AddManifest("app", "v1", c.mediaType, fmt.Appendf(nil, `{"mediaType":%q,"blobs":[]}`, c.mediaType))
			images, err := NewImages([]namespace.Spec{{Key: "a"}})
			if err == nil {
				err = c.add(images, catalog.New(storagetest.NewMemory(t).Records(), catalog.Options{}), manifest)
			}
			if err != nil {
				t.Fatal(err)
			}
			results := Run(t.Context(), []Target{target(t, "a", newClient(t, r.URL.String()), r.URL.String())}, images, advice)
			if got := results[0]; len(got.Remarks)+len(got.Errors) == 0 != c.found {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Namespaces that cannot stand beside each other have no images.
func TestImagesOfOverlappingNamespaces(t *testing.T) {
	if _, err := NewImages([]namespace.Spec{{Key: "a"}, {Key: "a"}}); err == nil {
		t.Error("two namespaces with one key")
	}
}
