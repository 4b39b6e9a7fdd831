package oci_test

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

func TestMediaTypes(t *testing.T) {
	long := strings.Repeat("x", 127)
	for mediaType, want := range map[string]struct{ valid, served, manifest bool }{
		ocispec.MediaTypeImageManifest:                          {true, true, true},
		"application/vnd.example.bundle.v2+json":                {true, true, true},
		"application/vnd." + strings.Repeat("x", 118) + "+json": {true, true, true},
		"application/vnd." + strings.Repeat("x", 119) + "+json": {},
		"application/octet-stream":                              {true, true, false},
		"application/xhtml+xml":                                 {true, true, false},
		"application/vnd.a!#$&^_.+-b+json":                      {true, true, true},
		long + "/" + long:                                       {true, false, false},
		long + "x/y":                                            {},
		"y/" + long + "x":                                       {},
		"text/html":                                             {true, false, false},
		"image/svg+xml":                                         {true, false, false},
		"Application/vnd.a+json":                                {true, false, false},
		"application/vnd.a+json; charset=utf-8":                 {},
		"application/vnd.a b+json":                              {},
		"application/vnd.a\r\nX: y+json":                        {},
		"application/vnd.a\n+json":                              {},
		"application/vnd.a\x00+json":                            {},
		"application/vnd.é+json":                                {},
		"application/vnd.a/b+json":                              {},
		"application/":                                          {},
		"application/.x":                                        {},
		"/json":                                                 {},
		"application":                                           {},
		"":                                                      {},
		"application/vnd." + strings.Repeat("x", 4<<20) + "+json": {},
	} {
		valid, served, manifest := oci.ValidMediaType(mediaType), oci.IsServed(mediaType), oci.IsManifestType(mediaType)
		if valid != want.valid || served != want.served || manifest != want.manifest {
			t.Errorf("%.80q: valid %v, served %v, of manifests %v", mediaType, valid, served, manifest)
		}
	}
}

// A manifest whose own type cannot be served is served as the type that its header and
// its fields give it.
func TestManifestsOfOddTypes(t *testing.T) {
	for _, own := range []string{
		"text/html", "image/svg+xml", "text/javascript", "application/vnd.a b+json", "application/x\\r\\nSet-Cookie: a=b", "application/é", "html",
		"application/vnd." + strings.Repeat("x", 300) + "+json", "application/vnd." + strings.Repeat("x", 4<<20) + "+json", "a/b; c=d",
	} {
		body := []byte(`{"schemaVersion":2,"mediaType":"` + own + `","config":{"digest":"x"},"layers":[]}`)
		for header, want := range map[string]string{
			"text/html": ocispec.MediaTypeImageManifest, "": ocispec.MediaTypeImageManifest, "application/vnd." + strings.Repeat("x", 300) + "+json": ocispec.MediaTypeImageManifest,
			"application/vnd.docker.distribution.manifest.v2+json": "application/vnd.docker.distribution.manifest.v2+json",
		} {
			if got, err := oci.ManifestType(body, header); err != nil || got != want {
				t.Errorf("%.60q with the header %.60q: %.80q, %v", own, header, got, err)
			}
		}
	}
}
