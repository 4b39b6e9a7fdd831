package config

import (
	"strings"
	"testing"
)

// TestAuthorize checks what the rights of clients go with.
func TestAuthorize(t *testing.T) {
	const one = "[[repository.app.upstream]]\nurl = \"https://private.example\"\n"
	for _, tc := range []struct {
		name, set, upstreams string
		problem              string // a part of it
	}{
		{"upstream", `authorize = "upstream"`, one, ""},
		{"with a password for warming", `authorize = "upstream"`, one + "username = \"u\"\npassword = \"p\"\n", ""},
		{"with times", "authorize = \"upstream\"\nauth_check_ttl = \"0s\"\nauth_stale_grace = \"1d\"", one, ""},
		{"mirror", `authorize = "mirror"`, one + one, ""},
		{"another word", `authorize = "client"`, one, `must be one of mirror, upstream, not "client"`},
		{"upper case", `authorize = "Upstream"`, one, "must be one of"},
		{"empty", `authorize = ""`, one, "must be one of"},
		{"two upstreams", `authorize = "upstream"`, one + one, "works with one upstream only"},
		{"offline", "authorize = \"upstream\"\noffline = true", one, "cannot be combined with offline = true"},
		{"recheck", "authorize = \"upstream\"\nrecheck_possession = \"1h\"", one, "Set auth_check_ttl"},
		{"certificate", `authorize = "upstream"`, one + "client_certificate = \"c\"\nclient_private_key = \"k\"\n", "upstream[0].client_certificate"},
		{"negative", `auth_check_ttl = "-1s"`, one, "auth_check_ttl"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := problemsOf(t, "[repository.app]\n"+tc.set+"\n"+tc.upstreams)
			if (got == "") != (tc.problem == "") || !strings.Contains(got, tc.problem) {
				t.Errorf("got %q, want %q", got, tc.problem)
			}
		})
	}
	// The credentials are for warming, and no client has their rights.
	c := mustLoad(t, "[server]\nbind_address = \"\"\n[repository.app]\nauthorize = \"upstream\"\n"+one+"username = \"u\"\npassword = \"p\"\n")
	if text := strings.Join(c.Warnings(), "\n"); strings.Contains(text, "Every client can read") {
		t.Errorf("warned: %s", text)
	}
	if got := c.Namespaces[0].RecheckPossession; got != 0 {
		t.Errorf("recheck_possession is %v", got)
	}
}
