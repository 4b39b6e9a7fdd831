package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/dlclark/regexp2"

	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/internal/whoami"
)

// Validate checks the values of the configuration. It returns a [Problems], or nil.
// It reads the certificates and inspects the storage directory, but creates
// nothing.
func (c *Config) Validate() error {
	problems := c.validate()
	if err := writable(c.BlobStore.FS.RootDir); err != nil {
		problems = append(problems, c.problemAt("blob_store.fs.root_dir", "%w", err))
	}
	if dir := c.UI.EditDir; dir != "" {
		if err := checkEditDir(dir); err != nil {
			problems = append(problems, c.problemAt("ui.edit_dir", "%w", err))
		}
	}
	return problems.sorted(c.source.files).err()
}

// ValidateAway is [Config.Validate] without a look at the storage directory, for
// commands that another user or another machine may run.
func (c *Config) ValidateAway() error { return c.validate().sorted(c.source.files).err() }

// validator collects problems.
type validator struct {
	config   *Config
	problems Problems
}

func (v *validator) fail(key, format string, args ...any) {
	v.problems = append(v.problems, v.config.problemAt(key, format, args...))
}

// failed adds err, if there is one.
func (v *validator) failed(key string, err error) {
	if err != nil {
		v.fail(key, "%w", err)
	}
}

func (c *Config) validate() Problems {
	v := &validator{config: c}
	v.server()
	v.tls()
	v.global()
	v.store()
	v.s3()
	v.redis()
	v.cluster()
	v.tracing()
	v.auth()
	v.namespaces()
	return v.problems
}

// maxNameOfPages bounds the name in the title of each page.
const maxNameOfPages = 64

func (v *validator) server() {
	s, l := v.config.Server, v.config.Log
	// The empty address is every interface.
	if _, err := netip.ParseAddr(s.BindAddress); err != nil && s.BindAddress != "" && !hostName.MatchString(s.BindAddress) {
		v.fail("server.bind_address", `must be an IP address or a host name, such as "0.0.0.0" or "::1"; the port goes into server.port`)
	}
	if s.Port < 0 || s.Port > 65535 {
		v.fail("server.port", "must be between 0 and 65535, not %d", s.Port)
	}
	if s.AdminAddress != "" {
		v.failed("server.admin_address", v.config.checkAdminAddress())
	}
	if name := v.config.UI.Name; name == "" || len(name) > maxNameOfPages || strings.ContainsFunc(name, unicode.IsControl) {
		v.fail("ui.name", "must be a name of 1 to %d bytes without control characters", maxNameOfPages)
	}
	v.oneOf("log.level", l.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", l.Format, "auto", "text", "json")
}

// checkAdminAddress returns an error unless the address is one to listen on in addition to the other
// listeners.
func (c *Config) checkAdminAddress() error {
	host, port, err := net.SplitHostPort(c.Server.AdminAddress)
	number, notNumber := strconv.ParseUint(port, 10, 16)
	_, notAddress := netip.ParseAddr(host)
	if err != nil || notNumber != nil || host != "" && notAddress != nil && !hostName.MatchString(host) {
		return errors.New(`must be an address and a port, such as "127.0.0.1:9000" or ":9000"`)
	}
	// All other listeners have the address of server.bind_address.
	if bind := c.Server.BindAddress; number == 0 || host != bind && !hosts.Unspecified(host) && !hosts.Unspecified(bind) {
		return nil
	}
	acme := c.Server.TLS != nil && c.Server.TLS.ACME != nil && c.Server.TLS.ACME.Challenge == ChallengeHTTP
	switch {
	case int(number) == c.Server.Port:
		return errors.New("is the address for clients; choose another port")
	case c.Cluster != nil && int(number) == c.Cluster.PeerPort:
		return errors.New("has the port for other replicas (cluster.peer_port); choose another one")
	case acme && int(number) == c.Server.TLS.ACME.HTTPPort:
		return errors.New("has the port for http-01 (server.tls.acme.http_port); choose another one")
	}
	return nil
}

func (v *validator) global() {
	g := v.config.Global
	v.policy("global.access_policy", g.AccessPolicy)
	v.webhookName("global.authorization_webhook", g.AuthorizationWebhook)
	v.notNegative("global.max_concurrent_requests", int64(g.MaxConcurrentRequests))
	v.atLeastOne("global.max_concurrent_cache_jobs", g.MaxConcurrentCacheJobs)
	v.atLeastOne("global.max_concurrent_fetches", g.MaxConcurrentFetches)
	if g.MaxManifestSize <= 0 {
		v.fail("global.max_manifest_size", "must be larger than 0")
	}
	v.bandwidth("global.max_bandwidth", g.MaxBandwidth)
	v.notNegative("global.max_blob_size", int64(g.MaxBlobSize))
	v.notNegative("global.shutdown_drain_secs", int64(g.ShutdownDrain))
	v.tagPolicy("global", g.TagTTL, g.TagSWR, g.NegativeTTL, g.MaxStale)
	v.patterns("global.immutable_tags_exclusions", g.ImmutableTagsExclusions)
}

func (v *validator) store() {
	fs, manifest := v.config.BlobStore.FS, v.config.Global.MaxManifestSize
	if fs.MaxSize != NothingKept {
		v.notNegative("blob_store.fs.max_size", int64(fs.MaxSize))
	}
	// Such a store could never take the largest manifest.
	if fs.MaxSize > 0 && fs.MaxSize < SizeLimit(manifest) {
		v.fail("blob_store.fs.max_size", "must be at least %s: a manifest may be that large (global.max_manifest_size)", manifest)
	}
	v.notNegative("blob_store.fs.min_free", int64(fs.MinFree))
	v.notNegative("blob_store.fs.max_unused", int64(fs.MaxUnused))
}

func (v *validator) tagPolicy(table string, tagTTL, tagSWR, negativeTTL, maxStale Duration) {
	v.notNegative(keyIn(table, "tag_ttl"), int64(tagTTL))
	v.notNegative(keyIn(table, "tag_swr"), int64(tagSWR))
	v.notNegative(keyIn(table, "negative_ttl"), int64(negativeTTL))
	v.notNegative(keyIn(table, "max_stale"), int64(maxStale))
}

// patterns checks that patterns compile, in the syntax of regexp2.
func (v *validator) patterns(key string, patterns []string) {
	for i, pattern := range patterns {
		if _, err := regexp2.Compile(pattern, regexp2.None); err != nil {
			v.fail(elementOf(key, i), "is not a regular expression: %w", err)
		}
	}
}

func (v *validator) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.failed(key, errNotOneOf(value, allowed))
	}
}

func (v *validator) atLeastOne(key string, n int) {
	if n < 1 {
		v.fail(key, "must be at least 1, not %d", n)
	}
}

func (v *validator) notNegative(key string, n int64) {
	if n < 0 {
		v.fail(key, "must not be negative")
	}
}

// writable returns an error unless dir is a writable directory or can be created:
// then its nearest existing parent is a writable directory.
func writable(dir string) error {
	if dir == "" {
		return errors.New("is missing; name a directory")
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("cannot be made absolute: %w", err)
	}
	for at := absolute; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at):
			continue // the parent may exist, up to the root
		case err != nil:
			return fmt.Errorf("cannot be used: %w", whoami.Explain(err))
		case !info.IsDir():
			return fmt.Errorf("cannot be used: %s is not a directory", at)
		}
		// Permission bits would be wrong for root, ACLs and read-only mounts.
		if err := mayWrite(at); err != nil {
			return fmt.Errorf("cannot be written by %s: %s: %w", whoami.User(), at, err)
		}
		return nil
	}
}
