package tests

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// oddity is a registry that keeps to the letter of no specification, the pulls of
// a client, and the requests that they cause.
type oddity struct {
	name     string
	options  []upstreamtest.Option
	settings []string // of the upstream
	// script adds content and faults, and returns the paths that the client pulls,
	// below the block's name.
	script func(upstream *upstreamtest.Registry) (pulls []string)
	answer []int    // the status of each pull; nil: 200 for all
	wire   []string // requests to the registry
	tokens int      // requests to the token service
	check  func(t *testing.T, answers []harness.Answer)
}

// The mirror reads the answers of registries, token services and storage hosts for
// their meaning, whatever their form.
func TestOddRegistries(t *testing.T) {
	t.Parallel()
	var oddities []oddity
	for _, group := range [][]oddity{oddTokens(), oddManifests(), oddPauses(), oddRedirects(), oddLogins(), oddReferrers(), oddEncodings()} {
		oddities = append(oddities, group...)
	}
	upstreams, pulls, config := make([]*upstreamtest.Registry, len(oddities)), make([][]string, len(oddities)), ""
	for i, o := range oddities {
		upstreams[i] = upstreamtest.New(t, o.options...)
		pulls[i] = o.script(upstreams[i])
		config += blockOf(fmt.Sprint("odd", i), nil, at(upstreams[i], o.settings...))
	}
	w := harness.StartWeir(t, config)
	for i, o := range oddities {
		t.Run(o.name, func(t *testing.T) {
			var answers []harness.Answer
			for j, path := range pulls[i] {
				want := http.StatusOK
				if o.answer != nil {
					want = o.answer[j]
				}
				a := w.Get(t, fmt.Sprintf("/v2/odd%d/%s", i, path))
				expect(t, path, a, want, "")
				answers = append(answers, a)
			}
			if got := upstreams[i].TokenRequests(); len(got) != o.tokens {
				t.Errorf("the token service was asked %q, want %d requests", got, o.tokens)
			}
			expectWire(t, upstreams[i], "registry", o.wire...)
			if o.check != nil {
				o.check(t, answers)
			}
		})
	}
}

