package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/weirhq/weir/access"
)

// Auth defines how clients identify themselves.
type Auth struct {
	Realm     string `toml:"realm"`     // in challenges, for people
	Htpasswd  string `toml:"htpasswd"`  // path of a file of users and hashes
	Anonymous bool   `toml:"anonymous"` // requests without credentials are let in

	Groups     Groups         `toml:"groups"`
	Identities []AuthIdentity `toml:"identity"` // sorted by Key
	OIDC       []OIDC         `toml:"oidc"`     // sorted by Key
	Webhooks   []Webhook      `toml:"webhook"`  // sorted by Key

	TokenService *TokenService `toml:"token_service"` // nil: passwords come with each request
}

// AuthIdentity is a user in the configuration itself.
type AuthIdentity struct {
	Key      string // its name in access rules
	Username string `toml:"username"`
	Password Secret `toml:"password"` // a hash
	Expires  Date   `toml:"expires"`  // from which on it is not valid; zero: it does not expire
}

// Groups are lists of members by the name of the group.
type Groups map[string][]string

// identifies reports whether a client can identify itself with credentials of its own.
func (a *Auth) identifies() bool { return a.Htpasswd != "" || len(a.Identities) > 0 || len(a.OIDC) > 0 }

// groups decodes a table of lists.
func (d *decoder) groups(p place, n *node, dst *Groups) {
	lists, ok := n.value.(table)
	if !ok {
		d.failKind(p, n, `a table of lists such as ci = ["alice"]`)
		return
	}
	*dst = Groups{}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		var members []string
		d.config.source.positions[p.in(name).key] = lists[name].position
		decodeTexts(d, p.in(name), lists[name], &members, func(s string, dst *string) error { *dst = s; return nil })
		(*dst)[name] = members
	}
}

// auth checks the ways to identify clients.
func (v *validator) auth() {
	a := v.config.Auth
	if a.Realm == "" || strings.ContainsFunc(a.Realm, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
		v.fail("auth.realm", "must be printable ASCII text, such as \"Weir\"")
	}
	users := map[string]string{} // the place of each user
	if a.Htpasswd != "" {
		accounts, err := a.ReadHtpasswd()
		v.failed("auth.htpasswd", err)
		for _, account := range accounts {
			users[account.User] = a.Htpasswd
		}
	}
	for _, one := range a.Identities {
		v.identity(keyIn("auth.identity", one.Key), one, users)
	}
	for _, one := range a.OIDC {
		v.oidc(keyIn("auth.oidc", one.Key), one)
	}
	v.tokenService(a.TokenService)
	for _, hook := range a.Webhooks {
		v.webhook(keyIn("auth.webhook", hook.Key), hook)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Groups)) {
		v.group(keyIn("auth.groups", name), name, a.Groups[name])
	}
}

func (v *validator) identity(at string, one AuthIdentity, users map[string]string) {
	switch before, twice := users[one.Username]; {
	case one.Username == "":
		v.fail(at+".username", "is missing")
	case !access.ValidUser(one.Username):
		v.fail(at+".username", "must not contain a colon or a control character, and must not be longer than 255 bytes")
	case twice:
		v.fail(at+".username", "%q is also the user of %s", one.Username, before)
	default:
		users[one.Username] = at
	}
	if one.Password == "" {
		v.fail(at+".password", "is missing; `weir auth hash` makes one")
	} else if _, err := access.ParseHash(one.Password.Reveal()); err != nil {
		v.failed(at+".password", err)
	}
}

func (v *validator) group(at, name string, members []string) {
	if !access.ValidUser(name) {
		v.fail(at, "is not a valid name of a group: it must not contain a colon or a control character, and must not be longer than 255 bytes")
	}
	for i, text := range members {
		member, err := access.ParseSubject(text)
		if _, nested := member.Group(); nested {
			err = fmt.Errorf("%q is a group; name its members", text)
		} else if err != nil {
			err = fmt.Errorf("%q %w", text, err)
		}
		if provider, ok := member.Provider(); ok && !slices.ContainsFunc(v.config.Auth.OIDC, func(o OIDC) bool { return o.Key == provider }) {
			err = fmt.Errorf("%q names no issuer: there is no [auth.oidc.%s]", text, provider)
		}
		v.failed(elementOf(at, i), err)
	}
}

// ReadHtpasswd returns the accounts in the file of users, none if there is no file.
func (a *Auth) ReadHtpasswd() ([]access.Account, error) {
	if a.Htpasswd == "" {
		return nil, nil
	}
	text, err := readRegular(a.Htpasswd)
	if err != nil {
		return nil, err
	}
	accounts, err := access.ParseHtpasswd(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Htpasswd, err)
	}
	return accounts, nil
}

// Date is a moment that is written as "2027-01-01" (its beginning, in UTC) or as
// "2027-01-01T12:00:00+02:00" (RFC 3339). The zero Date is none, and written as "".
type Date struct{ time.Time }

// MarshalText returns a form that UnmarshalText reads.
func (d Date) MarshalText() ([]byte, error) {
	switch at := d.UTC(); {
	case at.IsZero():
		return nil, nil
	case at.Equal(at.Truncate(day)):
		return []byte(at.Format(time.DateOnly)), nil
	default:
		return []byte(at.Format(time.RFC3339)), nil
	}
}

// UnmarshalText reads a date.
func (d *Date) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = Date{}
		return nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, string(text)); err == nil {
			*d = Date{at}
			return nil
		}
	}
	return fmt.Errorf("%s is not a date; write one like \"2027-01-01\" or \"2027-01-01T12:00:00Z\"", strconv.Quote(string(text)))
}

// literal returns the groups as an inline table of TOML.
func (g Groups) literal() string {
	var lists []string
	for _, name := range slices.Sorted(maps.Keys(g)) {
		list, _ := literal(g[name]) // a list has a form
		lists = append(lists, quote(name)+" = "+list)
	}
	if len(lists) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(lists, ", ") + " }"
}
