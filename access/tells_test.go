package access_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/access"
)

// The rules decide by the action and the reference about what may be told. A refusal is not one of a request, so it
// is not counted.
func TestTells(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	opts := users(t)
	opts.Metrics = access.NewMetrics(registry)
	opts.Blocks = []access.Block{{Key: "ghcr.io", Policy: &access.Policy{DefaultAllow: true, Rules: []string{
		`request.action == 'list-tags' && identity.username != 'alice'`, `has(request.reference) && request.reference.startsWith('secret') && identity.username != 'alice'`,
	}}}}
	rules := newRules(t, opts)
	for _, c := range []struct {
		action           access.Action
		reference, block string
		bob              bool
	}{
		{access.GetManifest, "", "ghcr.io", true}, {access.GetManifest, "v1", "ghcr.io", true}, {access.GetManifest, "secret-release", "ghcr.io", false},
		{access.ListTags, "", "ghcr.io", false}, {access.GetBlob, "", "ghcr.io", true}, {access.GetManifest, "v1", "gone.example", false},
	} {
		for user, want := range map[string]bool{"alice": c.block == "ghcr.io", "bob": c.bob} {
			identity, err := rules.Identify(t.Context(), basic(user, "secret"))
			if err != nil {
				t.Fatal(err)
			}
			q := access.Question{Action: c.action, Block: c.block, Name: "app", Namespace: c.block + "/app", Reference: c.reference}
			if got := rules.Tells(t.Context(), identity, q, access.Presented{}); got != want {
				t.Errorf("%s, %s of %q in %s: %t", user, c.action, c.reference, c.block, got)
			}
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, one := range family.GetMetric() {
			if strings.HasSuffix(family.GetName(), "denied_total") && one.GetCounter().GetValue() != 0 {
				t.Errorf("%v", one)
			}
		}
	}
}