// oddTokens are the answers of token services: each token costs one request.
func oddTokens() []oddity {
	var list []oddity
	for name, format := range map[string]string{
		"life as a string":        `{"token":"%s","expires_in":"300"}`,
		"issued at a Unix time":   `{"token":"%s","expires_in":300,"issued_at":1700000000}`,
		"issued long ago":         `{"token":"%s","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}`,
		"other types":             `{"token":"%s","access_token":17,"expires_in":[],"issued_at":{}}`,
		"a newline in the token":  `{"token":"%s\n"}`,
		"a byte order mark first": "\ufeff{\"token\":\"%s\"}",
	} {
		answer := func(token string, _ time.Time) string { return fmt.Sprintf(format, token) }
		list = append(list, oddity{
			name:    "token answer: " + name,
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{Answer: answer})},
			script: func(upstream *upstreamtest.Registry) []string {
				upstream.AddManifest("app", "v1", ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"layers":[],"by":"`+name+`"}`))
				return []string{"app/manifests/v1", "app/manifests/v1"}
			},
			wire:   []string{"GET /v2/app/manifests/v1 401", "GET /v2/app/manifests/v1 200", "HEAD /v2/app/manifests/v1 200"},
			tokens: 1,
		})
	}
	return list
}

// oddManifests are manifests that other tools wrote: they are served as they are.
func oddManifests() []oddity {
	var list []oddity
	for name, body := range map[string]string{
		"schemaVersion as a string": `{"schemaVersion":"2","layers":[]}`,
		"a byte order mark":         "\ufeff" + `{"schemaVersion":2,"layers":[]}`,
		"both":                      "\ufeff" + `{"schemaVersion":"2","mediaType":17,"layers":[]}`,
	} {
		list = append(list, oddity{
			name: "manifest: " + name,
			script: func(upstream *upstreamtest.Registry) []string {
				upstream.AddManifest("app", "v1", ocispec.MediaTypeImageManifest, []byte(body))
				return []string{"app/manifests/v1", "app/manifests/v1"}
			},
			wire: []string{"GET /v2/app/manifests/v1 200", "HEAD /v2/app/manifests/v1 200"},
			check: func(t *testing.T, answers []harness.Answer) {
				for _, a := range answers {
					if string(a.Body) != body || a.Header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
						t.Errorf("the client got %q, a %s", a.Body, a.Header.Get("Content-Type"))
					}
				}
			},
		})
	}
	return list
}

// oddPauses are refusals that say when to come back: the client is told as well.
func oddPauses() []oddity {
	const listed = "GET /v2/app/tags/list "
	var list []oddity
	for _, c := range []struct {
		status, answer int
		name, value    string
		want           string // the client's Retry-After; "": none
		requests       int
	}{
		{429, 429, "Retry-After", "7", "7", 1},
		{429, 429, "Retry-After", "1.5", "2", 1},
		{429, 429, "Retry-After", "5s", "5", 1},
		{429, 429, "Retry-After", fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()), "900", 1},
		{429, 429, "X-Retry-After", "30", "30", 1},
		{429, 429, "RateLimit-Reset", "50", "50", 1},
		{429, 429, "Retry-After", "soon", "60", 1},
		{503, 502, "Retry-After", "30", "30", 1},
		{503, 502, "Retry-After", "99999", "900", 1},
		{503, 502, "Retry-After", "soon", "", 3},
		{503, 502, "RateLimit-Reset", "50", "", 3},
	} {
		list = append(list, oddity{
			name: fmt.Sprintf("%d with %s of %s", c.status, c.name, c.value),
			script: func(upstream *upstreamtest.Registry) []string {
				upstream.Fault(upstreamtest.Any, upstreamtest.Status(c.status, ""), upstreamtest.Header(c.name, c.value))
				return []string{"app/tags/list"}
			},
			answer: []int{c.answer},
			wire:   slices.Repeat([]string{listed + fmt.Sprint(c.status)}, c.requests),
			check: func(t *testing.T, answers []harness.Answer) {
				if got := answers[0].Header.Get("Retry-After"); got != c.want {
					t.Errorf("the client is told Retry-After: %q, want %q", got, c.want)
				}
			},
		})
	}
	return list
}

// oddRedirects are signed URLs: on the registry's own host, which refuses them with
// an Authorization, and refused by the storage service.
func oddRedirects() []oddity {
	login := []string{fmt.Sprintf("username = %q\npassword = %q", username, password)}
	list := []oddity{}
	add := func(name string, cdn upstreamtest.CDN, status int, expect string, effects ...upstreamtest.Effect) {
		content := []byte("a layer behind " + name)
		blob := "GET " + blobPath("app", digest.FromBytes(content))
		list = append(list, oddity{
			name: "redirect: " + name, settings: login,
			options: []upstreamtest.Option{upstreamtest.WithBasic(username, password), upstreamtest.WithCDN(cdn)},
			script: func(upstream *upstreamtest.Registry) []string {
				dgst := upstream.AddBlob("app", content)
				if effects != nil {
					upstream.Fault(upstreamtest.CDNBlobs, effects...)
				}
				return []string{"app/blobs/" + dgst.String()}
			},
			answer: []int{status},
			wire:   []string{blob + " 401", blob + " 307"},
			check: func(t *testing.T, answers []harness.Answer) {
				if got := string(answers[0].Body); !strings.Contains(got, expect) {
					t.Errorf("the client got %s, want %s", got, expect)
				}
			},
		})
	}
	const behind = "to which it redirects"
	add("a signed URL on the same host", upstreamtest.CDN{OnRegistry: true}, 200, "a layer")
	add("a signed URL on another host", upstreamtest.CDN{}, 200, "a layer")
	add("an expired signature", upstreamtest.CDN{}, 502, behind, upstreamtest.Status(403, "<Error><Code>AccessDenied</Code></Error>"))
	add("a web filter", upstreamtest.CDN{}, 502, behind, upstreamtest.Status(401, "<html>log in</html>"))
	add("a lost object", upstreamtest.CDN{}, 502, behind, upstreamtest.Status(404, "<Error><Code>NoSuchKey</Code></Error>"))
	add("a lost object on the same host", upstreamtest.CDN{OnRegistry: true}, 502, behind, upstreamtest.Status(404, "<Error/>"))
	add("another registry", upstreamtest.CDN{}, 404, "BLOB_UNKNOWN", upstreamtest.Status(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`))
	return list
}

