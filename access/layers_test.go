package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
)

func subjects(t *testing.T, texts ...string) []Subject {
	t.Helper()
	var all []Subject
	for _, text := range texts {
		subject, err := ParseSubject(text)
		if err != nil {
			t.Fatalf("%q %v", text, err)
		}
		all = append(all, subject)
	}
	return all
}

// layerOf returns the layer that refuses a question, or "".
func layerOf(t *testing.T, opts Options, i *Identity, q Question) Layer {
	t.Helper()
	r, err := newLayers(opts, taggerOf(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	refused, err := r.judge(t.Context(), i, q, Presented{})
	if err != nil {
		t.Fatal(err)
	}
	if refused == nil {
		return ""
	}
	return refused.layer
}

func TestLayers(t *testing.T) {
	block := func(b Block) Options {
		b.Key = "ghcr.io/acme"
		return Options{Anonymous: true, Blocks: []Block{b}}
	}
	with := func(change func(*Options), opts Options) Options {
		change(&opts)
		return opts
	}
	locked := func(opts *Options) { opts.Anonymous = false }
	allow := func(texts ...string) Options { return block(Block{Allow: subjects(t, texts...)}) }
	deny := func(rules ...string) *Policy { return &Policy{Rules: rules} }
	permit := func(rules ...string) *Policy { return &Policy{DefaultAllow: true, Rules: rules} }
	mirror := &Options{Anonymous: true, Blocks: []Block{{Key: "ghcr.io/acme"}, {Key: "docker.io"}}}

	pull := Question{Action: GetManifest, Block: "ghcr.io/acme", Name: "app", Namespace: "ghcr.io/acme/app", Reference: "v1"}
	hidden := Question{Action: GetBlob, Block: "ghcr.io/acme", Name: "internal/app", Namespace: "ghcr.io/acme/internal/app"}
	ping := Question{Action: GetVersion}
	scrape := Question{Action: ReadMetrics}
	inside := &Identity{Anonymous: true, Address: netip.MustParseAddr("10.1.2.3")}
	ci := &Identity{User: "bob", Groups: []string{"ci", "dev"}, Address: stranger.Address}
	for n, test := range []struct {
		name string
		opts Options
		id   *Identity
		q    Question
		want Layer
	}{
		{"nothing is locked", *mirror, stranger, pull, ""},
		{"nothing is locked", *mirror, stranger, ping, ""},
		{"a block that is gone", *mirror, alice, Question{Action: GetManifest, Block: "gone", Name: "app"}, LayerImages},

		{"a hidden name", block(Block{Images: []string{"!internal/**"}}), alice, hidden, LayerImages},
		{"a hidden name", with(locked, block(Block{Images: []string{"!internal/**"}})), stranger, hidden, LayerImages},
		{"another name", block(Block{Images: []string{"!internal/**"}}), alice, pull, ""},

		{"no credentials", with(locked, *mirror), stranger, pull, LayerIdentity},
		{"no credentials", with(locked, *mirror), stranger, ping, LayerIdentity},
		{"no credentials", with(locked, *mirror), stranger, scrape, LayerIdentity},
		{"credentials", with(locked, *mirror), alice, pull, ""},
		{"credentials", with(locked, *mirror), alice, ping, ""},

		{"a user", allow("alice"), alice, pull, ""},
		{"another user", allow("bob"), alice, pull, LayerAllow},
		{"a part of a user", allow("ali"), alice, pull, LayerAllow},
		{"no user", allow("alice"), stranger, pull, LayerIdentity},
		{"a group", allow("bob", "@dev"), ci, pull, ""},
		{"another group", allow("@ops"), ci, pull, LayerAllow},
		{"a certificate", allow("cert:node-*.example.com"), node, pull, ""},
		{"an alternative name", allow("cert:10.0.0.?"), node, pull, ""},
		{"another certificate", allow("cert:node-*.example.org"), node, pull, LayerAllow},
		{"an issuer", allow("oidc:github-actions"), robot, pull, ""},
		{"another issuer", allow("oidc:github"), robot, pull, LayerAllow},
		{"a network", allow("cidr:10.0.0.0/8"), alice, pull, ""},
		{"a network, no credentials", allow("cidr:10.0.0.0/8"), inside, pull, ""},
		{"a network opens what is locked", with(locked, allow("cidr:10.0.0.0/8")), inside, pull, ""},
		{"a network opens the root if it opens everything", with(locked, allow("cidr:10.0.0.0/8")), inside, ping, ""},
		{"a network gets tokens", with(locked, allow("cidr:10.0.0.0/8")), inside, Question{Action: GetToken}, ""},
		{"another network gets none", with(locked, allow("cidr:10.0.0.0/8")), stranger, Question{Action: GetToken}, LayerIdentity},
		{"another network", with(locked, allow("cidr:10.0.0.0/8")), stranger, pull, LayerIdentity},
		{"another network", allow("cidr:10.0.0.0/8"), ci, pull, LayerAllow},
		{"anonymous", allow("anonymous"), stranger, pull, ""},
		{"anonymous and a user", allow("anonymous"), alice, pull, LayerAllow},
		{"anonymous where credentials are needed", with(locked, allow("anonymous")), stranger, pull, LayerIdentity},
		{"authenticated", allow("authenticated"), stranger, pull, LayerIdentity},
		{"authenticated", allow("authenticated"), robot, pull, ""},
		{"a list asks for credentials at the root", allow("alice", "anonymous"), stranger, ping, ""},
		{"a list asks for credentials at the root", allow("alice"), stranger, ping, LayerIdentity},
		{"a list is none of other requests", allow("alice"), stranger, scrape, ""},

		{"a policy", Options{Anonymous: true, Policy: deny(`identity.username == 'alice'`)}, alice, scrape, ""},
		{"a policy", Options{Anonymous: true, Policy: deny(`identity.username == 'alice'`)}, ci, scrape, LayerPolicy},
		{"a policy of a block", block(Block{Policy: deny(`identity.username == 'alice'`)}), alice, pull, ""},
		{"a policy of a block", block(Block{Policy: deny(`identity.username == 'alice'`)}), ci, pull, LayerBlockPolicy},
		{"a policy of a block is none of other requests", block(Block{Policy: deny()}), ci, scrape, ""},
		{"a policy of a block asks for credentials", block(Block{Policy: deny(`true`)}), stranger, ping, LayerIdentity},
		{"both", with(func(o *Options) { o.Policy = deny(`true`) }, block(Block{Policy: deny(`false`)})), alice, pull, LayerBlockPolicy},
		{"both", with(func(o *Options) { o.Policy = permit(`true`) }, block(Block{Policy: deny(`true`)})), alice, pull, LayerPolicy},
		{"a failure, default deny", block(Block{Policy: deny(`identity.oidc.claims['x'] == 'y'`, `true`)}), alice, pull, LayerBlockPolicy},
		{"a failure, default allow", block(Block{Policy: permit(`identity.oidc.claims['x'] == 'y'`)}), alice, pull, LayerBlockPolicy},
		{"an earlier rule matches", block(Block{Policy: deny(`true`, `identity.oidc.claims['x'] == 'y'`)}), alice, pull, ""},
		{"no boolean", block(Block{Policy: permit(`identity.username`)}), alice, pull, LayerBlockPolicy},
		{"no rules", block(Block{Policy: permit()}), stranger, ping, ""},
		{"no rules", block(Block{Policy: deny()}), alice, pull, LayerBlockPolicy},

		{"a policy lets in without credentials", Options{Anonymous: true, Policy: deny(`request.action in ['get-manifest', 'get-blob']`), Blocks: mirror.Blocks}, stranger, pull, ""},
		{"a policy lets in without credentials", Options{Anonymous: true, Policy: deny(`request.action in ['get-manifest', 'get-blob']`), Blocks: mirror.Blocks}, stranger, ping, LayerPolicy},
		{"a list decides before a policy", block(Block{Allow: subjects(t, "alice"), Policy: deny(`true`)}), stranger, pull, LayerIdentity},
		{"credentials are demanded in spite of a policy", with(locked, Options{Policy: deny(`true`), Blocks: mirror.Blocks}), stranger, pull, LayerIdentity},
	} {
		t.Run(strconv.Itoa(n)+" "+test.name, func(t *testing.T) {
			if got := layerOf(t, test.opts, test.id, test.q); got != test.want {
				t.Errorf("%s, %s: refused by %q, want %q", test.id.Name(), test.q.Action, got, test.want)
			}
		})
	}
}

// What a policy allowed is not decided again, unless a rule reads the content of the
// request or the address of the client.
func TestVerdictsAreOfOneRequest(t *testing.T) {
	for rule, want := range map[string]notes{
		`identity.username == 'alice'`:                                        {},
		`request.action == 'get-blob' && request.namespace == 'x'`:            {},
		`identity.certificate.organizations.contains('a')`:                    {},
		`identity.oidc != null && identity.oidc.claims['a'] == 'b'`:           {},
		`request.reference == 'latest'`:                                       {readsContent: true},
		`has(request.digest) || request.action == 'x'`:                        {readsContent: true},
		`request['reference'] == 'latest'`:                                    {readsContent: true},
		`has(request.n) && request.n > 100`:                                   {readsContent: true},
		`"reference" in request`:                                              {readsContent: true},
		`[request].exists(r, r.reference == 'a')`:                             {readsContent: true},
		`size(request) == 3`:                                                  {readsContent: true},
		`identity.client_ip == '10.0.0.1'`:                                    {readsAddress: true},
		`identity['client_ip'] == '10.0.0.1'`:                                 {readsAddress: true},
		`[identity].all(i, i.client_ip == 'x') && has(request.artifact_type)`: {readsContent: true, readsAddress: true},
		`identity.username == 'a' || identity == request`:                     {readsContent: true, readsAddress: true},
	} {
		compiled, err := newPolicy(&Policy{Rules: []string{rule}})
		if err != nil {
			t.Errorf("%s: %v", rule, err)
		} else if compiled.notes != want {
			t.Errorf("%s: noted %+v, want %+v", rule, compiled.notes, want)
		}
	}
}

// Each difference that a rule can read makes another verdict.
func TestVerdictsDifferByWhatRulesRead(t *testing.T) {
	hash, err := ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := New(Options{
		Accounts: []Account{{User: "alice", Hash: hash}, {User: "bob", ID: "alice", Hash: hash}},
		Groups:   map[string][]Subject{"office": subjects(t, "cidr:10.0.0.0/8")}, // so that the address counts
	})
	if err != nil {
		t.Fatal(err)
	}
	nobody, alice, bob := rules.memory.nobody, credentials{account: rules.accounts.byUser["alice"]}, credentials{account: rules.accounts.byUser["bob"]}
	shows := func(header string, found credentials, address string, certificate ...*x509.Certificate) *Identity {
		if header != "" {
			found = rules.memory.remember(rules.memory.tags.of(header), proven{credentials: found})
		}
		return rules.identityOf(found, Presented{Certificates: certificate, Request: &http.Request{RemoteAddr: address}})
	}
	certified := func(common string, organizations ...string) *Identity {
		return shows("", nobody, "", &x509.Certificate{Subject: pkix.Name{CommonName: common, Organization: organizations}})
	}
	node := &x509.Certificate{DNSNames: []string{"node"}}
	q := Question{Action: GetManifest, Block: "b", Name: "app", Namespace: "b/app"}
	seen := map[verdictKey]string{}
	note := func(name string, i *Identity, q Question) {
		t.Helper()
		key := newVerdictKey(i, &q)
		if before, ok := seen[key]; ok {
			t.Errorf("%s has the verdict of %s", name, before)
		}
		seen[key] = name
	}
	// Twice, since an identity is remembered with its credentials.
	for range 2 {
		clear(seen)
		note("anonymous", shows("", nobody, ""), q)
		note("an address", shows("", nobody, "10.0.0.1"), q)
		note("a user", shows("Basic alice", alice, ""), q)
		note("a user with an address", shows("Basic alice", alice, "10.0.0.1"), q)
		note("a user with a certificate", shows("Basic alice", alice, "", node), q)
		note("another user", shows("Basic bob", bob, ""), q)
		note("another user with a certificate", shows("Basic bob", bob, "", node), q)
		note("a certificate with an alternative name", shows("", nobody, "", node), q)
		note("a certificate with an address", shows("", nobody, "10.0.0.1", node), q)
		note("a certificate", certified("alice"), q)
		note("an organization", certified("", "alice"), q)
		note("two organizations", certified("", "a", "b"), q)
		note("one organization of both names", certified("", "ab"), q)
		note("one organization with a NUL", certified("", "a\x00b"), q)
		note("one organization like the text of two", certified("", "a\x01b"), q)
		note("an organization and an empty one", certified("", "", "ab"), q)
		note("an empty organization", certified("", "a", "b", ""), q)
		note("a token", shows("Bearer a", credentials{oidc: robot.OIDC}, ""), q)
		note("a token with a certificate", shows("Bearer a", credentials{oidc: robot.OIDC}, "", node), q)
		note("another token", shows("Bearer b", credentials{oidc: robot.OIDC}, ""), q)
		user := shows("Basic alice", alice, "")
		note("another action", user, Question{Action: GetBlob, Block: "b", Name: "app", Namespace: "b/app"})
		note("another repository", user, Question{Action: GetManifest, Block: "b", Name: "app2", Namespace: "b/app2"})
		note("another block", user, Question{Action: GetManifest, Block: "b/app", Namespace: "b/app"})
		note("an upstream that identifies the client", user, Question{Action: GetManifest, Block: "b", Name: "app", Namespace: "b/app", ByUpstream: true})
	}
	// The verdicts on a user hold for all credentials of it.
	if one, other := shows("Basic alice", alice, ""), shows("Bearer of alice", alice, ""); newVerdictKey(one, &q) != newVerdictKey(other, &q) {
		t.Error("a token of a user has other verdicts than the password")
	}
}

// No verdict is remembered about an identity that comes from elsewhere.
func TestVerdictsAreOfIdentifiedClients(t *testing.T) {
	r, err := newLayers(Options{Anonymous: true, Blocks: []Block{{Key: "b", Allow: subjects(t, "alice")}}}, taggerOf(t))
	if err != nil {
		t.Fatal(err)
	}
	pull := Question{Action: GetManifest, Block: "b", Name: "app", Namespace: "b/app"}
	for _, c := range []struct {
		id   *Identity
		want bool
	}{{alice, true}, {&Identity{User: "bob"}, false}, {stranger, false}} {
		if refused, err := r.judge(t.Context(), c.id, pull, Presented{}); err != nil || (refused == nil) != c.want {
			t.Errorf("%s: %v, %v", c.id.Name(), refused, err)
		}
	}
}

// The memory for verdicts is bounded, whatever names clients invent.
func TestVerdictsAreBounded(t *testing.T) {
	v := newVerdicts()
	long := make([]byte, 255)
	for n := range 2 * maxVerdicts {
		v.allow(verdictKey{namespace: strconv.Itoa(n), name: string(long)})
	}
	g := v.current.Load()
	if g.number.Load() > maxVerdicts || g.bytes.Load() > maxVerdictBytes {
		t.Errorf("%d verdicts in %d bytes", g.number.Load(), g.bytes.Load())
	}
	if last := (verdictKey{namespace: strconv.Itoa(2*maxVerdicts - 1), name: string(long)}); !v.allowed(last) {
		t.Error("the last verdict is forgotten")
	}
}

// A verdict holds for the content that it was given for.
func TestRulesThatReadContentAreAsked(t *testing.T) {
	r, err := newLayers(Options{Anonymous: true, Blocks: []Block{{Key: "b", Policy: &Policy{Rules: []string{`request.reference == 'v1'`}}}}}, taggerOf(t))
	if err != nil {
		t.Fatal(err)
	}
	for reference, want := range map[string]bool{"v1": true, "v2": false, "": false} {
		for range 2 {
			refused, _ := r.judge(t.Context(), alice, Question{Action: GetManifest, Block: "b", Name: "app", Namespace: "b/app", Reference: reference}, Presented{})
			if (refused == nil) != want {
				t.Errorf("%q: refused %v", reference, refused)
			}
		}
	}
}

// An allowed question is allowed again without an evaluation, for the same identity, repository and
// action, until other rules are in force.
func TestDecisionsAreRemembered(t *testing.T) {
	hash, err := ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		t.Fatal(err)
	}
	rules := func(rule string) *Rules {
		r, err := New(Options{
			Accounts: []Account{{User: "alice", Hash: hash}, {User: "bob", Hash: hash}},
			Blocks:   []Block{{Key: "b", Policy: &Policy{Rules: []string{rule}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	asked := func(r *Rules, user string, q Question) bool {
		t.Helper()
		header := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":secret"))
		p := Presented{Authorization: []string{header}}
		identity, err := r.Identify(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return r.Permit(t.Context(), identity, q, p) != nil // the policy in force allows nothing
	}
	pull := Question{Action: GetManifest, Block: "b", Name: "app", Namespace: "b/app", Reference: "v1"}
	other := func(change func(*Question)) Question {
		q := pull
		change(&q)
		return q
	}
	never, err := newPolicy(&Policy{Rules: []string{"false"}})
	if err != nil {
		t.Fatal(err)
	}
	for rule, reads := range map[string]bool{`identity.username != ''`: false, `request.reference == 'v1'`: true} {
		r := rules(rule)
		if asked(r, "alice", pull) {
			t.Fatalf("%s refuses", rule)
		}
		r.layers.blocks["b"].policy = never
		for name, c := range map[string]struct {
			user string
			q    Question
			want bool
		}{
			"the same":           {"alice", pull, reads},
			"another tag":        {"alice", other(func(q *Question) { q.Reference = "v2" }), reads},
			"another identity":   {"bob", pull, true},
			"another repository": {"alice", other(func(q *Question) { q.Name, q.Namespace = "web", "b/web" }), true},
			"another action":     {"alice", other(func(q *Question) { q.Action = GetBlob }), true},
		} {
			if got := asked(r, c.user, c.q); got != c.want {
				t.Errorf("%s, %s: the policy is asked: %t", rule, name, got)
			}
		}
	}
	if !asked(rules("false"), "alice", pull) {
		t.Error("a decision outlives its rules")
	}
}
