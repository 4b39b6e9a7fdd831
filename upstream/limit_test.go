package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// question is one of the questions that a client of a registry may have.
type question struct {
	name string
	ask  func(ctx context.Context, c oci.Registry, repo string) error
}

// questions are all questions, about an image with the tag latest and a blob.
func questions(image ocispec.Descriptor, blob digest.Digest) []question {
	return []question{
		{"manifest", func(ctx context.Context, c oci.Registry, repo string) error {
			_, err := c.Manifest(ctx, repo, oci.ByTag("latest"))
			return err
		}},
		{"head", func(ctx context.Context, c oci.Registry, repo string) error {
			_, err := c.Head(ctx, repo, oci.ByTag("latest"))
			return err
		}},
		{"blob", func(ctx context.Context, c oci.Registry, repo string) error {
			b, err := c.Blob(ctx, repo, blob, 0, -1)
			if err != nil {
				return err
			}
			defer b.Close()
			_, err = io.Copy(io.Discard, b)
			return err
		}},
		{"stat", func(ctx context.Context, c oci.Registry, repo string) error {
			_, err := c.StatBlob(ctx, repo, blob)
			return err
		}},
		{"tags", func(ctx context.Context, c oci.Registry, repo string) error {
			_, err := c.Tags(ctx, repo, nil)
			return err
		}},
		{"referrers", func(ctx context.Context, c oci.Registry, repo string) error {
			_, err := c.Referrers(ctx, repo, image.Digest, "")
			return err
		}},
	}
}

// wireCount returns the number of requests to all hosts of a registry.
func wireCount(r *upstreamtest.Registry) int {
	return len(r.Requests()) + len(r.TokenRequests()) + len(r.CDNRequests())
}

// withToken matches requests that have one.
func withToken(r *http.Request) bool { return r.Header.Get("Authorization") != "" }

