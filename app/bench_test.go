package app

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// warmManifest is a pull of a cached manifest by digest, with credentials that were
// verified before. Its configuration is that of an identity and of rules.
type warmManifest struct {
	name   string
	config string // before the block
	block  string // keys of the block
	show   func(t testing.TB, m *mirror, r *http.Request)
	// upstream are the options of the registry behind the mirror.
	upstream []upstreamtest.Option
	// extra is the number of allocations beyond those of an open mirror.
	extra float64
}

func warmManifests(t testing.TB) []warmManifest {
	const user = "[auth.identity.ci]\nusername = \"ci\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n" +
		"[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"
	const group = "[auth.groups]\nrobots = [\"ci\"]\n"
	const policy = "[access_policy]\ndefault = \"deny\"\nrules = [\"identity.username == 'admin'\", \"identity.username == 'ci' && request.action.startsWith('get-')\"]\n"
	issuer, signed, long := issuerOfTokens(t)
	oidc := "[auth.oidc.github]\nissuer = \"" + issuer + "\"\nrequired_audience = \"weir\"\n"
	password := func(_ testing.TB, _ *mirror, r *http.Request) { r.SetBasicAuth("ci", "secret") }
	token := func(t testing.TB, m *mirror, r *http.Request) {
		password(t, m, r)
		r.Header.Set("Authorization", "Bearer "+issue(t, m.handler, r, ""))
	}
	certificate := func(_ testing.TB, _ *mirror, r *http.Request) {
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "node-1", Organization: []string{"nodes"}}, DNSNames: []string{"node-1.example.com"}}
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	}
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)
	webhook := "[global]\nauthorization_webhook = \"opa\"\n[auth.webhook.opa]\nurl = \"" + hook.URL + "\"\ncache_ttl = 60\n"
	accounts := upstreamtest.WithAccounts(upstreamtest.Account{Username: "ci", Password: "secret", Repositories: []string{"org/app"}})
	const own = "authorize = \"upstream\"\n"
	grant := func(t testing.TB, m *mirror, r *http.Request) {
		password(t, m, r)
		r.Header.Set("Authorization", "Bearer "+issue(t, m.handler, r, "?scope=repository:up.example/org/app:pull"))
	}
	return []warmManifest{
		{"open", "", "", func(testing.TB, *mirror, *http.Request) {}, nil, 0},
		{"anonymous", "[auth]\nanonymous = true\n" + user, "", func(testing.TB, *mirror, *http.Request) {}, nil, 0},
		{"token", user, "", token, nil, 0},
		{"password", user, "", password, nil, 0},
		{"OIDC", oidc, "", func(_ testing.TB, _ *mirror, r *http.Request) { r.Header.Set("Authorization", "Bearer "+signed) }, nil, 0},
		{"OIDC with many groups", oidc, "", func(_ testing.TB, _ *mirror, r *http.Request) { r.Header.Set("Authorization", "Bearer "+long) }, nil, 0},
		{"OIDC as a password", oidc, "", func(_ testing.TB, _ *mirror, r *http.Request) { r.SetBasicAuth("ci", signed) }, nil, 0},
		{"certificate", "", "allow = [\"cert:node-*\"]\n", certificate, nil, 0},
		{"allow", user + group, "allow = [\"alice\", \"@robots\"]\n", token, nil, 0},
		{"policy", user + policy, "", token, nil, 0},
		{"webhook", user + webhook, "", token, nil, 0},
		// A context with the credential.
		{"password of the upstream", "", own, password, []upstreamtest.Option{accounts}, 2},
		{"token for the upstream", "", own, grant, []upstreamtest.Option{accounts, upstreamtest.WithBearer(upstreamtest.Bearer{})}, 2},
		{"all", user + group + policy, "images = [\"org/**\", \"!org/internal/**\"]\nallow = [\"@robots\"]\n", token, nil, 0},
	}
}

