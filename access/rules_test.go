package access_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/access"
)

// wantRefused checks that credentials are not valid, and that the error shows nothing of
// them.
func wantRefused(t *testing.T, name string, identity *access.Identity, err error, secrets ...string) {
	t.Helper()
	if refused, ok := errors.AsType[*access.CredentialsError](err); !ok || refused.Reason == "" || identity != nil {
		t.Errorf("%s: %v, %v", name, identity, err)
		return
	}
	for _, secret := range secrets {
		if len(secret) > 3 && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows %q: %v", name, secret, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	rules := newRules(t, users(t))
	encode := base64.StdEncoding.EncodeToString
	for name, c := range map[string]struct {
		shown access.Presented
		want  string // name; empty: refused
	}{
		"no credentials":              {access.Presented{}, "anonymous"},
		"a password":                  {basic("alice", "secret"), "alice"},
		"the same once more":          {basic("alice", "secret"), "alice"},
		"the password of bcrypt":      {basic("bob", "secret"), "bob"},
		"the scheme in capitals":      {header("BASIC " + encode([]byte("bob:secret"))), "bob"},
		"blanks after the scheme":     {header("basic   " + encode([]byte("bob:secret")) + " "), "bob"},
		"a wrong password":            {basic("alice", "guess"), ""},
		"the same wrong one":          {basic("alice", "guess"), ""},
		"an empty password":           {basic("alice", ""), ""},
		"the hash as the password":    {basic("alice", secretArgon2), ""},
		"an unknown user":             {basic("mallory", "secret"), ""},
		"a user in capitals":          {basic("Alice", "secret"), ""},
		"a user with a blank":         {basic("alice ", "secret"), ""},
		"no user":                     {basic("", "secret"), ""},
		"neither":                     {basic("", ""), ""},
		"a password with a colon":     {basic("alice", "secret:x"), ""},
		"a NUL after the password":    {basic("alice", "secret\x00"), ""},
		"a NUL in the user":           {basic("alice\x00", "secret"), ""},
		"a line break":                {basic("alice\n", "secret"), ""},
		"no colon":                    {header("Basic " + encode([]byte("alice"))), ""},
		"no base64":                   {header("Basic alice:secret"), ""},
		"base64 that is cut":          {header("Basic " + encode([]byte("alice:secret"))[:15]), ""},
		"base64 of URLs":              {header("Basic " + base64.URLEncoding.EncodeToString([]byte("alice:secret?>?>"))), ""},
		"base64 with a line break":    {header("Basic YWxp\nY2U6c2VjcmV0"), ""},
		"two base64 texts":            {header("Basic " + encode([]byte("alice:secret")) + " " + encode([]byte("bob:secret"))), ""},
		"a scheme alone":              {header("Basic"), ""},
		"an empty header":             {header(""), ""},
		"a blank":                     {header(" "), ""},
		"an unknown scheme":           {header("Negotiate YWxpY2U6c2VjcmV0"), ""},
		"a token, and none is known":  {header("Bearer abc"), ""},
		"a token with a blank":        {header("Bearer a b"), ""},
		"Bearer without a token":      {header("Bearer "), ""},
		"a comma between two":         {header("Basic " + encode([]byte("alice:secret")) + ", Basic x"), ""},
		"two headers":                 {header("Basic "+encode([]byte("alice:secret")), "Basic "+encode([]byte("alice:secret"))), ""},
		"a header of 1 MiB":           {header("Basic " + strings.Repeat("QUFB", 1<<18)), ""},
		"a password of 16 KiB":        {basic("alice", strings.Repeat("x", 16<<10)), ""},
		"no UTF-8":                    {basic("\xff\xfe", "secret"), ""},
		"a password that is no UTF-8": {basic("alice", "\xff\xfe"), ""},
	} {
		identity, err := rules.Identify(t.Context(), c.shown)
		if c.want == "" {
			wantRefused(t, name, identity, err, "guess", "mallory", "secret", "YWxp", secretArgon2)
		} else if err != nil || identity.Name() != c.want || identity.Anonymous != (c.want == "anonymous") {
			t.Errorf("%s: %v, %v", name, identity, err)
		}
	}
}

// A certificate and a password must both be valid, and the identity has both.
func TestCertificates(t *testing.T) {
	spiffe, _ := url.Parse("spiffe://example.com/node")
	leaf := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject:  pkix.Name{CommonName: name, Organization: []string{"Platform"}},
			DNSNames: []string{"node-1.example.com"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
			EmailAddresses: []string{"ops@example.com"}, URIs: []*url.URL{spiffe},
		}
	}
	authority := &x509.Certificate{Subject: pkix.Name{CommonName: "the authority"}}
	opts := users(t)
	opts.Groups = groups(t, map[string][]string{"nodes": {"cert:node-*.example.com"}, "ops": {"alice"}, "all": {"alice", "cert:spiffe://example.com/*"}})
	rules := newRules(t, opts)
	for name, c := range map[string]struct {
		header access.Presented
		cn     string
		want   string
		groups []string
	}{
		"a certificate":                      {access.Presented{}, "node-1", "cert:node-1", []string{"all", "nodes"}},
		"a certificate without a name":       {access.Presented{}, "", "cert:node-1.example.com", []string{"all", "nodes"}},
		"a certificate and a password":       {basic("alice", "secret"), "node-1", "alice", []string{"all", "nodes", "ops"}},
		"a certificate and a wrong password": {basic("alice", "guess"), "node-1", "", nil},
		"a certificate and a broken header":  {header("Basic x"), "node-1", "", nil},
	} {
		c.header.Certificates = []*x509.Certificate{leaf(c.cn), authority}
		identity, err := rules.Identify(t.Context(), c.header)
		if c.want == "" {
			wantRefused(t, name, identity, err)
			continue
		}
		if err != nil || identity.Name() != c.want || identity.Anonymous || identity.Certificate == nil || !slices.Equal(identity.Groups, c.groups) {
			t.Errorf("%s: %+v, %v", name, identity, err)
		}
	}
	identity, _ := rules.Identify(t.Context(), access.Presented{Certificates: []*x509.Certificate{leaf("node-1")}})
	want := []string{"node-1.example.com", "192.0.2.1", "ops@example.com", "spiffe://example.com/node"}
	if got := identity.Certificate; !slices.Equal(got.Names, want) || !slices.Equal(got.Organizations, []string{"Platform"}) {
		t.Errorf("%+v", got)
	}
}

