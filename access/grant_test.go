package access_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/access"
)

func newGrants(t testing.TB, secret string) *access.Grants {
	t.Helper()
	g, err := access.NewGrants([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A token gives its grant back to the instances with the same secret, until it expires.
func TestGrants(t *testing.T) {
	secret := strings.Repeat("s", 32)
	a, b, other, random := newGrants(t, secret), newGrants(t, secret), newGrants(t, strings.Repeat("o", 32)), newGrants(t, "")
	want := access.Grant{Block: "ghcr.io", Upstream: "ghcr.io", ID: "i", Token: strings.Repeat("t", 16<<10), Expires: time.Now().Add(time.Minute).UTC().Truncate(time.Second)}
	token, err := a.Seal(want)
	if err != nil {
		t.Fatal(err)
	}
	if len(token) > access.MaxGrantToken {
		t.Errorf("a token has %d bytes", len(token))
	}
	got, err := b.Open(token)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, g := range map[string]*access.Grants{"another secret": other, "a random secret": random} {
		if got, err := g.Open(token); err == nil || got != (access.Grant{}) {
			t.Errorf("%s opens it", name)
		}
	}
	want.Expires = time.Now().Add(-time.Second)
	if token, err = a.Seal(want); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Open(token); err == nil {
		t.Error("an expired token is opened")
	}
	if _, err := access.NewGrants([]byte("short")); err == nil {
		t.Error("a short secret is accepted")
	}
}

// No other text is a token, and no error repeats one.
func TestForgedGrants(t *testing.T) {
	g := newGrants(t, strings.Repeat("s", 32))
	token, err := g.Seal(access.Grant{Block: "b", ID: "i", Expires: time.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	with := func(i int, part string) string {
		forged := append([]string(nil), parts...)
		forged[i] = part
		return strings.Join(forged, ".")
	}
	// A key of an attacker's own, sent along.
	own, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.DIRECT, Key: bytes.Repeat([]byte("k"), 32)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := own.Encrypt([]byte(`{"b":"b","i":"i","e":"2100-01-01T00:00:00Z"}`))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := foreign.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, forged := range map[string]string{
		"empty": "", "one word": "token", "dots": "....", "too long": strings.Repeat("a", access.MaxGrantToken+1),
		"no algorithm":      with(0, header(`{"alg":"none","enc":"A256GCM"}`)),
		"another algorithm": with(0, header(`{"alg":"PBES2-HS256+A128KW","enc":"A256GCM","p2c":1000000000,"p2s":"AAAA"}`)),
		"compressed":        with(0, header(`{"alg":"dir","enc":"A256GCM","zip":"DEF"}`)),
		"cut":               token[:len(token)-4], "longer": token + "AAAA", "no tag": with(4, ""),
		"other text": with(3, base64.RawURLEncoding.EncodeToString([]byte("other"))), "foreign key": compact,
		"signed": header(`{"alg":"none"}`) + "." + header(`{"b":"b"}`) + ".", "JSON": `{"protected":"x"}`, "NUL": token + "\x00",
	} {
		got, err := g.Open(forged)
		if err == nil || got != (access.Grant{}) {
			t.Errorf("%s: got %+v", name, got)
		} else if len(forged) > 8 && strings.Contains(err.Error(), forged) {
			t.Errorf("%s: the error repeats it: %v", name, err)
		}
	}
}

// The name of a credential is that of no other one.
func TestNamesOfCredentials(t *testing.T) {
	g := newGrants(t, strings.Repeat("s", 32))
	names := map[string]bool{}
	for _, c := range [][3]string{{}, {"a"}, {"", "a"}, {"", "", "a"}, {"ab", "c"}, {"a", "bc"}, {"a", "b", "c"}, {"a:b", ""}, {"a", ":b"}} {
		names[g.Name(c[0], c[1], c[2])] = true
	}
	if len(names) != 9 {
		t.Errorf("%d names of 9 credentials", len(names))
	}
	if g.Name("a", "b", "") != newGrants(t, strings.Repeat("s", 32)).Name("a", "b", "") || g.Name("a", "b", "") == newGrants(t, "").Name("a", "b", "") {
		t.Error("the name must depend on the secret")
	}
}

func FuzzGrants(f *testing.F) {
	g := newGrants(f, strings.Repeat("s", 32))
	token, err := g.Seal(access.Grant{Block: "b", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("eyJ.b.c.d.e")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := g.Open(text); err == nil && got.Block != "b" {
			t.Errorf("%q gives %+v", text, got)
		}
	})
}

// Another secret ends the tokens of the last one, and the names of credentials. The same one,
// or none again, changes nothing, so that no reload logs clients out.
func TestGrantsOfAnotherSecret(t *testing.T) {
	first, second := strings.Repeat("s", 32), strings.Repeat("o", 32)
	for _, test := range []struct {
		before, after string
		valid         bool
	}{{first, first, true}, {"", "", true}, {first, second, false}, {first, "", false}, {"", first, false}} {
		g := newGrants(t, test.before)
		token, err := g.Seal(access.Grant{ID: "i", Expires: time.Now().Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		name := g.Name("alice", "secret", "")
		if err := g.Use([]byte(test.after)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Open(token); (err == nil) != test.valid {
			t.Errorf("from %q to %q: %v", test.before, test.after, err)
		}
		if same := g.Name("alice", "secret", "") == name; same != test.valid {
			t.Errorf("from %q to %q: the name of a credential stays: %t", test.before, test.after, same)
		}
		if err := g.Use([]byte("short")); err == nil {
			t.Error("a short secret is accepted")
		}
	}
}
