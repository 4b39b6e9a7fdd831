package upstream_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func withCredentials(o *upstream.Options) { o.Username, o.Password = "user", "hunter2" }

func TestAuthentication(t *testing.T) {
	bearer := func(b upstreamtest.Bearer) upstreamtest.Option { return upstreamtest.WithBearer(b) }
	tests := map[string]struct {
		registry    upstreamtest.Option
		credentials bool
		wantErr     error
		requests    int // for two manifests
		tokens      int
	}{
		"basic":                    {upstreamtest.WithBasic("user", "hunter2"), true, nil, 3, 0},
		"basic, wrong":             {upstreamtest.WithBasic("user", "other"), true, upstream.ErrDenied, 3, 0},
		"basic, none":              {upstreamtest.WithBasic("user", "hunter2"), false, upstream.ErrDenied, 2, 0},
		"bearer, anonymous":        {bearer(upstreamtest.Bearer{}), false, nil, 3, 1},
		"bearer, with credentials": {bearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"}), true, nil, 3, 1},
		"bearer, wrong":            {bearer(upstreamtest.Bearer{Username: "user", Password: "other"}), true, upstream.ErrDenied, 2, 2},
		"bearer, none":             {bearer(upstreamtest.Bearer{Username: "user", Password: "hunter2"}), false, upstream.ErrDenied, 2, 2},
		"access_token, no expiry":  {bearer(upstreamtest.Bearer{AccessTokenOnly: true, OmitExpiry: true}), false, nil, 3, 1},
		"no scope":                 {bearer(upstreamtest.Bearer{OmitScope: true}), false, nil, 3, 1},
		"realm on the same host":   {bearer(upstreamtest.Bearer{OnRegistry: true}), false, nil, 3, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, test.registry)
			r.AddImage("library/nginx", "latest", []byte("layer"))
			var options []func(*upstream.Options)
			if test.credentials {
				options = append(options, withCredentials)
			}
			c := newClient(t, r, options...)
			for range 2 {
				_, err := c.Manifest(t.Context(), "library/nginx", oci.ByTag("latest"))
				if !errors.Is(err, test.wantErr) {
					t.Errorf("got %v, want %v", err, test.wantErr)
				}
			}
			if len(r.Requests()) != test.requests || len(r.TokenRequests()) != test.tokens {
				t.Errorf("requests are %v and %v, want %d and %d", r.Requests(), r.TokenRequests(), test.requests, test.tokens)
			}
			for _, got := range r.TokenRequests() {
				if !strings.Contains(got, "scope=repository%3Alibrary%2Fnginx%3Apull") || !strings.Contains(got, "service=") {
					t.Errorf("token request %s", got)
				}
			}
		})
	}
}

// A token that expired is replaced: before its time is over, and when the
// registry refuses it, which some do with 403.
func TestTokenRenewal(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(upstreamtest.Bearer{Forbidden: true}))
		r.AddImage("repo", "latest", []byte("layer"))
		c := newClient(t, r, on(n))
		pull := func() {
			t.Helper()
			r.ResetRequests()
			must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
		}
		pull()
		r.RevokeTokens()
		time.Sleep(4 * time.Second)
		_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		wantError(t, err, upstream.ErrDenied) // a 403 on a fresh token is meant
		time.Sleep(2 * time.Second)
		pull()
		want := []string{"GET /v2/repo/manifests/latest 403", "GET /v2/repo/manifests/latest 200"}
		if diff := cmp.Diff(want, r.Requests()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(5*time.Minute - 29*time.Second)
		pull()
		if diff := cmp.Diff(want[1:], r.Requests()); diff != "" || len(r.TokenRequests()) != 1 {
			t.Errorf("%s after %v", diff, r.TokenRequests())
		}
	})
}

// A token that another instance acquired may be refused to the first request that
// is sent with it, after the one that taught the challenge.
func TestSharedTokenWasRevoked(t *testing.T) {
	for name, bearer := range map[string]upstreamtest.Bearer{"401": {}, "403": {Forbidden: true}} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"), upstreamtest.WithBearer(bearer))
				r.AddImage("repo", "latest", []byte("layer"))
				tokens := tokencache.New(tokencache.NewMemory(10), nil)
				defer tokens.Close()
				sharing := func(o *upstream.Options) { o.Tokens = tokens }
				must[*oci.Manifest](t)(newClient(t, r, on(n), sharing).Manifest(t.Context(), "repo", oci.ByTag("latest")))
				r.RevokeTokens()
				time.Sleep(6 * time.Second)
				r.ResetRequests()
				must[*oci.Manifest](t)(newClient(t, r, on(n), sharing).Manifest(t.Context(), "repo", oci.ByTag("latest")))
				want := []string{"GET /v2/repo/manifests/latest 401", "GET /v2/repo/manifests/latest " + name, "GET /v2/repo/manifests/latest 200"}
				if diff := cmp.Diff(want, r.Requests()); diff != "" || len(r.TokenRequests()) != 1 {
					t.Errorf("%s after %v", diff, r.TokenRequests())
				}
			})
		})
	}
}

