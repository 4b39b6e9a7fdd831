package access

import (
	"cmp"
	"time"
)

// maxShown and maxShownBytes bound the credentials for upstreams whose names are remembered:
// those of some thousand clients.
const (
	maxShown      = 8192
	maxShownBytes = 4 << 20
)

// Shown is a client's credential for an upstream, as an Authorization header shows it. It
// stays in the header until a request upstream needs it.
type Shown struct {
	ID          string // of the credential (see [Grants.Name]); empty: there is none
	HasPassword bool   // the credential is a username and a password

	header string
	ours   bool // the header holds a token of ours
	keys   *grantKeys
}

// remembered is all that is remembered of a credential. It holds no part of it.
type remembered struct {
	id          string
	hasPassword bool
	until       time.Time // when a token of ours expires; zero: it is none
}

// Show reads an Authorization header that is for an upstream, at a place of a block: a token
// of [Grants.Seal], which clients may also send as a password, a username and a password, or
// a token of the upstream's. It returns a *[CredentialsError] for a header that cannot be
// read, and [ErrGrant] for a token of ours that has expired or is for another place: it must
// not reach this one.
func (g *Grants) Show(header []string, block, place string) (Shown, error) {
	if len(header) == 0 {
		return Shown{}, nil
	}
	// All that follows is by one secret, although another one may be put in force meanwhile.
	keys := g.current.Load()
	at := keys.tags.of(header[0], block, place)
	known, ok := keys.shown.Get(at)
	if !ok || len(header) > 1 || known.ours() && time.Until(known.until) <= 0 {
		grant, err := keys.read(header)
		if err != nil {
			return Shown{}, err
		}
		known = remembered{grant.ID, grant.Password != "", grant.Expires}
		// What a client shows without a token of ours is for any place.
		if known.ours() && (grant.Block != block || grant.Upstream != place) {
			return Shown{}, ErrGrant
		}
		keys.shown.Add(at, known)
	}
	return Shown{ID: known.id, HasPassword: known.hasPassword, header: header[0], ours: known.ours(), keys: keys}, nil
}

func (r remembered) ours() bool { return !r.until.IsZero() }

// Reveal returns the credential, also when a token of ours has expired since.
func (s Shown) Reveal() Grant {
	if s.keys == nil { // there is none
		return Grant{}
	}
	shown, _ := ParseAuthorization([]string{s.header}) // Show has read it
	if !s.ours {
		return plain(shown)
	}
	grant, _ := s.keys.decrypt(cmp.Or(shown.Bearer, shown.Basic.Password)) // and that
	return grant
}

// read returns the credential in a header. Only one in a token of ours has an end.
func (k *grantKeys) read(header []string) (Grant, error) {
	shown, err := ParseAuthorization(header)
	if err != nil {
		return Grant{}, err
	}
	// Some clients can send a token as a password only. One that opens nothing may still hold a
	// credential, of an instance with another secret: it is not a password for an upstream.
	if token := cmp.Or(shown.Bearer, shown.Basic.Password); IsGrant(token) {
		return k.open(token)
	}
	grant := plain(shown)
	grant.ID = k.names.Seal(grant.Username, grant.Password, grant.Token)
	return grant, nil
}

// plain returns a credential without a token of ours.
func plain(shown Authorization) Grant {
	return Grant{Username: shown.Basic.User, Password: shown.Basic.Password, Token: shown.Bearer}
}
