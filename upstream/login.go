package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/weirhq/weir/internal/credhelper"
)

// credentials are a username and a password.
type credentials struct {
	username, password string
	answer             *credhelper.Login // that they are from; nil: they are configured
}

func (c credentials) set() bool { return c.username != "" || c.password != "" }

// mayHaveExpired reports whether a refusal may be one of these credentials only, and not
// one of the next ones.
func (c credentials) mayHaveExpired() bool { return c.answer != nil && !c.answer.Fresh() }

// hide takes the password out of a text of the upstream's, which clients and the log
// get. A misconfigured registry or proxy may repeat a request's header.
func (c credentials) hide(text string) string {
	// A shorter password would cut harmless words into pieces, which shows it.
	const shortest = 4
	if len(c.password) < shortest {
		return text
	}
	basic := base64.StdEncoding.EncodeToString([]byte(c.username + ":" + c.password))
	return strings.NewReplacer(c.password, "[hidden]", basic, "[hidden]").Replace(text)
}

// login is the source of an upstream's credentials. The zero login has none.
type login struct {
	fixed  credentials
	helper *credhelper.Helper // in place of them
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

// denied notes that the upstream denied credentials.
func (l *login) denied(c credentials) {
	if c.answer != nil {
		l.helper.Denied(c.answer)
	}
}

// hide takes the last password out of a text.
func (l *login) hide(text string) string {
	last := l.fixed
	if l.helper != nil {
		if answer := l.helper.Last(); answer != nil {
			last = credentials{answer.Username, answer.Password, answer}
		}
	}
	return last.hide(text)
}
