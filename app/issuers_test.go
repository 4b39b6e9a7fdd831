package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
)

// privateIssuer is an issuer with a private authority that asks for a client certificate and a
// token before it tells its keys.
type privateIssuer struct {
	t     *testing.T
	ca    *testutil.Authority
	url   string
	key   *ecdsa.PrivateKey
	token atomic.Value // that it wants
	asked atomic.Int64
}

func startPrivateIssuer(t *testing.T) *privateIssuer {
	t.Helper()
	i := &privateIssuer{t: t, ca: testutil.NewAuthority(t)}
	i.token.Store("the-first")
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(i.ca.Issue("issuer", time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		if r.TLS.VerifiedChains[0][0].Subject.CommonName != "weir" || r.Header.Get("Authorization") != "Bearer "+i.token.Load().(string) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		var answer any = map[string]string{"issuer": i.url, "jwks_uri": i.url + "/keys"}
		switch r.URL.Path {
		case "/keys":
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "one", Use: "sig"}}}
		case "/plain":
			http.Redirect(w, r, "http://127.0.0.1:1/keys", http.StatusFound)
			return
		}
		_ = json.NewEncoder(w).Encode(answer) // a client that has left does not need it
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: i.ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	i.url = "https://localhost:" + address.Port()
	return i
}

// identify shows a token of the issuer to rules of these issuers.
func (i *privateIssuer) identify(of []issuer) error {
	i.t.Helper()
	opts := access.Options{}
	for _, one := range of {
		opts.Issuers = append(opts.Issuers, one.Issuer)
	}
	rules, err := access.New(opts)
	if err != nil {
		i.t.Fatal(err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": i.url, "sub": "job", "exp": time.Now().Add(time.Hour).Unix(), "jti": rand.Text()})
	token.Header["kid"] = "one"
	text, err := token.SignedString(i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	_, err = rules.Identify(i.t.Context(), access.Presented{Authorization: []string{"Bearer " + text}})
	return err
}

// The keys of an issuer are read with its private authority, a client certificate and a token.
func TestIssuerOverTLS(t *testing.T) {
	i := startPrivateIssuer(t)
	certificate, key := i.ca.Issue("weir", time.Now().Add(time.Hour))
	stranger, strangerKey := i.ca.Issue("stranger", time.Now().Add(time.Hour))
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "the-first\n")
	good := config.OIDC{
		Key: "ci", Issuer: i.url, ServerCABundle: i.ca.File(), ClientCertificateBundle: certificate, ClientPrivateKey: key, BearerTokenFile: file,
		AllowedAlgorithms: []string{"ES256"}, JWKSRefreshInterval: time.Hour, HTTPRequestTimeout: time.Minute, JWKSRefreshTimeout: time.Minute,
	}
	for name, c := range map[string]struct {
		change func(*config.OIDC)
		want   bool
	}{
		"all of it":                {func(*config.OIDC) {}, true},
		"a given address":          {func(o *config.OIDC) { o.JWKSURI = i.url + "/keys" }, true},
		"an unknown authority":     {func(o *config.OIDC) { o.ServerCABundle = "" }, false},
		"no client certificate":    {func(o *config.OIDC) { o.ClientCertificateBundle, o.ClientPrivateKey = "", "" }, false},
		"another one's":            {func(o *config.OIDC) { o.ClientCertificateBundle, o.ClientPrivateKey = stranger, strangerKey }, false},
		"no token":                 {func(o *config.OIDC) { o.BearerTokenFile = "" }, false},
		"a redirect without TLS":   {func(o *config.OIDC) { o.JWKSURI = i.url + "/plain" }, false},
		"a file that has vanished": {func(o *config.OIDC) { o.BearerTokenFile = file + ".gone" }, false},
	} {
		of := good
		c.change(&of)
		s := &issuers{logger: discard()}
		all, err := s.next(&config.Config{Auth: config.Auth{OIDC: []config.OIDC{of}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := i.identify(all); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A reload keeps the keys of an issuer that has not changed, and none of one that has. The token
// for the issuer is read each time.
func TestIssuersOutliveReloads(t *testing.T) {
	i := startPrivateIssuer(t)
	certificate, key := i.ca.Issue("weir", time.Now().Add(time.Hour))
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "the-first")
	of := config.OIDC{
		Key: "ci", Issuer: i.url, ServerCABundle: i.ca.File(), ClientCertificateBundle: certificate, ClientPrivateKey: key, BearerTokenFile: file,
		AllowedAlgorithms: []string{"ES256"}, JWKSRefreshInterval: time.Hour, HTTPRequestTimeout: time.Minute, JWKSRefreshTimeout: time.Minute,
	}
	s := &issuers{logger: discard()}
	load := func(step string, want int64) {
		t.Helper()
		before := i.asked.Load()
		all, err := s.next(&config.Config{Auth: config.Auth{OIDC: []config.OIDC{of}}})
		if err != nil {
			t.Fatal(err)
		}
		s.current = all
		if err := i.identify(all); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if asked := i.asked.Load() - before; asked != want {
			t.Errorf("%s: the issuer was asked %d times, want %d", step, asked, want)
		}
	}
	const document, keys = 1, 1
	load("the start", document+keys)
	load("nothing has changed", 0)
	i.token.Store("the-second")
	write(t, file, "the-second")
	load("the token is another one", 0)
	of.RequiredClaims = []string{"sub"}
	load("a setting is another one", document+keys)
	i.ca.Issue("weir", time.Now().Add(2*time.Hour)) // the same files
	load("the certificate is renewed", document+keys)
	load("nothing more", 0)
}

// A redirect takes neither the token nor the client certificate of an issuer to another origin.
func TestIssuerRedirectsElsewhere(t *testing.T) {
	var got []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Path+" "+r.Header.Get("Authorization"))
	}))
	defer other.Close()
	var first *httptest.Server
	first = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			http.Redirect(w, r, other.URL+"/keys", http.StatusFound)
		case "/here":
			http.Redirect(w, r, first.URL+"/keys", http.StatusFound)
		default:
			got = append(got, r.URL.Path+" "+r.Header.Get("Authorization"))
		}
	}))
	defer first.Close()
	ca := testutil.NewAuthority(t)
	certificate, key := ca.Issue("weir", time.Now().Add(time.Hour))
	withPair, err := readTLSFiles(certificate, key, "")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(files tlsFiles, path string) error {
		client, err := issuerClient(files)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, first.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := errors.Join(ask(tlsFiles{}, "/here"), ask(tlsFiles{}, "/elsewhere"), ask(withPair, "/here")); err != nil {
		t.Error(err)
	}
	if err := ask(withPair, "/elsewhere"); err == nil || !strings.Contains(err.Error(), "which must not get the client certificate") {
		t.Error(err)
	}
	if want := []string{"/keys Bearer secret", "/keys ", "/keys Bearer secret"}; !slices.Equal(got, want) {
		t.Errorf("the servers got %q, want %q", got, want)
	}
}
