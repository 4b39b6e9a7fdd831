package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// wayToAsk is a request in one of the ways in which clients ask for an image.
type wayToAsk struct {
	method, path string
	headers      []string
}

func (a wayToAsk) String() string {
	return strings.Join(append([]string{a.method, a.path}, a.headers...), " ")
}

// sender sends requests with an Authorization header, or without one.
type sender struct{ name, authorization string }

// waysToAsk are the ways to ask for an image of Docker Hub, by all of its names.
func waysToAsk(manifest, layer string) (all []wayToAsk) {
	for _, name := range []struct{ before, after string }{
		{"docker.io/library/app", ""}, {"docker.io/app", ""}, {"app", "?ns=docker.io"}, {"library/app", "?ns=registry-1.docker.io"},
	} {
		at := func(rest string) string {
			path := "/v2/" + name.before + rest
			if strings.Contains(rest, "?") {
				return path + strings.Replace(name.after, "?", "&", 1)
			}
			return path + name.after
		}
		all = append(all, wayToAsk{"GET", at("/manifests/v1"), nil}, wayToAsk{"GET", at("/blobs/" + layer), nil})
		if len(all) > 2 { // the rest does not depend on the name
			continue
		}
		all = append(all,
			wayToAsk{"HEAD", at("/manifests/v1"), nil}, wayToAsk{"GET", at("/manifests/" + manifest), nil}, wayToAsk{"HEAD", at("/blobs/" + layer), nil},
			wayToAsk{"HEAD", at("/manifests/" + manifest), nil},
			wayToAsk{"GET", at("/manifests/v1"), []string{"If-None-Match", `"` + manifest + `"`}},
			wayToAsk{"GET", at("/manifests/" + manifest), []string{"If-None-Match", `"` + manifest + `"`}},
			wayToAsk{"GET", at("/blobs/" + layer), []string{"If-None-Match", `"` + layer + `"`}},
			wayToAsk{"HEAD", at("/blobs/" + layer), []string{"If-None-Match", "*"}},
			wayToAsk{"GET", at("/blobs/" + layer), []string{"Range", "bytes=0-3"}},
			wayToAsk{"GET", at("/blobs/" + layer), []string{"Range", "bytes=2-"}},
			wayToAsk{"GET", at("/blobs/" + layer), []string{"Range", "bytes=-1"}},
			wayToAsk{"GET", at("/blobs/" + layer), []string{"Range", "bytes=0-1,3-4"}},
			wayToAsk{"GET", at("/blobs/" + layer), []string{"Range", "bytes=900000-"}},
			wayToAsk{"GET", at("/manifests/v1"), []string{"Accept", "application/vnd.oci.image.index.v1+json"}},
			wayToAsk{"GET", at("/manifests/" + layer), nil}, wayToAsk{"GET", at("/blobs/" + manifest), nil},
			wayToAsk{"GET", at("/tags/list"), nil}, wayToAsk{"GET", at("/tags/list?n=1"), nil}, wayToAsk{"GET", at("/tags/list?n=1&last=v0"), nil},
			wayToAsk{"GET", at("/referrers/" + manifest), nil}, wayToAsk{"GET", at("/referrers/" + manifest + "?artifactType=application/spdx%2Bjson"), nil},
			wayToAsk{"GET", at("/manifests/sha256-" + strings.TrimPrefix(manifest, "sha256:")), nil},
			wayToAsk{"PUT", at("/manifests/v1"), nil}, wayToAsk{"DELETE", at("/blobs/" + layer), nil}, wayToAsk{"POST", at("/blobs/uploads/"), nil},
		)
	}
	return append(all, wayToAsk{"GET", "/v2/_catalog", nil}, wayToAsk{"GET", "/v2/_catalog?n=1&last=docker.io", nil}, wayToAsk{"GET", "/v2/", nil})
}

// told is all of an answer that a client can see but the time and the names of the mirror.
func told(w *harness.Weir, a harness.Answer) string {
	header := a.Header.Clone()
	header.Del("Date")
	header.Del("Via")
	text, _ := json.Marshal(header)
	return strings.ReplaceAll(fmt.Sprintf("%d %s %s", a.Status, text, a.Body), w.Addr, "MIRROR")
}

