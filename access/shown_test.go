package access_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/access"
)

func sealed(t *testing.T, grants *access.Grants, grant access.Grant) string {
	t.Helper()
	token, err := grants.Seal(grant)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A header shows one credential, also when it was read before.
func TestShown(t *testing.T) {
	grants := newGrants(t, strings.Repeat("a", 32))
	grant := access.Grant{Block: "b", Upstream: "here", ID: "alice's", Token: "of the upstream", Expires: time.Now().Add(time.Minute)}
	of := func(shown access.Presented) []string { return shown.Authorization }
	token, forOther := sealed(t, grants, grant), grant
	forOther.Upstream = "elsewhere"
	expired := grant
	expired.Expires = time.Now().Add(-time.Second)
	password := access.Grant{Block: "b", Upstream: "here", ID: "bob's", Username: "bob", Password: "secret", Expires: grant.Expires}
	for name, c := range map[string]struct {
		header []string
		want   access.Grant // ID, Username, Password, Token
		err    error
	}{
		"nothing":                      {nil, access.Grant{}, nil},
		"a password":                   {of(basic("bob", "secret")), access.Grant{ID: grants.Name("bob", "secret", ""), Username: "bob", Password: "secret"}, nil},
		"another password":             {of(basic("bob", "guess")), access.Grant{ID: grants.Name("bob", "guess", ""), Username: "bob", Password: "guess"}, nil},
		"no password":                  {of(basic("bob", "")), access.Grant{ID: grants.Name("bob", "", ""), Username: "bob"}, nil},
		"a token of the upstream":      {[]string{"Bearer abc"}, access.Grant{ID: grants.Name("", "", "abc"), Token: "abc"}, nil},
		"a token of ours":              {[]string{"Bearer " + token}, access.Grant{ID: "alice's", Token: "of the upstream"}, nil},
		"a token of ours, as password": {of(basic("anyone", token)), access.Grant{ID: "alice's", Token: "of the upstream"}, nil},
		"a password in a token":        {[]string{"Bearer " + sealed(t, grants, password)}, access.Grant{ID: "bob's", Username: "bob", Password: "secret"}, nil},
		"a token for another place":    {[]string{"Bearer " + sealed(t, grants, forOther)}, access.Grant{}, access.ErrGrant},
		"the same, as password":        {of(basic("anyone", sealed(t, grants, forOther))), access.Grant{}, access.ErrGrant},
		"a token of another mirror":    {[]string{"Bearer " + sealed(t, newGrants(t, strings.Repeat("b", 32)), grant)}, access.Grant{}, access.ErrGrant},
		"the same, as a password":      {of(basic("anyone", sealed(t, newGrants(t, strings.Repeat("b", 32)), grant))), access.Grant{}, access.ErrGrant},
		"an expired token":             {[]string{"Bearer " + sealed(t, grants, expired)}, access.Grant{}, access.ErrGrant},
		"the same, as the password":    {of(basic("anyone", sealed(t, grants, expired))), access.Grant{}, access.ErrGrant},
		"a cut token, as a password":   {of(basic("anyone", token[:len(token)-1])), access.Grant{}, access.ErrGrant},
		"the form of a token of ours":  {[]string{"Bearer eyJ.b.c.d.e"}, access.Grant{}, access.ErrGrant},
		"that form, as a password":     {of(basic("anyone", "eyJ.b.c.d.e")), access.Grant{}, access.ErrGrant},
		"a password with dots":         {of(basic("bob", "a.b.c.d.e")), access.Grant{ID: grants.Name("bob", "a.b.c.d.e", ""), Username: "bob", Password: "a.b.c.d.e"}, nil},
	} {
		for range 3 { // the second time it is remembered
			shown, err := grants.Show(c.header, "b", "here")
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %v, want %v", name, err, c.err)
				break
			}
			got := shown.Reveal()
			if shown.ID != c.want.ID || got.Username != c.want.Username || got.Password != c.want.Password || got.Token != c.want.Token || shown.HasPassword != (c.want.Password != "") {
				t.Errorf("%s: %s, %+v", name, shown.ID, got)
			}
		}
	}
	for _, header := range [][]string{{"Basic x"}, {"Digest x"}, {""}, {"Bearer a", "Bearer a"}, {"Bearer " + token, "Bearer " + token}} {
		shown, err := grants.Show(header, "b", "here")
		if _, ok := errors.AsType[*access.CredentialsError](err); !ok || shown.ID != "" {
			t.Errorf("%q: %+v, %v", header, shown, err)
		}
	}
}

// A token that was shown where it is for is still none for other places.
func TestShownElsewhere(t *testing.T) {
	grants := newGrants(t, strings.Repeat("a", 32))
	header := []string{"Bearer " + sealed(t, grants, access.Grant{Block: "b", Upstream: "here", ID: "alice's", Token: "x", Expires: time.Now().Add(time.Minute)})}
	for range 2 {
		if _, err := grants.Show(header, "b", "here"); err != nil {
			t.Fatal(err)
		}
		for _, other := range [][2]string{{"b", "elsewhere"}, {"c", "here"}, {"bhere", ""}, {"", "bhere"}, {"", ""}} {
			if shown, err := grants.Show(header, other[0], other[1]); !errors.Is(err, access.ErrGrant) || shown.ID != "" {
				t.Errorf("%q: %+v, %v", other, shown, err)
			}
		}
	}
}

// A token that was shown ends with its time and with its secret. A request that began before
// goes on with what it showed.
func TestShownEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grants := newGrants(t, strings.Repeat("a", 32))
		show := func(grant access.Grant) (access.Shown, []string) {
			t.Helper()
			header := []string{"Bearer " + sealed(t, grants, grant)}
			for range 2 {
				if _, err := grants.Show(header, "b", "here"); err != nil {
					t.Fatal(err)
				}
			}
			shown, _ := grants.Show(header, "b", "here")
			return shown, header
		}
		grant := access.Grant{Block: "b", Upstream: "here", ID: "alice's", Token: "x", Expires: time.Now().Add(time.Minute)}
		shown, header := show(grant)
		time.Sleep(time.Minute - time.Millisecond)
		if _, err := grants.Show(header, "b", "here"); err != nil {
			t.Errorf("it ends early: %v", err)
		}
		time.Sleep(time.Millisecond)
		if _, err := grants.Show(header, "b", "here"); !errors.Is(err, access.ErrGrant) {
			t.Errorf("it has expired: %v", err)
		}
		if got := shown.Reveal(); got.Token != "x" {
			t.Errorf("a request that began before has %+v", got)
		}

		grant.Expires = time.Now().Add(time.Minute)
		shown, header = show(grant)
		password := basic("bob", "secret").Authorization
		before, _ := grants.Show(password, "b", "here")
		if err := grants.Use(bytes.Repeat([]byte{2}, 32)); err != nil {
			t.Fatal(err)
		}
		if _, err := grants.Show(header, "b", "here"); !errors.Is(err, access.ErrGrant) {
			t.Errorf("its secret is another one: %v", err)
		}
		if got := shown.Reveal(); got.Token != "x" {
			t.Errorf("a request that began before has %+v", got)
		}
		if after, err := grants.Show(password, "b", "here"); err != nil || after.ID == before.ID {
			t.Errorf("a credential has one name under two secrets: %v", err)
		}
	})
}
