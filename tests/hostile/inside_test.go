package hostile

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// insider is a registry on the internet, here behind a proxy, that redirects to services
// on the mirror's machine and in its network, and names them as its token service. They
// must get no request: neither the listener on loopback, nor any through the proxy.
func insider(s *stage) actor {
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.violated("a service inside got %s %s, Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
		fmt.Fprint(w, `{"Token":"secret","token":"secret","tags":["secret"]}`)
	}))
	s.t.Cleanup(inside.Close)
	port := inside.URL[strings.LastIndex(inside.URL, ":"):]
	targets := []string{
		"127.0.0.1", "localhost", "LocalHost.", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "db.internal",
		"169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "0177.0.0.1", "metadata.google.internal",
	}
	registry := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "registry.example" { // the proxy reaches everything from inside
			inside.Config.Handler.ServeHTTP(w, r)
			return
		}
		repo, _, _ := parse(r.URL.Path)
		var n int
		_, _ = fmt.Sscanf(repo, "app%d", &n)
		location := "http://" + targets[n%len(targets)] + port + "/latest/meta-data"
		if n/len(targets)%2 == 0 {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", location))
		w.WriteHeader(http.StatusUnauthorized)
	}
	ask := func(ctx context.Context, a *attacker) {
		n := a.next()
		for _, path := range []string{"app%[1]d/manifests/v1", "app%[1]d/tags/list", "app%[1]d/blobs/%[2]s"} {
			if got := a.get(ctx, a.path(path, n, digest.FromString(fmt.Sprint(n)))); strings.Contains(string(got.body), "secret") {
				s.violated("%s got the answer of a service inside: %.100s", a.name, got.body)
			}
		}
	}
	return actor{
		name: "insider", upstream: registry, workers: 1, pause: 50 * time.Millisecond, attack: ask,
		via: []string{`url = "http://registry.example"`, "proxy = %q", `username = "puller"`, `password = "hunter2"`},
	}
}
