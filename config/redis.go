package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
)

// minSecretKey keeps out keys that can be guessed with what Redis holds.
const minSecretKey = 32

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// errRedisURL does not quote the URL, which may hold a password.
var errRedisURL = errors.New("is not a valid URL; write one like redis://user:password@host:6379/0, " +
	"with every / ? # @ % in the password percent-encoded")

// parseURL fills the other fields from URL. The form is
//
//	redis[s]://[user[:password]@]host[:port][,host[:port]...][/db][?master_name=NAME]
//
// Several hosts are Sentinels if there is a master_name, and nodes of one cluster
// otherwise.
func (r *Redis) parseURL() error {
	raw := r.URL.Reveal()
	if raw == "" {
		return errors.New("is missing; write one like redis://127.0.0.1:6379/0")
	}
	scheme, rest, _ := strings.Cut(raw, "://")
	if scheme != "redis" && scheme != "rediss" {
		return errors.New("must start with redis:// or rediss://")
	}
	// net/url refuses a list of hosts, so they are parsed one by one, and the
	// rest of the URL with a host that stands for them.
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	// The last @ ends the user, as in net/url. Without any, at is 0.
	at := strings.LastIndex(authority, "@") + 1
	shared, err := url.Parse(scheme + "://" + authority[:at] + "host" + tail)
	if err != nil || shared.Fragment != "" {
		return errRedisURL
	}
	parsed := *r // the other keys stay
	parsed.Addrs, parsed.DB, parsed.MasterName = nil, 0, ""
	parsed.TLS, parsed.Username = scheme == "rediss", shared.User.Username()
	password, _ := shared.User.Password()
	parsed.Password = Secret(password)
	if err := parsed.parseQuery(shared.RawQuery); err != nil {
		return err
	}
	if err := parsed.parseDB(shared.Path); err != nil {
		return err
	}
	for host := range strings.SplitSeq(authority[at:], ",") {
		addr, err := parsed.address(host)
		if err != nil {
			return err
		}
		parsed.Addrs = append(parsed.Addrs, addr)
	}
	if len(parsed.Addrs) > 1 && parsed.MasterName == "" && parsed.DB != 0 {
		return errors.New("several addresses without ?master_name=NAME are a cluster, and a cluster has database 0 only")
	}
	*r = parsed // only now, so that a URL with an error changes nothing
	return nil
}

func (r *Redis) parseQuery(raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return errRedisURL
	}
	for name, values := range query {
		if name != "master_name" || len(values) != 1 || values[0] == "" {
			return errors.New("the only query option is ?master_name=NAME, for Sentinel")
		}
		r.MasterName = values[0]
	}
	return nil
}

func (r *Redis) parseDB(path string) error {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	db, err := strconv.ParseUint(path, 10, 31)
	if err != nil {
		return errors.New("the path must be the number of a database, as in redis://host:6379/0")
	}
	r.DB = int(db)
	return nil
}

func (r *Redis) address(host string) (string, error) {
	parsed, err := url.Parse("redis://" + host)
	if err != nil || parsed.Host != host {
		return "", errRedisURL
	}
	name, port := parsed.Hostname(), parsed.Port()
	// A zone such as fe80::1%eth0 has a meaning on one machine only.
	if _, err := netip.ParseAddr(name); (err != nil || strings.Contains(name, "%")) && !hostName.MatchString(name) {
		return "", errors.New("each address must be a host name or an IP address, with an optional port")
	}
	defaultPort := "6379"
	if r.MasterName != "" {
		defaultPort = "26379" // of Sentinels
	}
	port = cmp.Or(port, defaultPort)
	if !hosts.ValidPort(port) {
		return "", fmt.Errorf("port %s is not between 1 and 65535", port)
	}
	return net.JoinHostPort(name, port), nil
}

// redis checks the table [cache.redis], if there is one.
func (v *validator) redis() {
	if v.config.Cache.Redis == nil {
		return
	}
	const at = "cache.redis"
	redis := *v.config.Cache.Redis // a copy: Validate changes nothing
	if err := redis.parseURL(); err != nil {
		v.failed(at+".url", err)
		return // further problems may follow from this one
	}
	if n := len(redis.SecretKey); n > 0 && n < minSecretKey {
		v.fail(at+".secret_key", "must have at least %d characters; make one with: openssl rand -hex 32", minSecretKey)
	}
	v.sentinels(at, redis)
	v.pair(at, "client_certificate", redis.ClientCertificate, "client_private_key", redis.ClientPrivateKey)
	if redis.ServerCABundle != "" {
		v.failed(at+".server_ca_bundle", checkBundle(redis.ServerCABundle))
	}
	// Without TLS the operator would believe in a protection that does not exist.
	if !redis.TLS {
		const remedy = "has no effect without TLS; start cache.redis.url with rediss://"
		v.unset(at+".client_certificate", redis.ClientCertificate, remedy)
		v.unset(at+".client_private_key", redis.ClientPrivateKey, remedy)
		v.unset(at+".server_ca_bundle", redis.ServerCABundle, remedy)
	}
}

// unset reports a problem if a key has a value.
func (v *validator) unset(key, value, problem string) {
	if value != "" {
		v.fail(key, "%s", problem)
	}
}

// sentinels checks the account at the Sentinels. A password alone is that of the
// default user (requirepass).
func (v *validator) sentinels(at string, r Redis) {
	if r.SentinelUsername != "" && r.SentinelPassword == "" {
		v.fail(at+".sentinel_password", "is missing: sentinel_username is set, and the two must be set together")
	}
	if r.MasterName == "" {
		const remedy = "is for Sentinels only; end cache.redis.url with ?master_name=NAME, or put the account of Redis itself into that URL"
		v.unset(at+".sentinel_username", r.SentinelUsername, remedy)
		v.unset(at+".sentinel_password", r.SentinelPassword.Reveal(), remedy)
	}
}

// redactedURL returns a URL with the same fields except the password.
func (r *Redis) redactedURL() string {
	if len(r.Addrs) == 0 { // the URL was not parsed, so its password cannot be found
		return r.URL.String()
	}
	u := url.URL{Scheme: "redis", Host: strings.Join(r.Addrs, ","), Path: "/" + strconv.Itoa(r.DB)}
	if r.TLS {
		u.Scheme = "rediss"
	}
	switch {
	case r.Password != "":
		u.User = url.UserPassword(r.Username, "redacted")
	case r.Username != "":
		u.User = url.User(r.Username)
	}
	if r.MasterName != "" {
		u.RawQuery = url.Values{"master_name": {r.MasterName}}.Encode()
	}
	return u.String()
}
