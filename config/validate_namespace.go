package config

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/oci"
)

var registryHost = regexp.MustCompile(`^([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$`)

// defaultHost returns the registry that a block answers for if the operator names
// none: the key if it is a host name, and "" otherwise.
func defaultHost(key string) string {
	if !strings.Contains(key, "/") && oci.IsHost(key) {
		return strings.ToLower(key)
	}
	return ""
}

// maxCapped is how many blocks can have a max_size: the store can tell that many apart for certain.
const maxCapped = 200

func (v *validator) namespaces() {
	keys, claimed, defaultKey := map[string]bool{}, map[string]string{}, ""
	capped := 0
	for _, n := range v.config.Namespaces {
		at := keyIn("repository", n.Key)
		if n.MaxSize != 0 {
			if capped++; capped == maxCapped+1 {
				v.fail(at+".max_size", "is set in too many blocks; at most %d blocks can have a max_size", maxCapped)
			}
		}
		if keys[n.Key] {
			v.fail(at, "is listed twice")
		}
		keys[n.Key] = true
		// Only one namespace can serve the names that no key matches.
		if n.Default && defaultKey != "" {
			v.fail(at+".default", "%s is already the default (%s); only one block can be", defaultKey, v.config.where(defaultKey))
		} else if n.Default {
			defaultKey = at
		}
		v.host(at, n.Host, claimed)
		v.namespace(at, n)
	}
}

// host checks the registry that a block answers for against those claimed so far.
func (v *validator) host(at, host string, claimed map[string]string) {
	if host == "" { // the block answers for no registry, only for its key
		return
	}
	if !registryHost.MatchString(host) {
		v.fail(at+".namespace", "must be a host name with an optional port, as clients send it in ?ns=")
		return
	}
	canonical := oci.CanonicalHost(host)
	if other, taken := claimed[canonical]; taken {
		// The other block may have another of the three names of Docker Hub.
		hint := ""
		if canonical == oci.DockerHub {
			hint = "; docker.io, index.docker.io and registry-1.docker.io are one"
		}
		v.fail(at+".namespace", "%q is already claimed by %s (%s)%s", host, other, v.config.where(other), hint)
		return
	}
	claimed[canonical] = at
}

func (v *validator) namespace(at string, n Namespace) {
	if !oci.ValidName(n.Key) {
		v.fail(at, "the key must be the first segments of a repository name: lower-case letters, digits and . _ - between them, "+
			"as in docker.io, ghcr.io/acme or localhost:5000")
	}
	if len(n.Upstreams) == 0 {
		v.fail(at+".upstream", "is missing; add [[%s.upstream]] with a url", at)
	}
	for i, upstream := range n.Upstreams {
		v.upstream(elementOf(at+".upstream", i), upstream)
	}
	for i, warm := range n.Warm {
		v.warm(elementOf(at+".warm", i), n.Key, warm)
	}
	v.rules(at, n)
	v.notNegative(at+".max_size", int64(n.MaxSize))
	if manifest := v.config.Global.MaxManifestSize; n.MaxSize > 0 && n.MaxSize < SizeLimit(manifest) {
		v.fail(at+".max_size", "must be at least %s: a manifest may be that large (global.max_manifest_size)", manifest)
	}
	v.tagPolicy(at, n.TagTTL, n.TagSWR, n.NegativeTTL, n.MaxStale)
	v.oneOf(at+".authorize", n.Authorize, "mirror", "upstream")
	v.notNegative(at+".auth_check_ttl", int64(n.AuthCheckTTL))
	v.notNegative(at+".auth_stale_grace", int64(n.AuthStaleGrace))
	if n.OnBehalf() {
		v.onBehalf(at, n)
	}
	// Inherited values have been reported at [global].
	if g := v.config.Global; !slices.Equal(n.ImmutableTagsExclusions, g.ImmutableTagsExclusions) {
		v.patterns(at+".immutable_tags_exclusions", n.ImmutableTagsExclusions)
	}
}

