package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// quirk is a habit of a real registry, and the mirror's answer to it.
type quirk struct {
	name    string
	options []upstreamtest.Option
	script  func(*upstreamtest.Registry)
	check   func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string)
}

// Each test has the name of the registry that is known for the quirk.
func TestQuirks(t *testing.T) {
	t.Parallel()
	elsewhere := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	groups := [][]quirk{dockerQuirks(), tokenQuirks(), redirectQuirks(elsewhere), blobQuirks(), headerQuirks()}
	var config strings.Builder
	var quirks []quirk
	var upstreams []*upstreamtest.Registry
	for _, group := range groups {
		for _, q := range group {
			upstream := upstreamtest.New(t, q.options...)
			if q.script != nil {
				q.script(upstream)
			}
			config.WriteString(block(fmt.Sprint("quirk", len(quirks)), upstream))
			quirks, upstreams = append(quirks, q), append(upstreams, upstream)
		}
	}
	w := harness.StartWeir(t, config.String())
	for i, q := range quirks {
		t.Run(q.name, func(t *testing.T) { q.check(t, w, upstreams[i], fmt.Sprintf("quirk%d/org/app", i)) })
	}
}

func dockerQuirks() []quirk {
	limits := []upstreamtest.Effect{
		upstreamtest.Header("ratelimit-limit", "100;w=21600"), upstreamtest.Header("ratelimit-remaining", "76;w=21600"),
	}
	return []quirk{
		{
			// A tag that did not move costs nothing of the limit.
			name: "docker.io counts GETs of manifests and not HEADs",
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				image := upstream.AddImage("org/app", "v1", []byte("counted"))
				expectContent(t, "cold", w.Get(t, manifestPath(repo, "v1")), image.Digest, statusStored)
				upstream.ResetRequests()
				for range 3 {
					expectContent(t, "warm", w.Get(t, manifestPath(repo, "v1")), image.Digest, statusRevalidated)
				}
				expectWire(t, upstream, "warm", strings.Split(strings.Repeat("HEAD /v2/org/app/manifests/v1 200\n", 3), "\n")[:3]...)
			},
		},
		{
			name:   "docker.io tells its limit on GET and HEAD",
			script: func(upstream *upstreamtest.Registry) { upstream.Fault(upstreamtest.Manifests, limits...) },
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				upstream.AddImage("org/app", "v1", []byte("limits"))
				for i, method := range []string{http.MethodGet, http.MethodHead} {
					left := fmt.Sprint(75 - i)
					upstream.Fault(upstreamtest.Method(method), upstreamtest.Header("ratelimit-remaining", left+";w=21600"))
					expect(t, method, w.Get(t, manifestPath(repo, "v1")), http.StatusOK, "")
					if got := w.Metric(t, "weir_upstream_ratelimit_remaining", "upstream", upstream.Host); fmt.Sprint(got) != left {
						t.Errorf("after %s weir_upstream_ratelimit_remaining is %v, want %s", method, got, left)
					}
				}
				if got := w.Metric(t, "weir_upstream_ratelimit_limit", "upstream", upstream.Host); got != 100 {
					t.Errorf("weir_upstream_ratelimit_limit is %v", got)
				}
			},
		},
		{
			name: "docker.io says 429 in plain text",
			script: func(upstream *upstreamtest.Registry) {
				upstream.Fault(upstreamtest.Any, upstreamtest.Status(429, "You have reached your pull rate limit.\nUpgrade!"))
			},
			check: func(t *testing.T, w *harness.Weir, _ *upstreamtest.Registry, repo string) {
				a := w.Get(t, manifestPath(repo, "v1"))
				expect(t, "limited", a, http.StatusTooManyRequests, "")
				if a.ErrorCode() != "TOOMANYREQUESTS" || !strings.Contains(string(a.Body), "You have reached your pull rate limit. Upgrade!") {
					t.Errorf("the client is told %s", a.Body)
				}
			},
		},
		{
			name: "docker.io redirects blobs to a CDN that refuses an Authorization",
			options: []upstreamtest.Option{
				upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{}),
			},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				dgst := upstream.AddBlob("org/app", []byte("on a CDN"))
				expectContent(t, "blob", w.Get(t, blobPath(repo, dgst)), dgst, statusStored)
			},
		},
	}
}