// A limit stops the operation, or the host, that set it, and no other one.
func TestLimitStopsOneOperation(t *testing.T) {
	const everything = "manifest head blob stat tags referrers"
	limited := upstreamtest.Status(429, "")
	coded := func(status int) upstreamtest.Effect {
		return upstreamtest.Status(status, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`)
	}
	get, head := upstreamtest.Method(http.MethodGet), upstreamtest.Method(http.MethodHead)
	options := func(o ...upstreamtest.Option) []upstreamtest.Option { return o }
	bearer, cdn := upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{})
	tokenOnHost := upstreamtest.WithBearer(upstreamtest.Bearer{OnRegistry: true})
	storageOnHost := upstreamtest.WithCDN(upstreamtest.CDN{OnRegistry: true})
	for name, c := range map[string]struct {
		options []upstreamtest.Option
		match   upstreamtest.Match // of the requests that are refused
		effect  upstreamtest.Effect
		stopped string // the questions without an answer before the limit ends; the first one is told
		told    int    // requests to all hosts by that one
		again   int    // requests by all of them, when they are asked again
	}{
		"GET of manifests":       {nil, upstreamtest.All(get, upstreamtest.Manifests), limited, "manifest head", 1, 0},
		"HEAD of manifests":      {nil, upstreamtest.All(head, upstreamtest.Manifests), limited, "head manifest", 1, 0},
		"403 with the code":      {nil, upstreamtest.Manifests, coded(403), "manifest head", 1, 0},
		"400 with the code":      {nil, upstreamtest.Tags, coded(400), "tags referrers", 1, 0},
		"404 with the code":      {nil, upstreamtest.Blobs, coded(404), "blob stat", 1, 0},
		"GET of blobs":           {nil, upstreamtest.All(get, upstreamtest.Blobs), limited, "blob stat", 1, 0},
		"HEAD of blobs":          {nil, upstreamtest.All(head, upstreamtest.Blobs), limited, "stat blob", 1, 0},
		"tags":                   {nil, upstreamtest.Tags, limited, "tags referrers", 1, 0},
		"referrers":              {nil, upstreamtest.Referrers, limited, "referrers tags", 1, 0},
		"a fallback tag":         {options(upstreamtest.WithoutReferrers()), upstreamtest.Path("/manifests/sha256-"), limited, "referrers manifest head", 2, 1},
		"blobs before a CDN":     {options(cdn), upstreamtest.Blobs, limited, "blob stat", 1, 0},
		"the CDN":                {options(cdn), upstreamtest.CDNBlobs, limited, "blob", 2, 1},
		"the CDN, with tokens":   {options(cdn, bearer), upstreamtest.CDNBlobs, limited, "blob", 4, 1},
		"storage on the host":    {options(storageOnHost), upstreamtest.CDNBlobs, limited, "blob", 2, 1},
		"the token service":      {options(bearer), upstreamtest.Tokens, limited, everything, 2, 0},
		"its 403 with the code":  {options(bearer), upstreamtest.Tokens, coded(403), everything, 2, 0},
		"a token on the host":    {options(tokenOnHost), upstreamtest.Tokens, limited, everything, 2, 0},
		"manifests, with tokens": {options(bearer), upstreamtest.All(withToken, upstreamtest.Manifests), coded(403), "manifest head", 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(c.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				all := questions(r.AddImage("repo", "latest", []byte("layer")), r.AddBlob("repo", blob))
				client := newClient(t, r, on(n))
				ask := func(name string) error {
					i := slices.IndexFunc(all, func(q question) bool { return q.name == name })
					return all[i].ask(t.Context(), client, "repo")
				}
				stopped := strings.Fields(c.stopped)
				fault := r.Fault(c.match, c.effect, upstreamtest.Header("Retry-After", "30"))
				wantError(t, ask(stopped[0]), upstream.ErrRateLimited)
				if got := wireCount(r); got != c.told {
					t.Errorf("%d requests by the first question, want %d: %q", got, c.told, r.Requests())
				}
				time.Sleep(10 * time.Second)
				r.ResetRequests()
				for _, name := range stopped {
					if e := wantError(t, ask(name), upstream.ErrRateLimited); e.RetryAfter != 20*time.Second {
						t.Errorf("%s: retry after %v", name, e.RetryAfter)
					}
				}
				if got := wireCount(r); got != c.again || fault.Hits() != 1 {
					t.Errorf("%d requests while the limit lasts, want %d: %q; %d were refused", got, c.again, r.Requests(), fault.Hits())
				}
				for _, q := range all {
					if err := ask(q.name); !slices.Contains(stopped, q.name) && err != nil {
						t.Errorf("%s is stopped: %v", q.name, err)
					}
				}
				fault.Remove()
				time.Sleep(20 * time.Second)
				for _, q := range all {
					if err := ask(q.name); err != nil {
						t.Errorf("%s, after the limit: %v", q.name, err)
					}
				}
			})
		})
	}
}

// A limited token service stops the requests that need a new token of it, and costs
// them no request to the registry.
func TestLimitedTokenService(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		for _, repo := range []string{"warm", "cold", "known", "open", "elsewhere"} {
			r.AddImage(repo, "latest", []byte(repo))
		}
		// One repository wants no token, and another one that of another service.
		other := upstreamtest.New(t, upstreamtest.WithNetwork(n, "other.test"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		r.Fault(upstreamtest.Path("/open/"), upstreamtest.Status(200, `{"schemaVersion":2,"layers":[]}`), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageManifest))
		challengeBy(r, "/elsewhere/", other.TokenURL())

		c := newClient(t, r, on(n))
		ask := func(repo string) error {
			_, err := c.Manifest(t.Context(), repo, oci.ByTag("latest"))
			return err
		}
		expect := func(repo string, want error, requests, tokenRequests int) {
			t.Helper()
			r.ResetRequests()
			if err := ask(repo); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", repo, err, want)
			}
			if len(r.Requests()) != requests || len(r.TokenRequests()) != tokenRequests {
				t.Errorf("%s: requests are %q and %q, want %d and %d", repo, r.Requests(), r.TokenRequests(), requests, tokenRequests)
			}
		}
		expect("known", nil, 2, 1)
		time.Sleep(5 * time.Minute) // its token has expired, and its challenge is known
		expect("warm", nil, 2, 1)
		r.Fault(upstreamtest.Tokens, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "120")).Times(1)
		expect("known", upstream.ErrRateLimited, 0, 1)
		for range 2 {
			expect("known", upstream.ErrRateLimited, 0, 0)
			expect("warm", nil, 1, 0)
			expect("open", nil, 1, 0)
		}
		expect("cold", upstream.ErrRateLimited, 1, 0) // which brings the challenge
		expect("cold", upstream.ErrRateLimited, 0, 0)
		expect("elsewhere", nil, 2, 0)
		if got := other.TokenRequests(); len(got) != 1 {
			t.Errorf("the other token service was asked %q", got)
		}
		time.Sleep(2 * time.Minute)
		expect("known", nil, 1, 1)
		expect("cold", nil, 1, 1)
	})
}

// The limit of a host behind a redirect stops what that host would deliver, and not
// another host nor the registry.
func TestLimitBehindRedirect(t *testing.T) {
	const limited = `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`
	for name, answer := range map[string][]upstreamtest.Effect{
		"429":                     {upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30")},
		"429, with a document":    {upstreamtest.Status(429, limited), upstreamtest.Header("Retry-After", "30")},
		"429, with another field": {upstreamtest.Status(429, ""), upstreamtest.Header("RateLimit-Reset", "30")},
		"403, with the code":      {upstreamtest.Status(403, limited), upstreamtest.Header("Retry-After", "30")},
		"400, with the code":      {upstreamtest.Status(400, limited), upstreamtest.Header("X-Retry-After", "30")},
	} {
		inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
			network := func(host string) upstreamtest.Option { return upstreamtest.WithNetwork(n, host) }
			target := upstreamtest.New(t, network("target.test"))
			r := upstreamtest.New(t, network("registry.test"), upstreamtest.WithRedirect(target))
			all := questions(target.AddImage("repo", "latest", []byte("layer")), target.AddBlob("repo", blob))
			other := upstreamtest.New(t, network("other.test"))
			other.AddImage("elsewhere", "latest", []byte("layer"))
			r.Fault(upstreamtest.Path("/elsewhere/"), upstreamtest.Status(307, ""), upstreamtest.Header("Location", other.URL.String()+"/v2/elsewhere/manifests/latest"))
			c := newClient(t, r, on(n))
			target.Fault(upstreamtest.Manifests, answer...).Times(1)
			for range 2 {
				for _, q := range all {
					if err := q.ask(t.Context(), c, "repo"); errors.Is(err, upstream.ErrRateLimited) != (q.name == "manifest" || q.name == "head") {
						t.Errorf("%s: %s: %v", name, q.name, err)
					}
				}
			}
			if got := target.Requests(); len(got) != 1+2*4 {
				t.Errorf("%s: the target was asked %q", name, got)
			}
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "elsewhere", oci.ByTag("latest")))
			time.Sleep(30 * time.Second)
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		})
	}
}

// The limit of a host that other upstreams may redirect to is not told to their
// clients, and that of a registry and its token service is.
func TestSharedLimits(t *testing.T) {
	for name, c := range map[string]struct {
		match upstreamtest.Match
		told  []string
	}{
		"manifests":     {upstreamtest.All(withToken, upstreamtest.Manifests), []string{"registry.test:80  manifest 30s"}},
		"tags":          {upstreamtest.All(withToken, upstreamtest.Tags), []string{"registry.test:80  list 30s"}},
		"token service": {upstreamtest.Tokens, []string{"registry.test:80  token http://token.registry.test:80 30s"}},
		"CDN":           {upstreamtest.CDNBlobs, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{}), upstreamtest.WithCDN(upstreamtest.CDN{}))
				all := questions(r.AddImage("repo", "latest", []byte("layer")), r.AddBlob("repo", blob))
				shared := &sharedLimits{limited: make(map[string]func(time.Time))}
				client := newClient(t, r, on(n), func(o *upstream.Options) { o.Cooldowns = shared })
				r.Fault(c.match, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30"))
				for _, q := range all {
					q.ask(t.Context(), client, "repo")
				}
				if !slices.Equal(shared.told, c.told) {
					t.Errorf("told: %q, want %q", shared.told, c.told)
				}
			})
		})
	}
}

// Another client's limit of a token service stops no request that needs no token of that
// service.
func TestTokenLimitFromElsewhere(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		for _, repo := range []string{"warm", "cold", "elsewhere"} {
			r.AddImage(repo, "latest", []byte("layer"))
		}
		// One repository has a token service of its own, such as that of a tenant.
		other := upstreamtest.New(t, upstreamtest.WithNetwork(n, "other.test"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		challengeBy(r, "/elsewhere/", other.TokenURL())
		shared := &sharedLimits{limited: make(map[string]func(time.Time))}
		c := newClient(t, r, on(n), func(o *upstream.Options) { o.Cooldowns = shared })
		get := func(repo string) error {
			_, err := c.Manifest(t.Context(), repo, oci.ByTag("latest"))
			return err
		}
		for _, repo := range []string{"warm", "elsewhere"} {
			if err := get(repo); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute) // their tokens have expired
		if err := get("warm"); err != nil {
			t.Fatal(err)
		}
		tell := func(service *upstreamtest.Registry) {
			u, err := url.Parse(service.TokenURL())
			if err != nil {
				t.Fatal(err)
			}
			shared.limited["registry.test:80  token "+u.Scheme+"://"+u.Host](time.Now().Add(time.Minute))
		}
		requests := len(r.TokenRequests())
		tell(r)
		if err := errors.Join(get("warm"), get("elsewhere")); err != nil {
			t.Error(err)
		}
		wantError(t, get("cold"), upstream.ErrRateLimited)
		if got := r.TokenRequests(); len(got) != requests {
			t.Errorf("the token service was asked %q", got)
		}
		time.Sleep(5 * time.Minute)
		tell(other)
		if err := errors.Join(get("warm"), get("cold")); err != nil {
			t.Error(err)
		}
		wantError(t, get("elsewhere"), upstream.ErrRateLimited)
	})
}

// challengeBy lets a token service of its own serve one repository, which is open to every
// token.
func challengeBy(r *upstreamtest.Registry, repo, realm string) {
	served := upstreamtest.All(upstreamtest.Path(repo), withToken)
	r.Fault(served, upstreamtest.Status(200, `{"schemaVersion":2,"layers":[]}`), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageManifest))
	challenged := upstreamtest.All(upstreamtest.Path(repo), func(r *http.Request) bool { return !withToken(r) })
	r.Fault(challenged, upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Bearer realm="`+realm+`"`))
}

