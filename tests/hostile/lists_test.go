package hostile

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// lister has lists and manifests of megabytes, which would become gigabytes in memory,
// and lists that link to a next page for ever.
func lister(*stage) actor {
	const size = 4 * mib // below the bounds of bytes, so that the others hold
	fill := func(before, value, after string) string {
		return before + strings.Repeat(value+",", size/(len(value)+1)) + value + after
	}
	index := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[`
	bodies := []string{
		fill(index, "{}", "]}"),
		fill(index+`{"annotations":{`, `"a":""`, "}}]}"),
		fill(index+`{"platform":{"os.features":[`, `""`, "]}}]}"),
		fill(index+`],`, `"manifests":[{}]`, "}"),
		strings.Repeat("[", size),
		fill(`{"tags":[`, `"a"`, "]}"),
		fill(index, "{}", "]}") + strings.Repeat(" ", 4*mib),
		fill(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageManifest+`","config":{},"layers":[`, `{"size":1}`, "]}"),
	}
	page := index + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":2},`,
		ocispec.MediaTypeImageManifest, digest.FromString("x")), 2000), ",") + "]}"
	registry := func(w http.ResponseWriter, r *http.Request) {
		repo, _, _ := parse(r.URL.Path)
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		var kind int
		if _, err := fmt.Sscanf(repo, "app%d", &kind); err != nil || kind%(len(bodies)+1) == len(bodies) {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, time.Now().UnixNano()))
			fmt.Fprint(w, page)
			return
		}
		fmt.Fprint(w, bodies[kind%(len(bodies)+1)])
	}
	ask := func(ctx context.Context, a *attacker) {
		n := a.next()
		subject := digest.FromString(fmt.Sprint("subject ", n))
		a.get(ctx, a.path("app%d/referrers/%s", n, subject))
		a.get(ctx, a.path("app%d/tags/list", n))
		a.get(ctx, a.path("app%d/manifests/v1", n))
	}
	return actor{name: "lister", upstream: registry, workers: 3, pause: 300 * time.Millisecond, attack: ask}
}
