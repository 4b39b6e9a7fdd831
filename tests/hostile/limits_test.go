package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/opencontainers/go-digest"
)

// limiter is a tenant of a registry, one of whose repositories redirects to a CDN that
// answers 429, as the token service of another one does. The other repositories must stay.
func limiter(s *stage) actor {
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	s.t.Cleanup(cdn.Close)
	registry := func(w http.ResponseWriter, r *http.Request) {
		repo, _, ref := parse(r.URL.Path)
		switch repo {
		case "cdn":
			http.Redirect(w, r, cdn.URL+"/"+ref, http.StatusTemporaryRedirect)
		case "token":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, cdn.URL))
			w.WriteHeader(http.StatusUnauthorized)
		default: // a neighbour, whose blobs are functions of the time
			for n := range 60 { // the mirror may be late
				if body, dgst := neighbour(n); dgst == digest.Digest(ref) {
					_, _ = w.Write(body)
					return
				}
			}
			refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
		}
	}
	limit := func(ctx context.Context, a *attacker) {
		for _, repo := range []string{"cdn", "token"} {
			a.get(ctx, a.path("%s/blobs/%s", repo, digest.FromString(fmt.Sprint("limited ", a.next()))))
			a.get(ctx, a.path("%s/manifests/v%d", repo, a.next()))
		}
		body, dgst := neighbour(0)
		if got := a.getWhole(ctx, a.path("neighbour/blobs/%s", dgst)); ctx.Err() == nil && !bytes.Equal(got.body, body) {
			s.violated("%s: its neighbour's blob is %d %.200s", a.name, got.status, got.body)
		}
	}
	return actor{name: "limiter", upstream: registry, workers: 1, pause: 100 * time.Millisecond, attack: limit}
}

// neighbour returns the blob of this second, or of one n before, so that the mirror has to
// ask for it again and again.
func neighbour(n int) ([]byte, digest.Digest) {
	return blobOf("a neighbour's blob of second %d", time.Now().Unix()-int64(n))
}
