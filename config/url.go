package config

import (
	"cmp"
	"errors"
	"net/url"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
)

// URL is the address of a registry: http or https, a host, perhaps a path. It
// holds no credentials, so URLs are comparable. The zero URL is not set.
type URL url.URL

// Std returns the URL as the standard library's type.
func (u URL) Std() *url.URL { return (*url.URL)(&u) }

// String returns the form that [URL.UnmarshalText] reads.
func (u URL) String() string { return u.Std().String() }

// MarshalText returns the form that UnmarshalText reads.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads a URL. Its errors do not quote the text, since an operator
// may have put credentials into it. The empty text is the zero URL.
func (u *URL) UnmarshalText(text []byte) error {
	raw := string(text)
	parsed, err := url.Parse(raw)
	switch {
	case raw == "":
	case err != nil:
		return errors.New(`is not a valid URL; it looks like "https://registry.example.com"`)
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		return errors.New("must start with https:// or http://")
	case parsed.User != nil:
		return errors.New("must not hold credentials; put them into username and password")
	case parsed.Hostname() == "":
		return errors.New("names no host")
	case !hosts.ValidPort(cmp.Or(parsed.Port(), "443")):
		return errors.New("names a port that is not between 1 and 65535")
	case strings.ContainsAny(raw, "?#"):
		return errors.New("must end with the host or a path, without ? or #")
	}
	*u = URL(*parsed)
	return nil
}