func tokenQuirks() []quirk {
	refused := func(status int) quirk {
		return quirk{
			name:    fmt.Sprintf("ghcr.io refuses the token for a missing or private image with %d", status),
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})},
			script: func(upstream *upstreamtest.Registry) {
				upstream.Fault(upstreamtest.Tokens, upstreamtest.Status(status, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`))
			},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					a := w.Do(t, method, manifestPath(repo, "v1"))
					expect(t, method, a, http.StatusForbidden, "")
					if method == http.MethodGet && (a.ErrorCode() != "DENIED" || !strings.Contains(string(a.Body), upstream.Host)) {
						t.Errorf("the client is told %s", a.Body)
					}
				}
			},
		}
	}
	return []quirk{
		refused(401),
		refused(403),
		{
			name:    "ghcr.io has no referrers API",
			options: []upstreamtest.Option{upstreamtest.WithoutReferrers()},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				image := upstream.AddImage("org/app", "v1", []byte("referred to"))
				path := "/v2/" + repo + "/referrers/" + image.Digest.String()
				a := w.Get(t, path)
				expect(t, "none", a, http.StatusOK, "")
				if !strings.Contains(string(a.Body), `"manifests":[]`) {
					t.Errorf("none: %s", a.Body)
				}
				signature := upstream.AddReferrer("org/app", image, "example/signature", []byte("signed"))
				a = w.Get(t, path)
				expect(t, "under the fallback tag", a, http.StatusOK, "")
				if !strings.Contains(string(a.Body), signature.Digest.String()) {
					t.Errorf("under the fallback tag: %s", a.Body)
				}
			},
		},
		{
			name:    "quay.io and GitLab answer with a token and nothing else",
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{OmitExpiry: true})},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				for i := range 2 { // by default a token lasts for a minute
					dgst := upstream.AddBlob("org/app", fmt.Append(nil, "only a token ", i))
					expectContent(t, "blob", w.Get(t, blobPath(repo, dgst)), dgst, statusStored)
				}
				if got := upstream.TokenRequests(); len(got) != 1 {
					t.Errorf("the token service was asked %q, want once", got)
				}
			},
		},
		{
			name:    "GitLab has its token service on another host",
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{})},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				if strings.Contains(upstream.TokenURL(), upstream.Host) {
					t.Fatalf("the token service is at %s", upstream.TokenURL())
				}
				image := upstream.AddImage("org/app", "v1", []byte("another host"))
				expectContent(t, "tag", w.Get(t, manifestPath(repo, "v1")), image.Digest, statusStored)
			},
		},
	}
}

func redirectQuirks(elsewhere *upstreamtest.Registry) []quirk {
	return []quirk{{
		name:    "registry.k8s.io redirects to a host that wants an anonymous token of its own",
		options: []upstreamtest.Option{upstreamtest.WithRedirect(elsewhere)},
		check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
			image := elsewhere.AddImage("org/app", "v1", []byte("elsewhere"))
			head := w.Do(t, http.MethodHead, manifestPath(repo, "v1"))
			expect(t, "HEAD", head, http.StatusOK, statusPassed)
			if got := head.Header.Get("Docker-Content-Digest"); got != image.Digest.String() {
				t.Errorf("HEAD: digest %q", got)
			}
			tags := w.Get(t, "/v2/"+repo+"/tags/list")
			expect(t, "tags", tags, http.StatusOK, "")
			if !strings.Contains(string(tags.Body), `"tags":["v1"]`) {
				t.Errorf("tags: %s", tags.Body)
			}
			for _, request := range upstream.Requests() {
				if !strings.HasSuffix(request, " 307") {
					t.Errorf("the first host was asked %s", request)
				}
			}
			if got := elsewhere.TokenRequests(); len(got) != 1 {
				t.Errorf("the other host's token service was asked %q, want once", got)
			}
		},
	}}
}

func blobQuirks() []quirk {
	return []quirk{
		{
			name: "public.ecr.aws refuses every HEAD of a blob with 401",
			script: func(upstream *upstreamtest.Registry) {
				upstream.Fault(upstreamtest.All(upstreamtest.Blobs, upstreamtest.Method(http.MethodHead)), upstreamtest.Status(401, ""))
			},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				content := []byte("GET works")
				dgst := upstream.AddBlob("org/app", content)
				upstream.AddBlob("org/other", content)
				a := w.Do(t, http.MethodHead, blobPath(repo, dgst))
				expect(t, "HEAD", a, http.StatusOK, statusPassed)
				if got := a.Header.Get("Content-Length"); got != fmt.Sprint(len(content)) {
					t.Errorf("HEAD: Content-Length %q", got)
				}
				expectContent(t, "GET", w.Get(t, blobPath(repo, dgst)), dgst, statusStored)
				w.MetricIs(t, 0, "weir_downloads")
				other := strings.Replace(repo, "org/app", "org/other", 1)
				expectContent(t, "another repository", w.Get(t, blobPath(other, dgst)), dgst, statusRevalidated)
			},
		},
		{
			// The mirror gets a token that was issued a while ago, and that the
			// registry no longer takes.
			name:    "ECR answers 403 to an expired token",
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{Forbidden: true})},
			script: func(upstream *upstreamtest.Registry) {
				issued := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
				upstream.Fault(upstreamtest.Tokens, upstreamtest.Status(200, fmt.Sprintf(`{"token":"expired","expires_in":3600,"issued_at":%q}`, issued))).Times(1)
			},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				dgst := upstream.AddBlob("org/app", []byte("expired"))
				expectContent(t, "blob", w.Get(t, blobPath(repo, dgst)), dgst, statusStored)
				if got := upstream.TokenRequests(); len(got) != 2 {
					t.Errorf("the token service was asked %q, want twice", got)
				}
			},
		},
		{
			name:    "ACR answers with an access_token and no token",
			options: []upstreamtest.Option{upstreamtest.WithBearer(upstreamtest.Bearer{AccessTokenOnly: true})},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				dgst := upstream.AddBlob("org/app", []byte("access_token"))
				expectContent(t, "blob", w.Get(t, blobPath(repo, dgst)), dgst, statusStored)
			},
		},
		truncated("with a length", upstreamtest.CutEvery(8*mib)),
		truncated("without a length", upstreamtest.CutEvery(8*mib), upstreamtest.Chunked()),
	}
}

func truncated(how string, effects ...upstreamtest.Effect) quirk {
	const size = 20 * mib
	return quirk{
		name:   "mcr.microsoft.com truncates bodies at multiples of 8 MiB, " + how,
		script: func(upstream *upstreamtest.Registry) { upstream.Fault(upstreamtest.Blobs, effects...) },
		check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
			dgst := addRandom(t, upstream, "org/app", size, uint64(60000+len(how)))
			w.Pull(t, blobPath(repo, dgst)).Whole(t, "the client", dgst)
			expectWire(t, upstream, "blob", withBlob([]string{
				"GET BLOB 200", fmt.Sprintf("GET BLOB bytes=%d- 206", 8*mib), fmt.Sprintf("GET BLOB bytes=%d- 206", 16*mib),
			}, "org/app", dgst)...)
		},
	}
}

func headerQuirks() []quirk {
	return []quirk{
		{
			name:   "some send no Docker-Content-Digest",
			script: func(upstream *upstreamtest.Registry) { upstream.Fault(upstreamtest.Any, upstreamtest.OmitDigest()) },
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				image := upstream.AddImage("org/app", "v1", []byte("no digest"))
				for _, cacheStatus := range []string{statusStored, statusRevalidated} {
					a := w.Get(t, manifestPath(repo, "v1"))
					expectContent(t, "tag", a, image.Digest, cacheStatus)
					if got := a.Header.Get("Docker-Content-Digest"); got != image.Digest.String() {
						t.Errorf("the client gets the digest %q", got)
					}
				}
			},
		},
		{
			name: "some answer HEAD without a length",
			script: func(upstream *upstreamtest.Registry) {
				upstream.Fault(upstreamtest.Method(http.MethodHead), upstreamtest.Chunked())
			},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				content := []byte("a layer")
				image := upstream.AddImage("org/app", "v1", content)
				dgst := upstream.AddBlob("org/app", content)
				a := w.Do(t, http.MethodHead, blobPath(repo, dgst))
				expect(t, "HEAD of a blob", a, http.StatusOK, "")
				if got := a.Header.Get("Content-Length"); got != fmt.Sprint(len(content)) {
					t.Errorf("HEAD of a blob: Content-Length %q", got)
				}
				for _, cacheStatus := range []string{statusStored, statusRevalidated} {
					expectContent(t, "tag", w.Get(t, manifestPath(repo, "v1")), image.Digest, cacheStatus)
				}
			},
		},
		{
			name:    "some compress config blobs unless identity is asked for",
			options: []upstreamtest.Option{upstreamtest.WithGzip()},
			check: func(t *testing.T, w *harness.Weir, upstream *upstreamtest.Registry, repo string) {
				dgst := upstream.AddBlob("org/app", []byte(`{"architecture":"amd64"}`))
				a := w.Get(t, blobPath(repo, dgst), "Accept-Encoding", "gzip")
				expectContent(t, "blob", a, dgst, statusStored)
				if got := a.Header.Get("Content-Encoding"); got != "" {
					t.Errorf("Content-Encoding %q", got)
				}
			},
		},
	}
}
