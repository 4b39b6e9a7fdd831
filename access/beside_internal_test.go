package access

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Where an upstream decides, a header is the upstream's unless it is for the mirror, a guess at
// one of the mirror's names becomes a decoy, and each request is counted once. A password that
// is no account's is compared with a hash, whatever its name.
func TestIdentifyBeside(t *testing.T) {
	hash, err := ParseHash("$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO")
	if err != nil {
		t.Fatal(err)
	}
	grants, err := NewGrants(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	grant, err := grants.Seal(Grant{Block: "b", ID: "i", Token: "t", Expires: time.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	password := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	decoy := grants.Decoy(Credentials{"alice", "guess"})
	const own = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ3ZWlyIn0.c2lnbmF0dXJl" // of the mirror, and forged
	for name, c := range map[string]struct {
		header    string
		user      string
		upstreams string // "=": the header
		guess     bool
		refused   bool
		compared  string // the name whose password is compared
		counted   string
	}{
		"nothing":                         {counted: "none success"},
		"the mirror's account":            {header: password("alice", "secret"), user: "alice", counted: "password success"},
		"a guess":                         {header: password("alice", "guess"), upstreams: password(decoy.User, decoy.Password), guess: true, compared: "alice", counted: "password failure"},
		"an expired account":              {header: password("eve", "secret"), upstreams: "decoy", guess: true, counted: "password failure"},
		"another name":                    {header: password("carol", "guess"), upstreams: "=", compared: "carol", counted: "none success"},
		"a name that differs by its case": {header: password("Alice", "guess"), upstreams: "=", compared: "Alice", counted: "none success"},
		"a token of ours":                 {header: "Bearer " + grant, upstreams: "=", counted: "none success"},
		"the same as a password":          {header: password("carol", grant), upstreams: "=", counted: "none success"},
		"the same, of the mirror's name":  {header: password("alice", grant), upstreams: "=", counted: "none success"},
		"a token of the upstream's":       {header: "Bearer abc", upstreams: "=", counted: "none success"},
		"a token of the mirror's":         {header: "Bearer " + own, refused: true, counted: "token failure"},
		"the same as the password":        {header: password("carol", own), refused: true, counted: "password failure"},
		"the same as the mirror's user":   {header: password("alice", own), refused: true, counted: "password failure"},
		"no header that can be read":      {header: "Basic x", upstreams: "=", counted: "none success"},
		"an unknown scheme":               {header: "Digest x", upstreams: "=", counted: "none success"},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			rules, err := New(Options{
				Accounts: []Account{{User: "alice", Hash: hash}, {User: "eve", Hash: hash, Expires: time.Now().Add(-time.Hour)}},
				Tokens:   TokenOptions{Key: bytes.Repeat([]byte{2}, 32), TTL: time.Hour}, Metrics: NewMetrics(registry),
			})
			if err != nil {
				t.Fatal(err)
			}
			var p Presented
			if c.header != "" {
				p.Authorization = []string{c.header}
			}
			for range 2 { // the second time from memory
				got, err := rules.IdentifyBeside(t.Context(), p, grants)
				if err != nil || got.Identity.User != c.user || (got.Guess != nil) != c.guess || (got.Refused != nil) != c.refused {
					t.Fatalf("%+v %+v, %v", got, got.Identity, err)
				}
				want, shown := c.upstreams, strings.Join(got.Upstreams, " ")
				if c.upstreams == "=" {
					want = c.header
				}
				if c.upstreams == "decoy" && (shown == c.header || !strings.HasPrefix(shown, "Basic ")) || c.upstreams != "decoy" && shown != want {
					t.Errorf("the upstream gets %q, want %q", shown, want)
				}
			}
			if c.compared != "" {
				if _, compared := rules.accounts.remembered(nil, rules.accounts.mac(c.compared, "guess")); !compared {
					t.Error("the password was not compared with a hash")
				}
			}
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			counted := map[string]float64{}
			for _, family := range families {
				for _, one := range family.Metric {
					if n := one.Counter.GetValue(); n > 0 {
						counted[one.Label[0].GetValue()+" "+one.Label[1].GetValue()] = n
					}
				}
			}
			if fmt.Sprint(counted) != fmt.Sprintf("map[%s:2]", c.counted) {
				t.Errorf("counted are %v, want 2 of %s", counted, c.counted)
			}
		})
	}
}
