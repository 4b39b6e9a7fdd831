package tests

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// leadTo answers a request by leading to a location: as a redirect, or as the realm of a
// challenge.
func leadTo(w http.ResponseWriter, way, location string) {
	if way == "redirect" {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", location))
	w.WriteHeader(http.StatusUnauthorized)
}

// A hostile registry on the internet, here behind a proxy, leads to a service on Weir's
// own machine. The service gets no request, and its answer reaches no client.
func TestUpstreamLeadsInside(t *testing.T) {
	t.Parallel()
	var reached, withBasic atomic.Int64
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if r.Header.Get("Authorization") != "" {
			withBasic.Add(1)
		}
		w.Header().Set("Content-Type", "application/vnd.inside+json")
		io.WriteString(w, `{"Code":"Success","Token":"secret","Tags":["secret"]}`)
	}))
	defer inside.Close()
	port := inside.URL[strings.LastIndex(inside.URL, ":"):]
	targets := []string{
		"127.0.0.1", "localhost", "LocalHost.", "a.localhost", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "inside", "db.corp.internal",
		"169.254.169.254", "metadata.google.internal", "10.0.0.1", "[64:ff9b::7f00:1]",
	}
	var secretSent atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Authorization"), "secret") {
			secretSent.Add(1)
		}
		if r.URL.Host != "registry.example" { // the proxy reaches everything from inside
			inside.Config.Handler.ServeHTTP(w, r)
			return
		}
		var i int
		way := "redirect"
		if _, err := fmt.Sscanf(r.URL.Path, "/v2/redirect%d/", &i); err != nil {
			way = "realm"
			fmt.Sscanf(r.URL.Path, "/v2/realm%d/", &i)
		}
		leadTo(w, way, "http://"+targets[i]+port+"/latest")
	}))
	defer proxy.Close()
	w := harness.StartWeir(t, blockOf("hostile", nil, []string{
		`url = "http://registry.example"`, fmt.Sprintf("proxy = %q", proxy.URL), `username = "puller"`, `password = "hunter2"`,
	}))
	for i, target := range targets {
		for _, way := range []string{"redirect", "realm"} {
			repo := fmt.Sprintf("hostile/%s%d", way, i)
			for _, path := range []string{manifestPath(repo, "v1"), "/v2/" + repo + "/tags/list", blobPath(repo, digest.FromString("x"))} {
				a := w.Get(t, path)
				if expect(t, way+" to "+target, a, http.StatusBadGateway, ""); strings.Contains(string(a.Body), "secret") {
					t.Errorf("%s: the client is told %s", target, a.Body)
				}
			}
		}
	}
	if reached.Load() != 0 || withBasic.Load() != 0 || secretSent.Load() != 0 {
		t.Errorf("the service inside got %d requests, %d with the password of the registry, which got %d tokens of the service", reached.Load(), withBasic.Load(), secretSent.Load())
	}
}

// A registry on this machine may lead to other ports of it, and no farther: the kernel is
// not even asked for a connection.
func TestUpstreamLeadsFarther(t *testing.T) {
	t.Parallel()
	other := upstreamtest.New(t)
	image := other.AddImage("app", "v1", []byte("a layer"))
	targets := []string{"169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "[::ffff:169.254.169.254]", "100.100.100.200", "10.0.0.1", "192.168.1.1", "[fd12::1]", "224.0.0.1", "255.255.255.255"}
	ways := []string{"redirect", "realm"}
	config := ""
	for i, target := range append(targets, other.Host) {
		for _, way := range ways {
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				leadTo(w, way, "http://"+target+r.URL.Path)
			}))
			defer upstream.Close()
			config += blockOf(fmt.Sprint(way, i), nil, []string{fmt.Sprintf("url = %q", upstream.URL), "connect_timeout_secs = 1", "allow_private_redirects = false"})
		}
	}
	w := harness.StartWeir(t, config)
	for i, target := range targets {
		for _, way := range ways {
			a := w.Get(t, manifestPath(fmt.Sprint(way, i, "/app"), "v1"))
			expect(t, way+" to "+target, a, http.StatusBadGateway, "")
			if text := string(a.Body); !strings.Contains(text, "it has a link-local address") && !strings.Contains(text, "set allow_private_redirects = true of repository.") {
				t.Errorf("%s to %s: the client is told %s", way, target, text)
			}
		}
	}
	expectContent(t, "on this machine", w.Get(t, manifestPath(fmt.Sprint("redirect", len(targets), "/app"), "v1")), image.Digest, statusStored)
}

// A hostile challenge gets the credentials to no host but the pinned one, and no token for
// more than to pull from the repository that is asked for.
func TestHostileChallenge(t *testing.T) {
	t.Parallel()
	var basic atomic.Int64
	var scopes sync.Map
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			basic.Add(1)
		}
		scopes.Store(fmt.Sprint(r.URL.Query()["scope"]), true)
		io.WriteString(w, `{"token":"a"}`)
	}))
	defer service.Close()
	realm := strings.Replace(service.URL, "127.0.0.1", "localhost", 1)
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	upstream.Fault(func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }, upstreamtest.Status(401, ""),
		upstreamtest.Header("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token?scope=repository:org/secret:push",service="x",scope="repository:org/app:pull,push,delete registry:catalog:*"`, realm)))
	credentials := []string{`username = "puller"`, `password = "hunter2"`}
	block := func(key, realm string) string {
		return blockOf(key, nil, at(upstream, append(credentials, fmt.Sprintf("token_realm = %q", realm))...))
	}
	w := harness.StartWeir(t, block("pinned", "auth.docker.io")+block("named", "localhost")+block("free", "")+
		blockOf("plain", nil, append(credentials, `url = "http://registry.example"`)))
	a := w.Get(t, manifestPath("pinned/org/app", "v1"))
	expect(t, "another host is pinned", a, http.StatusBadGateway, "")
	if !strings.Contains(string(a.Body), `name it in token_realm of repository.\"pinned\".upstream[0]`) || basic.Load() != 0 {
		t.Errorf("the client is told %s; the credentials were sent %d times", a.Body, basic.Load())
	}
	for _, key := range []string{"named", "free"} {
		expectContent(t, key, w.Get(t, manifestPath(key+"/org/app", "v1")), image.Digest, "")
	}
	if basic.Load() == 0 {
		t.Error("no token was asked for with the credentials")
	}
	scopes.Range(func(scope, _ any) bool {
		if scope != "[repository:org/app:pull]" {
			t.Errorf("a token was asked for %s", scope)
		}
		return true
	})
	w.Logs(t, "credentials are sent over http", "url of: repository.plain.upstream[0]")
}
