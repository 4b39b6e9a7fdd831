package hostile

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// inventor asks for names, lists, digests and pages that it invents. Its own registry has
// all of them, and the honest registries none.
func inventor(*stage) actor {
	registry := func(w http.ResponseWriter, r *http.Request) {
		_, kind, ref := parse(r.URL.Path)
		manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],"annotations":{"of":%q}}`,
			ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, digest.FromString("{}"), r.URL.Path)
		switch kind {
		case "tags":
			fmt.Fprint(w, `{"name":"app","tags":["v1","v2"]}`)
		case "referrers":
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":9,"artifactType":"application/x"}]}`,
				ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, digest.FromString(ref))
		case "manifests":
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
			fmt.Fprint(w, manifest)
		default:
			refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
		}
	}
	invent := func(ctx context.Context, a *attacker) {
		n := a.next()
		random := digest.FromString(fmt.Sprint("invented ", n))
		for _, block := range []string{"inventor", "open", "guarded", "nowhere"} {
			// The honest clients' own block gets a name each time, and its own one more.
			for _, path := range []string{"app/tags/list?x=%[1]d", "none%[1]d/manifests/v1", "app/referrers/%[2]s?artifactType=a/%[1]d"} {
				a.get(ctx, "/v2/"+block+"/"+fmt.Sprintf(path, n, random))
			}
		}
		for _, path := range []string{"none%[1]d/tags/list?n=%[1]d", "none%[1]d/referrers/%[2]s", "none%[1]d/blobs/%[2]s", "none%[1]d/manifests/v1"} {
			a.get(ctx, a.path(path, n, random))
		}
		a.get(ctx, "/v2/"+strings.Repeat("x/", 2000)+"manifests/"+url.PathEscape("v1\x1b[31m\u202e"))
	}
	return actor{name: "inventor", upstream: registry, workers: 2, pause: 20 * time.Millisecond, attack: invent}
}