// A registry that names another token service for each repository makes other clients hear
// of eight of them.
func TestManyTokenServices(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{}))
		shared := &sharedLimits{limited: make(map[string]func(time.Time))}
		c := newClient(t, r, on(n), func(o *upstream.Options) { o.Cooldowns = shared })
		before := len(shared.limited)
		for i := range 30 {
			host := fmt.Sprintf("service%d.test", i)
			service := upstreamtest.New(t, upstreamtest.WithNetwork(n, host), upstreamtest.WithBearer(upstreamtest.Bearer{}))
			service.Fault(upstreamtest.Any, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30"))
			challengeBy(r, fmt.Sprintf("/repo%d/", i), service.TokenURL())
			for range 2 {
				_, err := c.Manifest(t.Context(), fmt.Sprint("repo", i), oci.ByTag("latest"))
				wantError(t, err, upstream.ErrRateLimited)
			}
			if got := len(service.TokenRequests()); got != 1 {
				t.Errorf("%s was asked %d times", host, got)
			}
		}
		if heard := len(shared.limited) - before; heard != 8 || len(shared.told) != 8 {
			t.Errorf("it hears of %d services, and told of %q", heard, shared.told)
		}
		c.Close()
		if len(shared.limited) != 0 {
			t.Errorf("still watched: %v", shared.limited)
		}
	})
}

