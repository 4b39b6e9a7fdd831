package access

import (
	"errors"
	"strings"
	"testing"
)

// Rules whose steps are many fail, also where the library counts one step for a call: on
// claims, whose types are known during the evaluation only. A token of 30 KiB took a second
// and more of a processor. Rules over a thousand groups are fine.
func TestRulesHaveALimit(t *testing.T) {
	groups := func(number int) []any {
		list := make([]any, number)
		for i := range list {
			list[i] = "a group"
		}
		return list
	}
	usual := &Identity{OIDC: &OIDC{Claims: map[string]any{"groups": append(groups(999), "ci"), "sub": "repo:myorg/app:ref:refs/heads/main"}}}
	for _, rule := range []string{
		`'ci' in identity.oidc.claims.groups`,
		`identity.oidc.claims.groups.contains('ci') && identity.oidc.claims.groups.contains('ci')`,
		`identity.oidc.claims.groups.exists(g, g == 'ci')`,
		`identity.oidc.claims.groups.exists(g, g.startsWith('c') && g.endsWith('i'))`,
		`identity.oidc.claims.groups.filter(g, g == 'ci').size() == 1`,
		`identity.oidc.claims.sub.matches('^repo:(myorg|other)/[a-z]{1,30}:ref:refs/heads/(main|release-[0-9]+)$')`,
		`identity.oidc.claims.sub.contains('myorg') && size(identity.oidc.claims) == 2`,
	} {
		p := mustPolicy(t, rule)
		if allowed, err := p.allows(variables(usual, Question{Action: GetVersion})); !allowed || err != nil {
			t.Errorf("%s: %t, %v", rule, allowed, err)
		}
	}
	large := &Identity{OIDC: &OIDC{Claims: map[string]any{
		"groups": groups(4000), "long": strings.Repeat("a", 16_000), "pattern": "(a{1,20}){1,20}b", "lists": []any{groups(2000), groups(2000)},
	}}}
	for _, rule := range []string{
		`'zz' in G`, `G.contains('zz')`, `C != C`, `G != G`, `C.lists[0] != C.lists[1]`, `G.exists(h, g == h + 'x')`, `(G + G).size() == 0`,
		`C.long.contains('aaaaaaaab')`, `C.long.matches('(a*)*b')`, `C.long.matches(C.pattern)`, `C.long.startsWith(C.long + 'a')`,
		`C.long + 'a' == C.long + 'b'`, `string(bytes(C.long)) == 'a'`, `size(C.long) == 1`, `bytes(C.long) == b'a'`,
		`timestamp('2020-01-01T00:00:00Z').getHours('America/New_York') == 77`, `[C.long + g].size() == 0`, `C.long < C.long`,
	} {
		text := strings.NewReplacer("G", "identity.oidc.claims.groups", "C.", "identity.oidc.claims.", "C ", "identity.oidc.claims ").Replace("G.exists(g, " + rule + ")")
		text = strings.Replace(text, "!= C)", "!= identity.oidc.claims)", 1)
		_, err := mustPolicy(t, text).allows(variables(large, Question{Action: GetVersion}))
		if !errors.Is(err, errManySteps) {
			t.Errorf("%s: %v", text, err)
		}
	}
	// A pattern that is too large is an error at load, and one that a client sends fails.
	if _, err := newPolicy(&Policy{Rules: []string{`identity.username.matches('((a{1,30}){1,30})b')`}}); err == nil || !strings.Contains(err.Error(), "does not compile: ") {
		t.Errorf("a large pattern: %v", err)
	}
	large.OIDC.Claims["pattern"] = "(a{1,30}){1,30}"
	if allowed, err := mustPolicy(t, `'a'.matches(identity.oidc.claims.pattern)`).allows(variables(large, Question{Action: GetVersion})); allowed || err == nil {
		t.Errorf("a large pattern of a client: %t, %v", allowed, err)
	}
}

func mustPolicy(t *testing.T, rule string) *policy {
	t.Helper()
	p, err := newPolicy(&Policy{Rules: []string{rule}})
	if err != nil {
		t.Fatalf("%s: %v", rule, err)
	}
	return p
}