func groups(t *testing.T, members map[string][]string) map[string][]access.Subject {
	t.Helper()
	all := make(map[string][]access.Subject)
	for name, texts := range members {
		for _, text := range texts {
			member, err := access.ParseSubject(text)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = append(all[name], member)
		}
	}
	return all
}

func TestGroups(t *testing.T) {
	opts := users(t)
	opts.Groups = groups(t, map[string][]string{
		"ci": {"alice", "bob", "alice"}, "office": {"cidr:192.0.2.0/24", "cidr:2001:db8::1"}, "guests": {"anonymous"}, "people": {"authenticated"},
	})
	rules := newRules(t, opts)
	for name, c := range map[string]struct {
		shown   access.Presented
		address string
		want    []string
	}{
		"a user":                      {basic("alice", "secret"), "203.0.113.1", []string{"ci", "people"}},
		"a user at the office":        {basic("bob", "secret"), "192.0.2.7", []string{"ci", "office", "people"}},
		"the office":                  {access.Presented{}, "192.0.2.7", []string{"guests", "office"}},
		"the office, IPv4 in IPv6":    {access.Presented{}, "::ffff:192.0.2.7", []string{"guests", "office"}},
		"an address of IPv6":          {access.Presented{}, "2001:db8::1", []string{"guests", "office"}},
		"another address of IPv6":     {access.Presented{}, "2001:db8::2", []string{"guests"}},
		"a client without an address": {access.Presented{}, "", []string{"guests"}},
	} {
		c.shown = from(c.address, c.shown)
		identity, err := rules.Identify(t.Context(), c.shown)
		if err != nil || !slices.Equal(identity.Groups, c.want) {
			t.Errorf("%s: %v, %v", name, identity, err)
		}
	}
}

