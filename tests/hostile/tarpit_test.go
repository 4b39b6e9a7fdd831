package hostile

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
)

// tarpit never ends its downloads, of which its clients want as many as the mirror has
// places, and more.
func tarpit(*stage) actor {
	registry := func(w http.ResponseWriter, r *http.Request) {
		_, kind, ref := parse(r.URL.Path)
		if kind != "blobs" {
			refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
		if ref[len(ref)-1]%2 == 0 {
			<-r.Context().Done() // not even a header
			return
		}
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 100)); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			wait(r.Context(), 250*time.Millisecond)
		}
	}
	ask := func(ctx context.Context, a *attacker) {
		a.get(ctx, a.path("app/blobs/%s", digest.FromString(fmt.Sprint("tar ", a.next()))))
	}
	return actor{name: "tarpit", upstream: registry, workers: 80, pause: 10 * time.Millisecond, attack: ask}
}
