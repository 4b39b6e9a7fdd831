package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
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
		return errors.New(`is not a valid URL; write one like "https://registry.example.com"`)
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		return errors.New("must start with https:// or http://")
	case parsed.User != nil:
		return errors.New("must not contain credentials; put them into username and password")
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

// APIPath is the path of a registry's API before /v2/, without a slash at its end.
// The root, at which most registries have their API, is "/" if the operator wrote
// it, and "" if not.
type APIPath string

// apiPath matches paths that are the same in a URL, encoded or not.
var apiPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// MarshalText returns the path.
func (a APIPath) MarshalText() ([]byte, error) { return []byte(a), nil }

// UnmarshalText reads a path such as "/artifactory/api/docker/hub".
func (a *APIPath) UnmarshalText(text []byte) error {
	path := strings.TrimRight(string(text), "/")
	segments := strings.Split(path, "/")
	switch {
	case path == "": // not set, or the root
		*a = APIPath(text[:min(1, len(text))])
		return nil
	case strings.EqualFold(segments[len(segments)-1], "v2"):
		return fmt.Errorf("must not contain /v2 itself, which always follows it; write %q", strings.Join(segments[:len(segments)-1], "/")+"/")
	case !apiPath.MatchString(path) || slices.Contains(segments, ".") || slices.Contains(segments, ".."):
		return errors.New(`must be a path such as "/artifactory/api/docker/hub": letters, digits and . _ ~ - between slashes; the host goes into url`)
	}
	*a = APIPath(path)
	return nil
}

// Path returns the path without a slash at its end, "" for the root.
func (a APIPath) Path() string { return strings.TrimSuffix(string(a), "/") }

// checkPath returns an error if the path of an upstream's URL seems to be that of its
// API: it goes behind /v2/, before each repository's name. A set api_path says that
// it is meant.
func (u Upstream) checkPath() error {
	segments := strings.FieldsFunc(u.URL.Path, func(r rune) bool { return r == '/' })
	at := slices.IndexFunc(segments, func(s string) bool { return strings.EqualFold(s, "v2") })
	if len(segments) == 1 && strings.EqualFold(segments[0], "v1") { // Docker Hub's login has such a URL
		at = 0
	}
	if at < 0 || at > 0 && u.APIPath != "" {
		return nil
	}
	right := url.URL{Scheme: u.URL.Scheme, Host: u.URL.Host, Path: strings.Join(append([]string{""}, segments[at+1:]...), "/")}
	advice := fmt.Sprintf("write url = %q", right.String())
	if at > 0 {
		advice += fmt.Sprintf(" and api_path = %q", "/"+strings.Join(segments[:at], "/"))
	}
	return fmt.Errorf("must not contain /%s, which Weir adds before each repository's name; %s", segments[at], advice)
}