// A token service whose clock is late gives out nothing but old tokens.
func TestRefusedTokensThatLookOld(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	issued := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	r.Fault(upstreamtest.Tokens, upstreamtest.Status(200, `{"token":"refused","expires_in":300,"issued_at":"`+issued+`"}`))
	_, err := newClient(t, r).Manifest(t.Context(), "repo", oci.ByTag("latest"))
	wantError(t, err, upstream.ErrDenied)
	if got := r.Requests(); len(got) != 3 {
		t.Errorf("requests are %q, want 3", got)
	}
}

func TestTokenService(t *testing.T) {
	tests := map[string]struct {
		effect  upstreamtest.Effect
		want    error
		message string
		tokens  int
	}{
		"401":            {upstreamtest.Status(401, ""), upstream.ErrDenied, "token service localhost:", 1},
		"403":            {upstreamtest.Status(403, `{"errors":[{"code":"DENIED","message":"denied"}]}`), upstream.ErrDenied, "DENIED: token service localhost:", 1},
		"429":            {upstreamtest.Status(429, ""), upstream.ErrRateLimited, "retry after 1m0s", 1},
		"a limit by 400": {upstreamtest.Status(400, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), upstream.ErrRateLimited, "retry after 1m0s", 1},
		"a limit by 403": {upstreamtest.Status(403, `{"errors":[{"code":"toomanyrequests"}]}`), upstream.ErrRateLimited, "retry after 1m0s", 1},
		"a limit by 503": {upstreamtest.Status(503, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), upstream.ErrRateLimited, "retry after 1m0s", 1},
		"an odd code":    {upstreamtest.Status(400, `{"errors":[{"code":"NAME_UNKNOWN"}]}`), upstream.ErrUnavailable, "token service localhost:", 1},
		"204":            {upstreamtest.Status(204, ""), upstream.ErrUnavailable, "token service localhost:", 1},
		"206":            {upstreamtest.Status(206, `{"token":"x"}`), upstream.ErrUnavailable, "token service localhost:", 1},
		"nowhere":        {upstreamtest.Status(302, ""), upstream.ErrUnavailable, "token service localhost:", 1},
		"500":            {upstreamtest.Status(500, ""), upstream.ErrUnavailable, "token service localhost:", 1},
		"404":            {upstreamtest.Status(404, ""), upstream.ErrUnavailable, "token service localhost:", 1},
		"empty":          {upstreamtest.Status(200, "{}"), upstream.ErrUnavailable, "neither token nor access_token", 1},
		"not JSON":       {upstreamtest.Status(200, "<html>"), upstream.ErrUnavailable, "not a token", 1},
		"oversized":      {upstreamtest.Status(200, `{"token":"`+strings.Repeat("x", 64<<10)+`"}`), upstream.ErrUnavailable, "exceeds 65536 bytes", 1},
		"header smuggle": {upstreamtest.Status(200, `{"token":"a\r\nX: y"}`), upstream.ErrUnavailable, "not allowed in a header", 1},
		"broken":         {upstreamtest.Drop(), upstream.ErrUnavailable, "token service localhost:", 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
			r.AddImage("repo", "latest", []byte("layer"))
			r.Fault(upstreamtest.Tokens, test.effect)
			_, err := newClient(t, r).Manifest(t.Context(), "repo", oci.ByTag("latest"))
			if wantError(t, err, test.want); !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v, want %q", err, test.message)
			}
			if got := r.TokenRequests(); len(got) != test.tokens {
				t.Errorf("token requests are %v", got)
			}
		})
	}
}

func TestRealmsRedirectGetsNoCredentials(t *testing.T) {
	other := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	r.Fault(upstreamtest.Tokens, upstreamtest.Status(http.StatusFound, ""), upstreamtest.Header("Location", other.TokenURL()))
	_, err := newClient(t, r, withCredentials).Manifest(t.Context(), "repo", oci.ByTag("latest"))
	wantError(t, err, upstream.ErrDenied) // the other's token is worth nothing here
	for _, record := range append(r.Log(), other.Log()...) {
		if basic := strings.HasPrefix(record.Header.Get("Authorization"), "Basic "); basic != strings.HasPrefix(record.URI, "/token?") {
			t.Errorf("%v with Basic: %v", record, basic)
		}
	}
	if len(other.TokenRequests()) == 0 {
		t.Error("the redirect was not followed")
	}
}

