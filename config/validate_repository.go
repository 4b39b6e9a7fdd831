package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// repositoryName is the grammar of <name> in the OCI distribution
// specification (Pulling manifests); the first segment may end in a port.
var repositoryName = regexp.MustCompile(`^` + nameSegment + `(:[0-9]{1,5})?(/` + nameSegment + `)*$`)

const nameSegment = `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`

// maxNameLength bounds a repository name, in bytes.
const maxNameLength = 255

var registryHost = regexp.MustCompile(`^([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$`)

// defaultNamespace returns what selects a block whose key is a host name:
// that key.
func defaultNamespace(key string) string {
	if !strings.Contains(key, "/") && (strings.ContainsAny(key, ".:") || key == "localhost") {
		return strings.ToLower(key)
	}
	return ""
}

// canonicalNamespace makes one of Docker Hub's three names.
func canonicalNamespace(namespace string) string {
	switch namespace {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return namespace
}

func (v *check) repositories() {
	keys, namespaces, defaultKey := map[string]bool{}, map[string]string{}, ""
	for _, r := range v.config.Repositories {
		at := keyIn("repository", r.Key)
		if keys[r.Key] {
			v.fail(at, "is there twice")
		}
		keys[r.Key] = true
		if r.Default && defaultKey != "" {
			v.fail(at+".default", "%s is the default already (%s); at most one can be", defaultKey, v.config.where(defaultKey))
		} else if r.Default {
			defaultKey = at
		}
		v.namespace(at, r.Namespace, namespaces)
		v.repository(at, r)
	}
}

// namespace checks a block's namespace against those claimed so far.
func (v *check) namespace(at, namespace string, claimed map[string]string) {
	if namespace == "" {
		return
	}
	if !registryHost.MatchString(namespace) {
		v.fail(at+".namespace", "must be a host name with an optional port, as clients send it in ?ns=")
		return
	}
	canonical := canonicalNamespace(namespace)
	if other, taken := claimed[canonical]; taken {
		hint := ""
		if canonical == "docker.io" {
			hint = "; docker.io, index.docker.io and registry-1.docker.io are one"
		}
		v.fail(at+".namespace", "%q is claimed by %s already (%s)%s", namespace, other, v.config.where(other), hint)
		return
	}
	claimed[canonical] = at
}

func (v *check) repository(at string, r Repository) {
	if !repositoryName.MatchString(r.Key) || len(r.Key) > maxNameLength {
		v.fail(at, "the key must be the first segments of a repository name: lower-case letters, digits and . _ - between them, "+
			"as in docker.io, ghcr.io/acme or localhost:5000")
	}
	if len(r.Upstreams) == 0 {
		v.fail(at+".upstream", "is missing; add [[%s.upstream]] with a url", at)
	}
	for i, upstream := range r.Upstreams {
		v.upstream(elementOf(at+".upstream", i), upstream)
	}
	for i, warm := range r.Warm {
		v.warm(elementOf(at+".warm", i), r.Key, warm)
	}
	v.tagPolicy(at, r.TagTTL, r.NegativeTTL, r.MaxStale)
	// What is inherited has been reported where it stands.
	if g := v.config.Global; !slices.Equal(r.ImmutableTagsExclusions, g.ImmutableTagsExclusions) {
		v.patterns(at+".immutable_tags_exclusions", r.ImmutableTagsExclusions)
	}
	if g := v.config.Global; !slices.Equal(r.ServeStaleOn, g.ServeStaleOn) {
		v.staleClasses(at+".serve_stale_on", r.ServeStaleOn)
	}
}

func (v *check) upstream(at string, u Upstream) {
	_, err := u.ParsedURL()
	v.failed(at+".url", err)
	_, err = u.ProxyURL()
	v.failed(at+".proxy", err)
	v.together(at, "username", u.Username, "password", u.Password.Reveal())
	v.clientCertificate(at, u)
	if u.ServerCABundle != "" {
		v.failed(at+".server_ca_bundle", checkBundle(u.ServerCABundle))
	}
	v.notNegative(at+".max_redirect", int64(u.MaxRedirect))
	if u.ConnectTimeout < time.Second {
		v.fail(at+".connect_timeout_secs", "must be at least 1")
	}
	if u.ReadTimeout < time.Second {
		v.fail(at+".read_timeout_secs", "must be at least 1")
	}
}

// together reports a key that is missing beside its partner, and returns
// whether both are set.
func (v *check) together(at, nameA, a, nameB, b string) bool {
	switch {
	case a != "" && b == "":
		v.fail(keyIn(at, nameB), "is missing: %s is set, and the two come together", nameA)
	case a == "" && b != "":
		v.fail(keyIn(at, nameA), "is missing: %s is set, and the two come together", nameB)
	}
	return a != "" && b != ""
}

func (v *check) clientCertificate(at string, u Upstream) {
	if !v.together(at, "client_certificate", u.ClientCertificate, "client_private_key", u.ClientPrivateKey) {
		return
	}
	certificate, certificateErr := readRegular(u.ClientCertificate)
	v.failed(at+".client_certificate", certificateErr)
	key, keyErr := readRegular(u.ClientPrivateKey)
	v.failed(at+".client_private_key", keyErr)
	if certificateErr != nil || keyErr != nil {
		return
	}
	if _, err := tls.X509KeyPair(certificate, key); err != nil {
		v.fail(at+".client_certificate", "does not go with client_private_key: %w", err)
	}
}

func checkBundle(file string) error {
	text, err := readRegular(file)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("holds no certificate in PEM form")
	}
	return nil
}

// ParsedURL returns the URL of the registry: http or https, a host, perhaps a
// path. It fails only where [Config.Validate] has a problem with the URL. The
// error does not quote the URL, since credentials may have been put into it.
func (u Upstream) ParsedURL() (*url.URL, error) {
	parsed, err := url.Parse(u.URL)
	switch {
	case u.URL == "":
		return nil, errors.New(`is missing; it looks like "https://registry.example.com"`)
	case err != nil:
		return nil, errors.New(`is not a valid URL; it looks like "https://registry.example.com"`)
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		return nil, errors.New("must start with https:// or http://")
	case parsed.User != nil:
		return nil, errors.New("must not hold credentials; put them into username and password")
	case parsed.Hostname() == "":
		return nil, errors.New("names no host")
	case !validPort(cmp.Or(parsed.Port(), "443")):
		return nil, errors.New("names a port that is not between 1 and 65535")
	case strings.ContainsAny(u.URL, "?#"):
		return nil, errors.New("must end with the host or a path, without ? or #")
	}
	return parsed, nil
}

// ProxyURL returns the URL of the proxy, or nil where the environment decides.
// It fails only where [Config.Validate] has a problem with it, and its error
// does not quote the URL.
func (u Upstream) ProxyURL() (*url.URL, error) {
	if u.Proxy == "" {
		return nil, nil //nolint:nilnil // no proxy is an answer
	}
	parsed, err := url.Parse(u.Proxy.Reveal())
	if err != nil || parsed.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, parsed.Scheme) {
		return nil, errors.New(`must be a URL such as "http://user:password@proxy.example.com:3128" (or https, socks5, socks5h), ` +
			"with every / ? # @ % in the password percent-encoded")
	}
	return parsed, nil
}
