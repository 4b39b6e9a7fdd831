package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFallbackOn has the defaults depend on credentials, and a warning about upstreams
// with and without them.
func TestFallbackOn(t *testing.T) {
	const anonymous, password = "[[repository.app.upstream]]\nurl = \"https://public.example\"\n",
		"[[repository.app.upstream]]\nurl = \"https://private.example\"\nusername = \"u\"\npassword = \"p\"\n"
	const certificate = "[[repository.app.upstream]]\nurl = \"https://private.example\"\nclient_certificate = \"c\"\nclient_private_key = \"k\"\n"
	const helper = "[[repository.app.upstream]]\nurl = \"https://private.example\"\ncredential_helper = \"pass\"\n"
	all := []Class{ClassUnavailable, ClassRateLimited, ClassDenied, ClassNotFound}
	away := []Class{ClassUnavailable, ClassRateLimited}
	for _, tc := range []struct {
		name, set string
		upstreams string
		want      []Class
		warned    bool
	}{
		{"anonymous", "", anonymous, all, false},
		{"two anonymous", "", anonymous + anonymous, all, false},
		{"a password", "", password, away, false},
		{"a certificate", "", certificate, away, false},
		{"a credential helper", "", helper, away, false},
		{"public, and private by a helper", "", anonymous + helper, away, true},
		{"private and public", "", password + anonymous, away, true},
		{"public and private", "", anonymous + certificate, away, true},
		{"set", "fallback_on = [\"denied\"]\n", password + anonymous, []Class{ClassDenied}, true},
		{"never", "fallback_on = []\n", password + anonymous, []Class{}, false},
		{"never, anonymous", "fallback_on = []\n", anonymous, []Class{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustLoad(t, "[repository.app]\n"+tc.set+tc.upstreams)
			if d := cmp.Diff(tc.want, c.Namespaces[0].FallbackOn); d != "" {
				t.Error(d)
			}
			// A right to private images is checked again after a day.
			if n := c.Namespaces[0]; n.HasCredentials() != (n.RecheckPossession == Duration(day)) {
				t.Errorf("recheck_possession is %v", c.Namespaces[0].RecheckPossession)
			}
			if got := strings.Contains(strings.Join(c.Warnings(), "\n"), "with and without credentials"); got != tc.warned {
				t.Errorf("warnings: %q", c.Warnings())
			}
		})
	}
}