func TestRealmMustBeHTTPS(t *testing.T) {
	for _, realm := range []string{"http://auth.test/token", "ftp://auth.test/token"} {
		r := upstreamtest.New(t, upstreamtest.WithTLS(), upstreamtest.WithBearer(upstreamtest.Bearer{Realm: realm}))
		c := newClient(t, r, withCredentials, func(o *upstream.Options) { o.RootCAs = r.RootCAs() })
		_, err := c.Manifest(t.Context(), "repo", oci.ByTag("latest"))
		if wantError(t, err, upstream.ErrUnavailable); !strings.Contains(err.Error(), "auth.test") {
			t.Errorf("%v does not name the realm's host", err)
		}
	}
}

func TestAuthorizationStaysHome(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithCDN(upstreamtest.CDN{}))
	dgst := r.AddBlob("repo", []byte("layer"))
	c := newClient(t, r, withCredentials)
	for range 2 {
		b, err := alone(c).Blob(t.Context(), "repo", dgst, 0, -1)
		if got := readBody(t, b, err); string(got) != "layer" {
			t.Errorf("got %q", got)
		}
	}
	if diff := cmp.Diff([]string{"GET /cdn/repo/" + dgst.String() + " 200", "GET /cdn/repo/" + dgst.String() + " 200"}, r.CDNRequests()); diff != "" {
		t.Error(diff)
	}
	if got := r.Authorizations(); len(got) != 3 || got[2] == "" {
		t.Errorf("authorizations are %q", got)
	}
}

// A redirect's second host gets the token that its own challenge describes.
func TestSecondHostChallenges(t *testing.T) {
	second := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	second.AddImage("repo", "latest", []byte("layer"))
	first := upstreamtest.New(t, upstreamtest.WithBasic("user", "hunter2"), upstreamtest.WithRedirect(second))
	c := newClient(t, first, withCredentials)
	for range 2 {
		must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
	}
	if got := second.Authorizations(); len(got) != 3 || got[0] != "" || !strings.HasPrefix(got[1], "Bearer ") || got[1] != got[2] {
		t.Errorf("the second host saw %q", got)
	}
	for _, record := range second.Log() {
		if record.Server == "token" && record.Header.Get("Authorization") != "" {
			t.Error("the second host's token service saw credentials")
		}
	}
}

func TestClientCertificateStaysHome(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithClientCertificates(), upstreamtest.WithCDN(upstreamtest.CDN{}), upstreamtest.WithBearer(upstreamtest.Bearer{}))
	dgst := r.AddBlob("repo", []byte("layer"))
	c := newClient(t, r, func(o *upstream.Options) {
		certificate := r.ClientCertificate()
		o.Certificate, o.RootCAs = &certificate, r.RootCAs()
	})
	b, err := alone(c).Blob(t.Context(), "repo", dgst, 0, -1)
	readBody(t, b, err)
	servers := make(map[string]bool)
	for _, record := range r.Log() {
		servers[record.Server] = record.ClientCertificate
		if record.Proto != "HTTP/2.0" {
			t.Errorf("%s speaks %s", record.Server, record.Proto)
		}
	}
	if diff := cmp.Diff(map[string]bool{"registry": true, "token": false, "cdn": false}, servers); diff != "" {
		t.Error(diff)
	}
}

func TestAuthenticationChoosesBearer(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	r.AddImage("repo", "latest", []byte("layer"))
	c := newClient(t, r, withCredentials)
	challenge := `BASIC realm="x", bEaReR realm="` + r.TokenURL() + `"`
	r.Fault(upstreamtest.Manifests, upstreamtest.Status(http.StatusUnauthorized, ""), upstreamtest.Header("WWW-Authenticate", challenge)).Times(1)
	must[*oci.Manifest](t)(c.Manifest(t.Context(), "repo", oci.ByTag("latest")))
}

