package hostile

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dripper sends manifests, lists, tokens and headers a byte at a time, and its clients leave
// before they have them.
func dripper(*stage) actor {
	registry := func(w http.ResponseWriter, r *http.Request) {
		repo, _, _ := parse(r.URL.Path)
		if repo != "" && repo[len(repo)-1]%3 == 0 && r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			wait(r.Context(), 200*time.Millisecond)
		}
	}
	ask := func(ctx context.Context, a *attacker) {
		n := a.next()
		for _, path := range []string{"app%[1]d/manifests/v1", "app%[1]d/tags/list", "app%[1]d/referrers/%[2]s", "app%[1]d/manifests/%[2]s"} {
			a.get(ctx, a.path(path, n, digest.FromString(fmt.Sprint("dripped ", n))))
		}
	}
	return actor{name: "dripper", upstream: registry, workers: 24, pause: 10 * time.Millisecond, attack: ask}
}