// onBehalf checks a block in which the rights of each client decide.
func (v *validator) onBehalf(at string, n Namespace) {
	if n.Offline {
		v.fail(at+".authorize", `"upstream" cannot be combined with offline = true, since the upstream must be asked`)
	}
	// A client's password is for one registry, and must not reach another one.
	if len(n.Upstreams) > 1 {
		v.fail(at+".authorize", `"upstream" works with one upstream only, since the credentials of clients are for one registry. Give each registry a block of its own`)
	}
	for i, u := range n.Upstreams {
		if u.ClientCertificate != "" {
			v.fail(elementOf(at+".upstream", i)+".client_certificate", `cannot be combined with authorize = "upstream": each client would have the rights of the certificate`)
		}
	}
	if n.RecheckPossession != 0 {
		v.fail(at+".recheck_possession", `cannot be combined with authorize = "upstream", which asks the upstream about each client. Set auth_check_ttl`)
	}
}

// minBandwidth is the least limit of bytes per second. Below it clients and proxies take a
// transfer for dead.
const minBandwidth SizeLimit = 64 << 10

func (v *validator) bandwidth(key string, limit SizeLimit) {
	if limit != 0 && limit < minBandwidth {
		v.fail(key, `must be at least %s, in bytes per second; write "" for no limit`, minBandwidth)
	}
}

// maxSegments bounds the connections for one blob. More are those of an attack, for a registry.
const maxSegments = 16

func (v *validator) upstream(at string, u Upstream) {
	if u.URL == (URL{}) {
		v.fail(at+".url", `is missing; write one like "https://registry.example.com"`)
	}
	v.failed(at+".url", u.checkPath())
	_, err := u.ProxyURL()
	v.failed(at+".proxy", err)
	v.together(at, "username", u.Username, "password", u.Password.Reveal())
	v.credentialHelper(at, u)
	if u.TokenRealm != "" && !registryHost.MatchString(strings.ToLower(u.TokenRealm)) {
		v.fail(at+".token_realm", "must be a host name with an optional port, as in auth.docker.io, without https:// and without a path")
	}
	v.pair(at, "client_certificate", u.ClientCertificate, "client_private_key", u.ClientPrivateKey)
	if u.ServerCABundle != "" {
		v.failed(at+".server_ca_bundle", checkBundle(u.ServerCABundle))
	}
	v.notNegative(at+".max_redirect", int64(u.MaxRedirect))
	v.bandwidth(at+".max_bandwidth", u.MaxBandwidth)
	v.notNegative(at+".max_connections", int64(u.MaxConnections))
	if u.Segments < 1 || u.Segments > maxSegments {
		v.fail(at+".segments", "must be between 1, which is one stream for each blob, and %d", maxSegments)
	}
	// Less than a second is too short for a distant registry.
	if u.ConnectTimeout < time.Second {
		v.fail(at+".connect_timeout_secs", "must be at least 1")
	}
	if u.ReadTimeout < time.Second {
		v.fail(at+".read_timeout_secs", "must be at least 1")
	}
}

// credentialHelper checks the program that gives the password of an upstream.
func (v *validator) credentialHelper(at string, u Upstream) {
	if u.CredentialHelper == "" {
		return
	}
	if u.CredentialTTL < Duration(time.Second) {
		v.fail(at+".credential_ttl", `must be at least "1s"`)
	}
	v.failed(at+".credential_helper", credhelper.Check(u.CredentialHelper))
	if u.Username != "" || u.Password != "" {
		v.fail(at+".credential_helper", "provides the password, but username and password are set too; remove one or the other")
	}
}

// together reports a problem if only one of two keys is set, and returns whether
// both are set.
func (v *validator) together(at, nameA, a, nameB, b string) bool {
	switch {
	case a != "" && b == "":
		v.fail(keyIn(at, nameB), "is missing: %s is set, and the two must be set together", nameA)
	case a == "" && b != "":
		v.fail(keyIn(at, nameA), "is missing: %s is set, and the two must be set together", nameB)
	}
	return a != "" && b != ""
}

// ProxyURL returns the URL of the proxy, or nil if the environment decides. It
// returns no error after [Config.Validate]. Errors do not quote the URL, which may
// hold a password.
func (u Upstream) ProxyURL() (*url.URL, error) {
	if u.Proxy == "" {
		return nil, nil //nolint:nilnil // no proxy is an answer
	}
	// These are the schemes that net/http supports.
	parsed, err := url.Parse(u.Proxy.Reveal())
	if err != nil || parsed.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, parsed.Scheme) {
		return nil, errors.New(`must be a URL such as "http://user:password@proxy.example.com:3128" (or https, socks5, socks5h), ` +
			"with every / ? # @ % in the password percent-encoded")
	}
	return parsed, nil
}