func TestPermit(t *testing.T) {
	for name, c := range map[string]struct {
		anonymous bool
		shown     access.Presented
		want      bool
	}{
		"a user":                                 {false, basic("alice", "secret"), true},
		"no credentials":                         {false, access.Presented{}, false},
		"a user, where none is needed":           {true, basic("alice", "secret"), true},
		"no credentials, and they are let in":    {true, access.Presented{}, true},
		"a certificate alone":                    {false, access.Presented{Certificates: []*x509.Certificate{{}}}, true},
		"a certificate of nothing, and no rules": {true, access.Presented{Certificates: []*x509.Certificate{{}}}, true},
	} {
		opts := users(t)
		opts.Anonymous, opts.Blocks = c.anonymous, []access.Block{{Key: "ghcr.io"}}
		rules := newRules(t, opts)
		identity, err := rules.Identify(t.Context(), c.shown)
		if err != nil {
			t.Fatal(name, err)
		}
		err = rules.Permit(t.Context(), identity, access.Question{Action: access.GetManifest, Block: "ghcr.io"}, access.Presented{})
		denied, ok := errors.AsType[*access.DeniedError](err)
		if (err == nil) != c.want || ok && (!denied.Anonymous || denied.Layer != access.LayerIdentity || denied.Block != "ghcr.io") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A mirror without rules is open, and one with any is not.
func TestOpen(t *testing.T) {
	for name, c := range map[string]struct {
		opts access.Options
		want bool
	}{
		"nothing":             {access.Options{Anonymous: true}, true},
		"nobody":              {access.Options{}, false},
		"users":               {users(t), false},
		"users and strangers": {access.Options{Anonymous: true, Accounts: users(t).Accounts}, false},
	} {
		if got := newRules(t, c.opts).Open(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, err := access.New(access.Options{Accounts: []access.Account{account(t, "a", secretBcrypt), account(t, "a", secretArgon2)}}); err == nil {
		t.Error("two accounts have one user")
	}
}

func TestChallenge(t *testing.T) {
	opts := users(t)
	opts.Realm = `The "mirror" \o/`
	withTokens := func(realm string) access.Options {
		return access.Options{Tokens: access.TokenOptions{Key: make([]byte, 32), Realm: realm, TTL: time.Hour}}
	}
	for want, opts := range map[string]access.Options{
		`Basic realm="The \"mirror\" \\o/"`: opts,
		// No password can be valid, so that none is asked for.
		`Certificate realm="Weir"`: {Realm: "Weir"},
		// The host is the client's own word, and ends no quotes.
		`Bearer realm="https://mirror\".example/token",service="weir",scope="repository:app:pull"`:  withTokens(""),
		`Bearer realm="https://token.example.com/token",service="weir",scope="repository:app:pull"`: withTokens("https://token.example.com/token"),
	} {
		if got := newRules(t, opts).Challenge(access.Presented{Request: &http.Request{TLS: &tls.ConnectionState{}, Host: `mirror".example`}}, "repository:app:pull"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// The metrics count identifications and refusals, for blocks of the configuration only.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	opts := users(t)
	opts.Metrics, opts.Blocks = access.NewMetrics(registry), []access.Block{{Key: "ghcr.io"}, {Key: "quay.io"}}
	var current access.Current
	rules := newRules(t, opts)
	current.Store(rules)
	for _, shown := range []access.Presented{{}, basic("alice", "secret"), basic("alice", "secret"), basic("alice", "guess"), header("x"), {Certificates: []*x509.Certificate{{}}}} {
		identity, err := rules.Identify(t.Context(), shown)
		if err == nil {
			_ = rules.Permit(t.Context(), identity, access.Question{Block: "ghcr.io"}, access.Presented{})
			_ = rules.Permit(t.Context(), identity, access.Question{Block: "no such block"}, access.Presented{})
		}
	}
	denied := slices.DeleteFunc(series(t, registry), func(s string) bool {
		return !strings.HasPrefix(s, "weir_access_denied_total") || strings.HasSuffix(s, " 0")
	})
	if want := []string{"weir_access_denied_total ghcr.io identity 1"}; !slices.Equal(denied, want) {
		t.Errorf("%q", denied)
	}
	want := []string{
		"weir_auth_total certificate success 1", "weir_auth_total none success 1", "weir_auth_total oidc failure 0", "weir_auth_total oidc success 0",
		"weir_auth_total password busy 0", "weir_auth_total password failure 1", "weir_auth_total password success 2",
		"weir_auth_total token failure 0", "weir_auth_total token success 0", "weir_auth_total unknown failure 1",
	}
	if got := slices.DeleteFunc(series(t, registry), func(s string) bool { return !strings.HasPrefix(s, "weir_auth") }); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	opts.Blocks = opts.Blocks[1:]
	current.Store(newRules(t, opts))
	if got := series(t, registry); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "ghcr.io") }) {
		t.Errorf("a block that is gone is still counted: %q", got)
	}
}

func series(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, family := range families {
		for _, metric := range family.Metric {
			text := family.GetName()
			for _, label := range metric.Label {
				text += " " + label.GetValue()
			}
			all = append(all, fmt.Sprintf("%s %v", text, metric.Counter.GetValue()))
		}
	}
	return all
}

// An account ends at its moment, also if its password was right before.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := users(t)
		opts.Accounts[0].Expires = time.Now().Add(30 * time.Second)
		rules := newRules(t, opts)
		if _, err := rules.Identify(t.Context(), basic("alice", "secret")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30*time.Second - time.Nanosecond)
		if _, err := rules.Identify(t.Context(), basic("alice", "secret")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Nanosecond)
		identity, err := rules.Identify(t.Context(), basic("alice", "secret"))
		wantRefused(t, "expired", identity, err)
		if _, err := rules.Identify(t.Context(), basic("bob", "secret")); err != nil {
			t.Fatal(err)
		}
	})
}