// A limit that is said with a code is not taken for a refused token, nor for content that
// is hidden from anonymous clients: neither a token nor the API's root is asked for.
func TestLimitCostsNoToken(t *testing.T) {
	bearer := upstreamtest.WithBearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"})
	for name, c := range map[string]struct {
		options []upstreamtest.Option
		status  int
		age     time.Duration // of the token; 0: there is none yet
	}{
		"a new token":       {[]upstreamtest.Option{bearer}, 403, time.Second},
		"an old token":      {[]upstreamtest.Option{bearer}, 403, time.Minute},
		"an old token, 401": {[]upstreamtest.Option{bearer}, 401, time.Minute},
		"anonymous, 403":    {nil, 403, 0},
		"anonymous, 404":    {nil, 404, 0},
		"anonymous, 429":    {nil, 429, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, append(c.options, upstreamtest.WithNetwork(n, "registry.test"))...)
				r.AddImage("repo", "latest", []byte("layer"))
				client := newClient(t, r, on(n), withCredentials)
				if c.age > 0 {
					must[*oci.Manifest](t)(client.Manifest(t.Context(), "repo", oci.ByTag("latest")))
					time.Sleep(c.age)
				}
				r.ResetRequests()
				r.Fault(upstreamtest.Manifests, upstreamtest.Status(c.status, `{"errors":[{"code":"TOOMANYREQUESTS","message":"so it says"}]}`))
				_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				if e := wantError(t, err, upstream.ErrRateLimited); e.Message != "so it says" {
					t.Errorf("got %v", e)
				}
				if len(r.Requests()) != 1 || len(r.TokenRequests()) != 0 {
					t.Errorf("requests are %q and %q", r.Requests(), r.TokenRequests())
				}
			})
		})
	}
}