// issuerOfTokens runs an OpenID Connect issuer, and returns its URL and two of its tokens. The
// second one has many groups.
func issuerOfTokens(t testing.TB) (url, token, long string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = map[string]string{"issuer": server.URL, "jwks_uri": server.URL + "/keys"}
		if r.URL.Path == "/keys" {
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Use: "sig"}}}
		}
		_ = json.NewEncoder(w).Encode(answer) // a test without it fails
	}))
	t.Cleanup(server.Close)
	claims := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": server.URL, "aud": "weir", "sub": "repo:acme/app", "repository": "acme/app", "exp": time.Now().Add(time.Hour).Unix(),
	})
	claims.Header["kid"] = "one"
	if token, err = claims.SignedString(key); err != nil {
		t.Fatal(err)
	}
	claims.Claims.(jwt.MapClaims)["groups"] = slices.Repeat([]string{"a group of some letters"}, 50)
	if long, err = claims.SignedString(key); err != nil {
		t.Fatal(err)
	}
	return server.URL, token, long
}

// pulled returns a pull of the manifest, which was pulled once.
func (c warmManifest) pulled(t testing.TB) (pull func()) {
	t.Helper()
	up := upstreamtest.New(t, c.upstream...)
	image := up.AddImage("org/app", "v1", []byte("a layer"))
	cfg, _ := loadText(t, c.config+"[repository.\"up.example\"]\n"+c.block+"[[repository.\"up.example\".upstream]]\nurl = \""+up.URL.String()+"\"\n")
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/up.example/org/app/manifests/"+image.Digest.String(), nil)
	c.show(t, m, req)
	w := httptest.NewRecorder()
	m.handler.ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", c.name, w.Code, w.Body)
	}
	sink := discardBody{make(http.Header)}
	return func() {
		clear(sink.header)
		m.handler.ServeHTTP(sink, req)
	}
}

// BenchmarkWarmManifest measures a manifest by digest from the cache, through all
// layers but the network: the routes, the log, the metrics, the store. With credentials
// that were verified before, it takes at most 15 % longer. Pulls from an open mirror
// alternate with the others, and the figures are medians of short rounds: they hold on a
// busy machine too.
func BenchmarkWarmManifest(b *testing.B) {
	const pulls = 20 // of a round, in less time than the system gives to a process at once
	cases := warmManifests(b)
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			open, locked := cases[0].pulled(b), c.pulled(b)
			var times [2][]time.Duration
			for b.Loop() {
				for i, pull := range []func(){open, locked} {
					start := time.Now()
					for range pulls {
						pull()
					}
					times[i] = append(times[i], time.Since(start)/pulls)
				}
			}
			median := func(of []time.Duration) float64 { slices.Sort(of); return float64(of[len(of)/2]) }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(times[0]), "ns/open")
			b.ReportMetric(median(times[1]), "ns/pull")
			b.ReportMetric(median(times[1])/median(times[0]), "times-open")
		})
	}
}

// A known credential costs a warm manifest no memory, or hardly any.
func TestWarmManifestAllocations(t *testing.T) {
	// One processor for the whole test. testing.AllocsPerRun sets it for each run, and the
	// runtime hung in that, with some thousand stops of the world.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var stats runtime.MemStats
	mallocs := func() uint64 {
		runtime.ReadMemStats(&stats)
		return stats.Mallocs
	}
	// The least of many runs: with the race detector, pools lose some of their objects.
	allocations := func(pull func()) float64 {
		pull()
		least := uint64(math.MaxUint64)
		for range 200 {
			before := mallocs()
			pull()
			least = min(least, mallocs()-before)
		}
		return float64(least)
	}
	const most = 11
	open := 0.0
	for _, c := range warmManifests(t) {
		got := allocations(c.pulled(t))
		if c.name == "open" {
			if open = got; open > most {
				t.Errorf("open: %v allocations, want at most %v", open, most)
			}
		}
		if got != open+c.extra {
			t.Errorf("%s: %v allocations more than open, want %v", c.name, got-open, c.extra)
		}
	}
}

// issue returns the token that the token service gives for the credentials of a request.
func issue(t testing.TB, h http.Handler, with *http.Request, query string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/token"+query, nil)
	r.Header = with.Header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var token access.Token
	if err := json.Unmarshal(w.Body.Bytes(), &token); err != nil || token.Token == "" {
		t.Fatal(w.Body, err)
	}
	return token.Token
}

// discardBody is a response writer without a connection.
type discardBody struct{ header http.Header }

func (d discardBody) Header() http.Header         { return d.header }
func (d discardBody) Write(p []byte) (int, error) { return len(p), nil }
func (d discardBody) WriteHeader(int)             {}