// A client without rights cannot tell a mirror whose cache another client and the warmer have
// filled from an empty one: not by answers, in any way of asking, nor by the requests that it
// costs the upstream, while that is there and while it is away.
func TestNothingIsLearnedFromTheCache(t *testing.T) {
	t.Parallel()
	const secret = "secret-of-the-mirror"
	accounts := upstreamtest.WithAccounts(
		upstreamtest.Account{Username: "alice", Password: "secret-of-alice", Repositories: []string{"library/app"}},
		upstreamtest.Account{Username: "mirror", Password: secret, Repositories: []string{"library/app"}},
		upstreamtest.Account{Username: "bob", Password: "secret-of-bob"},
	)
	for name, options := range map[string][]upstreamtest.Option{
		"tokens": {accounts, upstreamtest.WithBearer(upstreamtest.Bearer{})}, "passwords": {accounts}, "hidden": {accounts, upstreamtest.WithHiddenContent(http.StatusNotFound)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t, options...)
			image := upstream.AddImage("library/app", "v1", []byte("a private layer"))
			layer := upstream.AddBlob("library/app", []byte("a private layer"))
			upstream.AddReferrer("library/app", image, "application/spdx+json", []byte("{}"))
			config := fmt.Sprintf("[repository.\"docker.io\"]\nauthorize = \"upstream\"\ntag_ttl = \"1h\"\nnegative_ttl = \"1h\"\nauth_stale_grace = \"1h\"\n"+
				"[[repository.\"docker.io\".upstream]]\nurl = %q\nusername = \"mirror\"\npassword = %q\n", upstream.URL, secret)
			empty := harness.StartWeir(t, config)
			full := harness.StartWeir(t, config+"[[repository.\"docker.io\".warm]]\nimages = [\"library/app:v1\"]\n")
			full.MetricIs(t, 1, "weir_warm_total", "namespace", "docker.io", "result", "done")
			ways := waysToAsk(image.Digest.String(), layer.String())
			for _, way := range ways {
				if a := full.Do(t, way.method, way.path, append(way.headers, "Authorization", basicOf("alice:secret-of-alice"))...); a.Status == 401 && way.method == "GET" {
					t.Errorf("%s of alice: %s", way, told(full, a))
				}
			}
			full.MetricIs(t, 0, "weir_downloads")

			tokens := map[*harness.Weir]string{}
			for _, w := range []*harness.Weir{empty, full} {
				a := getAs(t, w, "/token?scope=repository:docker.io/library/app:pull", basicOf("bob:secret-of-bob"))
				expect(t, "a token for bob", a, http.StatusOK, "")
				var answer struct{ Token string }
				harness.Must(t, json.Unmarshal(a.Body, &answer))
				tokens[w] = "Bearer " + answer.Token
			}
			everyone := []sender{
				{"nobody", ""}, {"bob", basicOf("bob:secret-of-bob")}, {"bob by token", "own"}, {"a guess", basicOf("alice:guessed")},
				{"a forged token", "Bearer abc"}, {"a forged grant", "Bearer eyJ.b.c.d.e"}, {"a giant token", "Bearer " + strings.Repeat("x", 20<<10)},
			}
			if name != "tokens" { // the others differ by the registry's answers only
				everyone = everyone[:2]
			}
			compare := func(label string, by sender, way wayToAsk, told func(*harness.Weir, harness.Answer) string) {
				t.Helper()
				ask := func(w *harness.Weir) (string, []string) {
					upstream.ResetRequests()
					headers := slices.Clone(way.headers)
					if by.authorization == "own" {
						headers = append(headers, "Authorization", tokens[w])
					} else if by.authorization != "" {
						headers = append(headers, "Authorization", by.authorization)
					}
					a := w.Do(t, way.method, way.path, headers...)
					// A list without names may be public, and says nothing about others.
					if a.Status < 400 && !strings.Contains(string(a.Body), `"manifests":[]`) && !strings.HasPrefix(way.path, "/v2/_catalog") && way.path != "/v2/" {
						t.Errorf("%s, %s of %s is answered: %s", label, way, by.name, told(w, a))
					}
					return told(w, a), append(upstream.Requests(), upstream.TokenRequests()...)
				}
				want, cost := ask(empty)
				got, costs := ask(full)
				if got != want {
					t.Errorf("%s, %s of %s\ngot  %s\nwant %s", label, way, by.name, got, want)
				}
				if !slices.Equal(costs, cost) {
					t.Errorf("%s, %s of %s costs %q, and %q of an empty cache", label, way, by.name, costs, cost)
				}
			}
			for _, by := range everyone {
				for _, way := range ways {
					compare("at first", by, way, told)
				}
			}
			for _, way := range ways { // remembered refusals count the same
				compare("again", everyone[1], way, told)
			}
			upstream.Close()
			for _, by := range everyone {
				for _, way := range ways[:5] {
					// The words tell the time of the last failure.
					compare("while the upstream is away", by, way, func(_ *harness.Weir, a harness.Answer) string { return fmt.Sprint(a.Status, a.ErrorCode()) })
				}
			}
			for _, text := range []string{"secret-of-", "guessed", tokens[full][len("Bearer "):]} {
				if strings.Contains(full.Log.String(), text) {
					t.Errorf("the log has %s", text)
				}
			}
		})
	}
}

// A real registry with passwords answers a wrong one the same, cached or not.
func TestNothingIsLearnedAtARealRegistry(t *testing.T) {
	t.Parallel()
	accounts := filepath.Join(t.TempDir(), "htpasswd")
	writeHtpasswd(t, accounts, "alice:secret-of-alice")
	registry := harness.StartDistribution(t, http.DefaultClient, "http", "", fmt.Sprintf("auth: {htpasswd: {realm: registry, path: %q}}", accounts))
	image := harness.NewImage(t, 100_000)
	(&harness.Pusher{Client: http.DefaultClient, Base: "http://" + registry.Addr, Username: "alice", Password: "secret-of-alice"}).PushImage(t, "library/app", "v1", image)
	config := fmt.Sprintf("[repository.\"docker.io\"]\nauthorize = \"upstream\"\ntag_ttl = \"1h\"\n[[repository.\"docker.io\".upstream]]\nurl = \"http://%s\"\n", registry.Addr)
	empty, full := harness.StartWeir(t, config), harness.StartWeir(t, config)
	for _, way := range waysToAsk(harness.DescriptorOf("", image.Manifest).Digest.String(), harness.DescriptorOf("", image.Layers[0]).Digest.String())[:12] {
		full.Do(t, way.method, way.path, append(way.headers, "Authorization", basicOf("alice:secret-of-alice"))...)
		for _, authorization := range []string{"", basicOf("alice:guessed"), basicOf("bob:x"), "Bearer abc"} {
			headers := way.headers
			if authorization != "" {
				headers = append(slices.Clone(headers), "Authorization", authorization)
			}
			want, got := told(empty, empty.Do(t, way.method, way.path, headers...)), told(full, full.Do(t, way.method, way.path, headers...))
			if got != want {
				t.Errorf("%s\ngot  %s\nwant %s", way, got, want)
			}
		}
	}
}