// A flood of logins does not stop clients whose password is known.
func TestFloodOfLogins(t *testing.T) {
	opts := users(t)
	slow := "$argon2id$v=19$m=16384,t=2,p=1$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI"
	opts.Accounts = append(opts.Accounts, account(t, "slow", slow))
	rules := newRules(t, opts)
	if _, err := rules.Identify(t.Context(), basic("alice", "secret")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for i := range 100 {
		flood.Go(func() {
			shown := from("192.0.2.1", basic("slow", fmt.Sprint(i)))
			if _, err := rules.Identify(ctx, shown); err == nil {
				t.Error("a guess is right")
			}
		})
	}
	start := time.Now()
	for range 1000 {
		if _, err := rules.Identify(t.Context(), basic("alice", "secret")); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a known password waits for others: %s", took)
	}
	cancel()
	flood.Wait()
}

// An unknown user costs what a known one does.
func TestUnknownUserCostsTheSame(t *testing.T) {
	const cost = "$argon2id$v=19$m=2048,t=2,p=1$c2FsdHNhbHQ$TnDEl2tJgYtaYZt0/5f59Jf56vkIG4EtQACv6SLO2cI"
	rules := newRules(t, access.Options{Accounts: []access.Account{account(t, "alice", cost), account(t, "bob", cost)}})
	least := map[string]time.Duration{"alice": time.Hour, "mallory": time.Hour}
	// In turns, since the machine may be busy with something else for a while.
	for i := range 20 {
		for user := range least {
			start := time.Now()
			identity, err := rules.Identify(t.Context(), basic(user, fmt.Sprint("guess", i)))
			wantRefused(t, user, identity, err)
			least[user] = min(least[user], time.Since(start))
		}
	}
	// Without a hash to compare with, an unknown user would be a hundred times faster.
	if known, unknown := least["alice"], least["mallory"]; unknown < known/4 || known < unknown/4 {
		t.Errorf("a known user takes %s, an unknown one %s", known, unknown)
	}
}

func BenchmarkIdentifyAndPermit(b *testing.B) {
	opts := users(b)
	opts.Metrics, opts.Blocks = access.NewMetrics(prometheus.NewRegistry()), []access.Block{{Key: "ghcr.io"}}
	rules := newRules(b, opts)
	shown := basic("alice", "secret")
	for b.Loop() {
		identity, err := rules.Identify(b.Context(), shown)
		if err == nil {
			err = rules.Permit(b.Context(), identity, access.Question{Action: access.GetManifest, Block: "ghcr.io"}, access.Presented{})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// A Basic header without a user and a password is none, as podman and skopeo send it without a
// login. All others stay as they are.
func TestHeaderOf(t *testing.T) {
	for value, none := range map[string]bool{
		"Basic Og==": true, "basic Og==": true, "BASIC  Og== ": true,
		"": false, "Basic": false, "Basic ": false, "Basic Og": false, "Basic og==": false, "Bearer Og==": false, "Basic Og==, Basic x": false,
		"Basic OmE=": false, "Basic YTo=": false, "Basic YWxpY2U6c2VjcmV0": false,
	} {
		r := &http.Request{Header: http.Header{"Authorization": {value}}}
		if got := access.HeaderOf(r); (got == nil) != none || !none && (len(got) != 1 || got[0] != value) {
			t.Errorf("%q: %q", value, got)
		}
		if got := access.Present(r, nil).Authorization; (got == nil) != none {
			t.Errorf("%q presents %q", value, got)
		}
	}
	r := &http.Request{Header: http.Header{"Authorization": {"Basic Og==", "Basic Og=="}}}
	if got := access.HeaderOf(r); len(got) != 2 {
		t.Errorf("two headers: %q", got)
	}
}

// A header is refused or names a user that has the password in it, whatever it holds. Where an
// upstream decides, it gets no header that names a user of the mirror's.
func FuzzAuthorization(f *testing.F) {
	rules, grants := newRules(f, users(f)), newGrants(f, strings.Repeat("a", 32))
	for _, seed := range []string{
		"", "Basic", "Basic YWxpY2U6c2VjcmV0", "basic  Ym9iOnNlY3JldA== ", "Basic YWxpY2U6Z3Vlc3M=", "Basic Og==", "Basic YWxpY2UAOnNlY3JldA==",
		"Basic YWxpY2U6ZXlKLmIuYy5kLmU=", "Basic bWFsbG9yeTpzZWNyZXQ=", "Bearer", "Bearer a.b.c", "Bearer eyJhbGciOiJub25lIn0.e30.", "Digest username=\"alice\"", "Basic\x00YQ==", ",", "Basic =", "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		beside, err := rules.IdentifyBeside(t.Context(), header(value), grants)
		shown, readable := access.ParseAuthorization([]string{value})
		if user := shown.Basic.User; err != nil || readable == nil && (user == "alice" || user == "bob") && !access.IsGrant(shown.Basic.Password) && slices.Contains(beside.Upstreams, value) {
			t.Fatalf("%q is %+v, %v", value, beside, err)
		}
		identity, err := rules.Identify(t.Context(), header(value))
		if err != nil {
			if _, ok := errors.AsType[*access.CredentialsError](err); !ok || identity != nil {
				t.Fatalf("%v, %v", identity, err)
			}
			return
		}
		scheme, rest, _ := strings.Cut(value, " ")
		text, _ := base64.StdEncoding.DecodeString(strings.Trim(rest, " "))
		if !strings.EqualFold(scheme, "basic") || string(text) != identity.User+":secret" || identity.Anonymous {
			t.Fatalf("%q is %+v", value, identity)
		}
	})
}

// A known credential has the same identity as long as it comes from the same address without
// a certificate. Groups by address, and certificates, are those of each request.
func TestIdentityIsThatOfTheRequest(t *testing.T) {
	opts, _ := withIssuer(t)
	opts.Tokens = access.TokenOptions{Key: tokenKey, TTL: time.Hour}
	opts.Anonymous = true
	opts.Groups = groups(t, map[string][]string{"office": {"cidr:192.0.2.0/24"}, "nodes": {"cert:node-1"}, "people": {"alice"}})
	rules := newRules(t, opts)
	foreign := sign(t, jwt.SigningMethodRS256, testKeys().rsa, "one", content())
	for name, c := range map[string]struct {
		shown  access.Presented
		groups string // by itself, such as "people "
	}{
		"password": {basic("alice", "secret"), "people "}, "token": {bearerOf(t, rules, basic("alice", "secret")), "people "},
		"OIDC": {header("Bearer " + foreign), ""}, "OIDC as a password": {basic("x", foreign), ""},
		"nothing": {access.Presented{}, ""}, "a token for nothing": {bearerOf(t, rules, access.Presented{}), ""},
	} {
		ask := func(address string, certificate bool) *access.Identity {
			t.Helper()
			shown := from(address, c.shown)
			if certificate {
				shown.Certificates = []*x509.Certificate{{Subject: pkix.Name{CommonName: "node-1"}}}
			}
			identity, err := rules.Identify(t.Context(), shown)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			want := c.groups
			if address == "192.0.2.7" {
				want = "office " + want
			}
			if certificate {
				want = "nodes " + want
			}
			if got := strings.Join(identity.Groups, " "); got != strings.TrimSpace(want) || identity.Address.String() != address || (identity.Certificate != nil) != certificate {
				t.Errorf("%s from %s, certificate %v: %+v, want the groups %s", name, address, certificate, identity, want)
			}
			return identity
		}
		for range 2 {
			ask("192.0.2.7", false)
			ask("192.0.2.7", true)
			ask("198.51.100.7", true)
			ask("198.51.100.7", false)
		}
		first, second := ask("192.0.2.7", false), ask("192.0.2.7", false)
		if first != second && !strings.Contains(name, "nothing") {
			t.Errorf("%s: two identities", name)
		}
	}
}