// oddLogins are registries that hide their content from anonymous clients: the root
// of their API is asked once for its challenge.
func oddLogins() []oddity {
	const tags, root = "GET /v2/app/tags/list ", "GET /v2/ "
	login := []string{fmt.Sprintf("username = %q\npassword = %q", username, password)}
	basic := upstreamtest.WithBasic(username, password)
	bearer := upstreamtest.WithBearer(upstreamtest.Bearer{Username: username, Password: password})
	var list []oddity
	for _, status := range []int{401, 403, 404} {
		hidden := tags + fmt.Sprint(status)
		for name, o := range map[string]oddity{
			"basic":             {options: []upstreamtest.Option{basic}, settings: login, wire: []string{hidden, root + "401", tags + "200", tags + "200"}},
			"bearer":            {options: []upstreamtest.Option{bearer}, settings: login, wire: []string{hidden, root + "401", tags + "200", tags + "200"}, tokens: 1},
			"nothing to log in": {settings: login, wire: []string{hidden, root + "200", hidden}, answer: slices.Repeat([]int{map[int]int{401: 403, 403: 403, 404: 404}[status]}, 2)},
			"no credentials":    {options: []upstreamtest.Option{basic}, wire: []string{hidden, hidden}, answer: slices.Repeat([]int{map[int]int{401: 403, 403: 403, 404: 404}[status]}, 2)},
		} {
			o.name = fmt.Sprintf("login: %d to everyone, %s", status, name)
			o.options = append(o.options, upstreamtest.WithHiddenContent(status))
			o.script = func(upstream *upstreamtest.Registry) []string {
				upstream.AddImage("app", "v1", []byte(name))
				return []string{"app/tags/list", "app/tags/list"}
			}
			list = append(list, o)
		}
	}
	return list
}

// oddEncodings are answers with a Content-Encoding that was not asked for: the digest
// decides whether the client gets the bytes as they came or the decoded ones.
func oddEncodings() []oddity {
	var list []oddity
	noise := make([]byte, 3*mib)
	_, _ = rand.Read(noise)
	for _, c := range []struct {
		name, coding    string
		content, answer []byte
		status          int
		text            string // in the client's answer
	}{
		{"a large layer, compressed on the fly", "gzip", noise, gzipped(noise), 200, string(noise)},
		{"a config, compressed", "gzip", []byte(`{"a":"config"}`), gzipped([]byte(`{"a":"config"}`)), 200, `{"a":"config"}`},
		{"an old name", "x-gzip", []byte(`{"an":"old name"}`), gzipped([]byte(`{"an":"old name"}`)), 200, `{"an":"old name"}`},
		{"a compressed layer, as it is", "gzip", gzipped([]byte("a layer")), gzipped([]byte("a layer")), 200, string(gzipped([]byte("a layer")))},
		{"text that is not compressed", "gzip", []byte("plain text"), []byte("plain text"), 200, "plain text"},
		{"of an upload", "aws-chunked", []byte("uploaded"), []byte("uploaded"), 200, "uploaded"},
		{"unknown", "br", []byte("something"), []byte("something else"), 502, "Content-Encoding: br"},
		{"other content", "gzip", []byte("expected"), gzipped([]byte("unexpected")), 502, "Content-Encoding: gzip"},
	} {
		dgst := digest.FromBytes(c.content)
		list = append(list, oddity{
			name: "encoding: " + c.name,
			script: func(upstream *upstreamtest.Registry) []string {
				upstream.AddBlobAs("app", dgst, c.answer)
				upstream.Fault(upstreamtest.Blobs, upstreamtest.Header("Content-Encoding", c.coding), upstreamtest.Chunked())
				return []string{"app/blobs/" + dgst.String()}
			},
			answer: []int{c.status},
			wire:   []string{"GET " + blobPath("app", dgst) + " 200"},
			check: func(t *testing.T, answers []harness.Answer) {
				if a := answers[0]; !strings.Contains(string(a.Body), c.text) || a.Header.Get("Content-Encoding") != "" {
					t.Errorf("the client got %.99q with %v, want %.99q", a.Body, a.Header, c.text)
				}
			},
		})
	}
	return list
}

func gzipped(content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(content) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}
