package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/tokencache"
)

// credentials are a username and a password.
type credentials struct {
	username, password string
	answer             *credhelper.Login // that they are from; nil: they are configured
}

func (c credentials) set() bool { return c.username != "" || c.password != "" }

// identity reports whether the password is a token for the token service alone.
func (c credentials) identity() bool { return c.answer != nil && c.answer.Identity }

// mayHaveExpired reports whether a refusal may be one of these credentials only, and not
// one of the next ones.
func (c credentials) mayHaveExpired() bool { return c.answer != nil && !c.answer.Fresh() }

// shortestSecret is the length of the shortest text that is hidden. A shorter one would cut
// harmless words into pieces, which shows it.
const shortestSecret = 4

// hide takes the password out of a text of the upstream's, which clients and the log
// get. A misconfigured registry or proxy may repeat a request's header.
func (c credentials) hide(text string) string {
	if len(c.password) < shortestSecret {
		return text
	}
	basic := base64.StdEncoding.EncodeToString([]byte(c.username + ":" + c.password))
	return strings.NewReplacer(c.password, "[hidden]", basic, "[hidden]").Replace(text)
}

// login is the source of an upstream's credentials. The zero login has none.
type login struct {
	fixed  credentials
	helper *credhelper.Helper // in place of them
	token  string             // of a client, in place of both
	client string             // the ID of a client's credential; empty: the login is configured
}

func newLogin(o Options) *login {
	return &login{fixed: credentials{username: o.Username, password: o.Password}, helper: o.Helper}
}

// set reports whether there are credentials. It asks no helper.
func (l *login) set() bool { return l.helper != nil || l.fixed.set() }

// get returns the credentials of the moment, or an *Error if the helper gives none. Such a
// failure says nothing about the upstream.
func (l *login) get(ctx context.Context) (credentials, error) {
	if l.helper == nil {
		return l.fixed, nil
	}
	answer, err := l.helper.Get(ctx)
	if failed, ok := errors.AsType[*credhelper.Error](err); ok {
		return credentials{}, &Error{Class: ClassUnavailable, Err: failed}
	}
	if err != nil {
		return credentials{}, err
	}
	return credentials{answer.Username, answer.Password, answer}, nil
}

// password returns the credentials of the moment for a registry that asks for a password.
func (l *login) password(ctx context.Context) (credentials, error) {
	c, err := l.get(ctx)
	if err == nil && c.identity() {
		return credentials{}, &Error{Class: ClassUnavailable, Err: l.helper.NoPassword()}
	}
	return c, err
}

// denied notes that the upstream denied credentials.
func (l *login) denied(c credentials) {
	if c.answer != nil {
		l.helper.Denied(c.answer)
	}
}

// account names the login without revealing its credentials. Those of a helper change, and
// are those of one account.
func (l *login) account() string {
	if l.helper != nil {
		return tokencache.Fingerprint("credential helper", l.helper.Name(), "") // no username and password
	}
	return l.accountOf(l.fixed)
}

// accountOf names some credentials of the login.
func (l *login) accountOf(c credentials) string {
	if l.client != "" {
		return "client " + l.client
	}
	return tokencache.Fingerprint(c.username, c.password)
}

// hide takes the last password, or the token, out of a text.
func (l *login) hide(text string) string {
	if len(l.token) >= shortestSecret {
		text = strings.ReplaceAll(text, l.token, "[hidden]")
	}
	last := l.fixed
	if l.helper != nil {
		if answer := l.helper.Last(); answer != nil {
			last = credentials{answer.Username, answer.Password, answer}
		}
	}
	return last.hide(text)
}
