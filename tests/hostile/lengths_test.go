package hostile

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
)

// announcer announces blobs of any length, sends one byte of them, and stops.
func announcer(*stage) actor {
	lengths := []string{"1043333120", "60000000", "9223372036854775807", ""}
	registry := func(w http.ResponseWriter, r *http.Request) {
		_, kind, ref := parse(r.URL.Path)
		if kind != "blobs" {
			refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
		if length := lengths[int(ref[len(ref)-1])%len(lengths)]; length != "" {
			w.Header().Set("Content-Length", length)
		}
		if r.Method == http.MethodHead {
			return
		}
		_, _ = w.Write([]byte("x"))
		hold(w, r)
	}
	ask := func(ctx context.Context, a *attacker) {
		a.get(ctx, a.path("app/blobs/%s", digest.FromString(fmt.Sprint("announced ", a.next()))))
	}
	return actor{name: "announcer", upstream: registry, workers: 24, pause: 50 * time.Millisecond, attack: ask}
}
