package access

import (
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

// However often a password is spelt in another way, its hash is asked again after a minute.
func TestKnownPasswordEndsWithItsVerdict(t *testing.T) {
	hash, err := ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		rules, err := New(Options{Accounts: []Account{{User: "alice", Hash: hash}}})
		if err != nil {
			t.Fatal(err)
		}
		ends := time.Now().Add(verdictTTL)
		for _, header := range []string{"Basic YWxpY2U6c2VjcmV0", "basic YWxpY2U6c2VjcmV0", "Basic  YWxpY2U6c2VjcmV0"} {
			if _, err := rules.Identify(t.Context(), Presented{Authorization: []string{header}}); err != nil {
				t.Fatal(err)
			}
			if known, ok := rules.memory.known.Get(rules.memory.tags.of(header)); !ok || !known.until.Equal(ends) {
				t.Errorf("%q is known until %s, want %s", header, known.until, ends)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// A wrong header is not remembered, and neither is a request without one.
func TestWrongHeadersAreNotKnown(t *testing.T) {
	hash, err := ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := New(Options{Accounts: []Account{{User: "alice", Hash: hash}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"", "Basic x", "Basic YWxpY2U6Z3Vlc3M=", "Bearer abc"} {
		if _, err := rules.Identify(t.Context(), Presented{Authorization: []string{header}}); err == nil {
			t.Errorf("%q is right", header)
		}
		if _, ok := rules.memory.known.Get(rules.memory.tags.of(header)); ok {
			t.Errorf("%q is known", header)
		}
	}
}

// Identities have the address of their client if any rule could tell the difference.
func TestAddressIsReadIfARuleReadsIt(t *testing.T) {
	hook := []Webhook{{Name: "opa", URL: &url.URL{Scheme: "http", Host: "opa"}, Timeout: time.Second}}
	opa, none := "opa", ""
	for name, c := range map[string]struct {
		opts Options
		want bool
	}{
		"no rules":                        {Options{}, false},
		"users":                           {Options{Blocks: []Block{{Key: "b", Allow: subjects(t, "alice", "@ci", "cert:*", "anonymous")}}}, false},
		"a list with a network":           {Options{Blocks: []Block{{Key: "a"}, {Key: "b", Allow: subjects(t, "alice", "cidr:10.0.0.0/8")}}}, true},
		"a group of users":                {Options{Groups: map[string][]Subject{"ci": subjects(t, "alice")}}, false},
		"a group with a network":          {Options{Groups: map[string][]Subject{"ci": subjects(t, "alice", "cidr:10.0.0.0/8")}}, true},
		"a policy":                        {Options{Policy: &Policy{Rules: []string{`identity.username == 'alice'`}}}, false},
		"a policy on the address":         {Options{Policy: &Policy{Rules: []string{`identity.client_ip == '10.0.0.1'`}}}, true},
		"a block's policy on the address": {Options{Blocks: []Block{{Key: "b", Policy: &Policy{Rules: []string{`[identity].exists(i, i.client_ip == 'x')`}}}}}, true},
		"a webhook":                       {Options{Webhooks: hook, Webhook: opa}, true},
		"a block's webhook":               {Options{Webhooks: hook, Blocks: []Block{{Key: "b", Webhook: &opa}}}, true},
		"a webhook that is not asked":     {Options{Webhooks: hook, Blocks: []Block{{Key: "b", Webhook: &none}}}, false},
	} {
		c.opts.Anonymous = true
		rules, err := New(c.opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		identity, err := rules.Identify(t.Context(), Presented{Request: &http.Request{RemoteAddr: "10.0.0.1:1"}})
		if err != nil || identity.Address.IsValid() != c.want {
			t.Errorf("%s: %+v, %v", name, identity, err)
		}
		rules.layers.close()
	}
}
