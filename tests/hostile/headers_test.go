package hostile

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// shouter answers with headers, challenges, tokens and media types of megabytes, another
// one for each repository.
func shouter(*stage) actor {
	long := strings.Repeat("x", 2*mib)
	short := long[:48*kib] // below the bound of a header
	registry := func(w http.ResponseWriter, r *http.Request) {
		repo, _, _ := parse(r.URL.Path)
		var kind int
		_, _ = fmt.Sscanf(repo, "app%d", &kind)
		self := "http://" + r.Host + "/token"
		h := w.Header()
		switch {
		case r.URL.Path == "/token":
			fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, long[:kib*(1+len(r.URL.RawQuery)%64)])
		case kind%6 == 0:
			h.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x",more=%q`, self, long))
			w.WriteHeader(http.StatusUnauthorized)
		case kind%6 == 1:
			h.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s?%d=%s",service=%q,scope=%q`, self, kind, short[:10*kib], short[:10*kib], short[:10*kib]))
			w.WriteHeader(http.StatusUnauthorized)
		case kind%6 == 2 && r.Header.Get("Authorization") == "":
			h.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s?%s",service="x"`, self, short[:kind%kib]))
			w.WriteHeader(http.StatusUnauthorized)
		case kind%6 == 3:
			h.Set("Location", "/"+long)
			w.WriteHeader(http.StatusTemporaryRedirect)
		case kind%6 == 4:
			h.Set("Content-Type", "application/vnd."+short+"+json")
			h.Set("Link", "</v2/app/tags/list?last="+short[:9*kib]+`>; rel="next"`)
			fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":"application/vnd.%s+json","config":{"digest":%q},"layers":[],"tags":["v1"]}`, long, digest.FromString("x"))
		default:
			h.Set("X-Other", long)
			h.Set("Docker-Content-Digest", digest.FromString(repo).String())
		}
	}
	listen := func(ctx context.Context, a *attacker) {
		n := a.next()
		for _, path := range []string{a.path("app%d/manifests/v1", n), a.path("app%d/tags/list", n)} {
			got := a.get(ctx, path)
			for name, values := range got.header {
				if size := len(strings.Join(values, "")); size > 4*kib {
					a.stage.violated("%s: the header %s of the answer has %d bytes", a.name, name, size)
				}
			}
		}
		a.do(ctx, http.MethodHead, a.path("app%d/manifests/v1", n))
		// A client can shout too.
		a.get(ctx, a.path("app%d/manifests/v%d?pad=%s", n, n, short), "Accept", "text/"+short[:8*kib])
	}
	return actor{name: "shouter", upstream: registry, workers: 2, pause: 200 * time.Millisecond, attack: listen}
}