// A challenge decides about the realm and the service, and not about the rights that
// are asked for.
func TestScopeIsOurs(t *testing.T) {
	for name, scope := range map[string]string{
		"none": "", "ours": "repository:org/app:pull", "push": "repository:org/app:pull,push", "delete": "repository:org/app:*",
		"another repository": "repository:org/secret:pull", "two": "repository:org/app:pull repository:org/secret:pull",
		"the catalog": "registry:catalog:*", "an account": "aws", "nonsense": "&offline_token=true#\u00e4",
	} {
		for _, query := range []string{"", "?scope=repository:org/secret:pull,push", "?offline_token=true&account=x&scope=a&scope=b"} {
			t.Run(name+query, func(t *testing.T) {
				r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
				r.AddImage("org/app", "latest", []byte("layer"))
				challenge := `Bearer realm="` + r.TokenURL() + query + `",service="the service",scope="` + scope + `"`
				r.Fault(upstreamtest.Manifests, upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", challenge)).Times(1)
				must[*oci.Manifest](t)(newClient(t, r, withCredentials).Manifest(t.Context(), "org/app", oci.ByTag("latest")))
				asked := must[*url.URL](t)(url.Parse(r.Log()[1].URI)).Query()
				if diff := cmp.Diff([]string{"repository:org/app:pull"}, asked["scope"]); diff != "" || asked.Get("service") != "the service" || asked.Has("offline_token") {
					t.Errorf("asked %v", asked)
				}
			})
		}
	}
}

// The second host behind a redirect may know the repository by another name.
func TestScopeOfSecondHost(t *testing.T) {
	second := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
	second.AddImage("k8s/images/pause", "3.9", []byte("layer"))
	first := upstreamtest.New(t)
	first.Fault(upstreamtest.Any, upstreamtest.Status(307, ""), upstreamtest.Header("Location", second.URL.String()+"/v2/k8s/images/pause/manifests/3.9"))
	must[*oci.Manifest](t)(newClient(t, first).Manifest(t.Context(), "pause", oci.ByTag("3.9")))
	if got := second.TokenRequests(); len(got) != 1 || !strings.Contains(got[0], "scope=repository%3Ak8s%2Fimages%2Fpause%3Apull") {
		t.Errorf("asked %q", got)
	}
}

// A pinned token service is the only one besides the registry's own host that gets the
// credentials.
func TestTokenRealm(t *testing.T) {
	for name, c := range map[string]struct {
		pinned, realm string
		sent          bool
	}{
		"none":                  {"", "http://auth.test/token", true},
		"the host":              {"auth.test", "http://auth.test/token", true},
		"in capitals":           {"Auth.Test", "http://auth.test/token", true},
		"with its port":         {"auth.test:80", "http://auth.test/token", true},
		"the registry's own":    {"elsewhere.test", "http://registry.test/token", true},
		"another port":          {"auth.test:8080", "http://auth.test/token", false},
		"another host":          {"elsewhere.test", "http://auth.test/token", false},
		"a host above":          {"test", "http://auth.test/token", false},
		"a host below":          {"x.auth.test", "http://auth.test/token", false},
		"a user of its name":    {"pinned.test", "http://pinned.test@auth.test/token", false},
		"its name in the path":  {"pinned.test", "http://auth.test/pinned.test", false},
		"another with its name": {"auth", "http://auth.test/token", false},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
				r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "registry.test"))
				auth := upstreamtest.New(t, upstreamtest.WithNetwork(n, "auth.test"))
				challenged := upstreamtest.All(upstreamtest.Path("/v2/"), func(r *http.Request) bool { return !withToken(r) })
				r.Fault(challenged, upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Bearer realm="`+c.realm+`"`))
				client := newClient(t, r, on(n), withCredentials, func(o *upstream.Options) { o.TokenRealm = c.pinned })
				_, err := client.Manifest(t.Context(), "repo", oci.ByTag("latest"))
				sent := false
				for _, authorization := range append(r.Authorizations(), auth.Authorizations()...) {
					sent = sent || strings.HasPrefix(authorization, "Basic ")
				}
				for _, record := range append(r.Log(), auth.Log()...) {
					sent = sent || strings.HasPrefix(record.Header.Get("Authorization"), "Basic ")
				}
				if e := wantError(t, err, upstream.ErrUnavailable); sent != c.sent || (e.Remedy() == upstream.TrustRealm) == c.sent {
					t.Errorf("the credentials were sent: %v, remedy %v: %v", sent, e.Remedy(), err)
				}
			})
		})
	}
}

// A realm or a service that is too long is no challenge.
func TestLongChallenge(t *testing.T) {
	for _, challenge := range []string{
		`Bearer realm="http://auth.test/` + strings.Repeat("x", 8<<10) + `"`,
		`Bearer realm="http://auth.test/",service="` + strings.Repeat("x", 8<<10) + `"`,
	} {
		r := upstreamtest.New(t)
		r.Fault(upstreamtest.Any, upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", challenge))
		_, err := newClient(t, r).Manifest(t.Context(), "repo", oci.ByTag("latest"))
		wantError(t, err, upstream.ErrDenied)
	}
}
