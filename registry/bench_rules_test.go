package registry_test

import (
	"testing"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// BenchmarkWarmManifestUnderRules compares pulls of a cached manifest by digest without and with
// rules.
func BenchmarkWarmManifestUnderRules(b *testing.B) {
	r := upstreamtest.New(b)
	dgst := r.AddImage("app", "v1", []byte("a layer")).Digest.String()
	m := newMirror(b, block(b, r))
	path := "/v2/up.example/app/manifests/" + dgst
	m.do("GET", path)
	m.settle()
	hash, err := access.ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		b.Fatal(err)
	}
	users := access.Options{Realm: "Weir", Accounts: []access.Account{{User: "alice", Hash: hash}}}
	policy := users
	policy.Policy = &access.Policy{Rules: []string{`identity.username == 'admin'`, `identity.certificate.organizations.contains('Platform')`, `identity.username == 'alice' && request.action.startsWith('get-')`}}
	reading := policy
	reading.Policy = &access.Policy{Rules: append([]string{`has(request.reference) && request.reference == 'latest'`}, policy.Policy.Rules...)}
	for _, c := range []struct {
		name string
		opts access.Options
	}{{"open", access.Options{Anonymous: true}}, {"users", users}, {"policy", policy}, {"policy that reads the reference", reading}} {
		b.Run(c.name, func(b *testing.B) {
			m.rules(c.opts)
			for b.Loop() {
				if w := m.do("GET", path, "Authorization", basic("alice", "secret")); w.Code != 200 {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
