package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/internal/hosts"
)

// Warnings returns sentences for the operator about a valid configuration, to be
// logged at the start.
func (c *Config) Warnings() []string {
	var warnings []string
	if len(c.source.ignored) > 0 {
		warnings = append(warnings, "keys that have no effect in a mirror are ignored: "+c.named(c.source.ignored))
	}
	if len(c.source.optedOut) > 0 {
		warnings = append(warnings, "a repository cannot opt out of global.immutable_tags = true. These keys have no effect: "+c.named(c.source.optedOut))
	}
	if len(c.source.passedOver) > 0 {
		warnings = append(warnings, "files without a [repository...], [server] or [blob_store...] table belong to another program and were ignored: "+
			strings.Join(c.source.passedOver, ", "))
	}
	if len(c.source.strange) > 0 {
		warnings = append(warnings, "environment variables that do not name a setting have no effect; lists can only be set in files: "+strings.Join(c.source.strange, ", "))
	}
	warnings = append(warnings, c.olderWarnings()...)
	warnings = append(warnings, c.secretWarnings()...)
	warnings = append(warnings, c.diskWarnings()...)
	warnings = append(warnings, c.capWarnings()...)
	warnings = append(warnings, c.patternWarnings()...)
	warnings = append(warnings, c.mixedWarnings()...)
	warnings = append(warnings, c.openWarnings()...)
	warnings = append(warnings, c.accessWarnings()...)
	if told := c.toldByMetrics(); len(told) > 0 {
		warnings = append(warnings, "every user may read /metrics, whose labels name all blocks and their upstreams, including blocks that not every user may see. "+
			"Add a rule about request.action == 'metrics' to global.access_policy, or set server.admin_address: "+c.named(told))
	}
	for _, at := range c.missingHelpers() {
		warnings = append(warnings, fmt.Sprintf("%s is not a program that Weir can run, so there is no password for this upstream. Install it, or give the absolute path of the program", c.named([]string{at})))
	}
	if c.plainBucket() {
		warnings = append(warnings, "the bucket is accessed over http, so anyone on the network path can read and change its records and content. Use https in "+c.named([]string{"blob_store.s3.endpoint"}))
	}
	if plain := c.plainWebhooks(); len(plain) > 0 {
		warnings = append(warnings, "a webhook is called over http, so anyone on the network path can allow what it denies. Use https in url of: "+c.named(plain))
	}
	if plain := c.plainCredentials(); len(plain) > 0 {
		warnings = append(warnings, "credentials are sent over http, so anyone on the network path to the upstream can read them. Use https in url of: "+c.named(plain))
	}
	return warnings
}

// missingHelpers returns the key paths of the credential helpers that are not in the PATH
// or cannot be run. They may still be installed, so that is not an error.
func (c *Config) missingHelpers() []string {
	var keys []string
	for _, r := range c.Namespaces {
		for i, u := range r.Upstreams {
			if u.CredentialHelper == "" {
				continue
			}
			if _, err := exec.LookPath(credhelper.Program(u.CredentialHelper)); err != nil {
				keys = append(keys, elementOf(keyIn("repository", r.Key)+".upstream", i)+".credential_helper")
			}
		}
	}
	return keys
}

// olderKey is an older spelling that is understood.
type olderKey struct{ key, write string }

// olderWarnings warns about spellings that later versions may not know.
func (c *Config) olderWarnings() []string {
	warnings := make([]string, len(c.source.older))
	for i, older := range c.source.older {
		warnings[i] = fmt.Sprintf("%s is an older spelling. Write %s", c.named([]string{older.key}), older.write)
	}
	return warnings
}

// openWarnings warns about a mirror that serves every client that reaches it.
func (c *Config) openWarnings() []string {
	if !c.Auth.Anonymous || c.Server.TLS.RequiresClient() || !slices.ContainsFunc(c.Namespaces, c.open) || hosts.Loopback(c.Server.BindAddress) {
		return nil
	}
	open := fmt.Sprintf("the server listens beyond loopback (server.bind_address = %q) and does not authenticate its clients. ", c.Server.BindAddress)
	if lent := c.lentCredentials(); len(lent) > 0 {
		return []string{open + "Every client can read everything that these credentials can read: " + c.named(lent)}
	}
	return []string{open + "Every client that can reach it can pull. Set auth.htpasswd, or restrict the clients with a firewall"}
}

// open reports whether no rule decides about requests without credentials to a block.
func (c *Config) open(n Namespace) bool { return len(n.Allow) == 0 && !c.ruled(n) }

// ruled reports whether a policy or a webhook decides about requests to a block.
func (c *Config) ruled(n Namespace) bool {
	locks := func(p *AccessPolicy) bool { return p != nil && (p.Default == PolicyDeny || len(p.Rules) > 0) }
	asked := c.Global.AuthorizationWebhook
	if n.AuthorizationWebhook != nil {
		asked = *n.AuthorizationWebhook
	}
	return asked != "" || locks(c.Global.AccessPolicy) || locks(n.AccessPolicy)
}

// plainCredentials returns the key paths of the upstreams on other machines that receive
// a password without TLS.
func (c *Config) plainCredentials() []string {
	var keys []string
	for _, r := range c.Namespaces {
		for i, u := range r.Upstreams {
			if (u.Username != "" || u.CredentialHelper != "") && u.URL.Std().Scheme == "http" && !hosts.Loopback(u.URL.Std().Hostname()) {
				keys = append(keys, elementOf(keyIn("repository", r.Key)+".upstream", i))
			}
		}
	}
	return keys
}

// lentCredentials returns the key paths of the upstreams that receive credentials and
// whose blocks are open.
func (c *Config) lentCredentials() []string {
	var keys []string
	for _, r := range c.Namespaces {
		for i, u := range r.Upstreams {
			if c.open(r) && u.HasCredentials() && !r.OnBehalf() {
				keys = append(keys, elementOf(keyIn("repository", r.Key)+".upstream", i))
			}
		}
	}
	return keys
}

// mixedWarnings warns about blocks whose upstreams are private and public ones.
func (c *Config) mixedWarnings() []string {
	var warnings []string
	for _, r := range c.Namespaces {
		anonymous := slices.ContainsFunc(r.Upstreams, func(u Upstream) bool { return !u.HasCredentials() })
		if !anonymous || !r.HasCredentials() || len(r.FallbackOn) == 0 {
			continue // a tag means one registry's image
		}
		at := keyIn("repository", r.Key)
		warnings = append(warnings, fmt.Sprintf("%s has upstreams with and without credentials. After these failures of a private upstream, the next one decides which image a tag names, "+
			"even for a name that only the private one should have: %s. Set fallback_on = [], or give the registries blocks of their own",
			c.named([]string{at}), joined(r.FallbackOn)))
	}
	return warnings
}

// joined writes classes for a message.
func joined(classes []Class) string {
	var text strings.Builder
	for i, class := range classes {
		if i > 0 {
			text.WriteString(", ")
		}
		text.WriteString(string(class))
	}
	return text.String()
}

// named writes a list of keys with their positions.
func (c *Config) named(keys []string) string {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = fmt.Sprintf("%s (%s)", key, c.where(key))
	}
	return strings.Join(texts, ", ")
}

// where returns the position of a key, for messages.
func (c *Config) where(key string) string {
	if at := c.source.at(key); at.file != "" {
		return at.String()
	}
	return "built in"
}

// diskWarnings returns warnings about limits that the disk of the store can never
// reach. Neither is an error: one file may serve machines with different disks.
func (c *Config) diskWarnings() []string {
	fs := c.BlobStore.FS
	size, err := diskSize(fs.RootDir)
	if err != nil || size <= 0 {
		return nil // an unusable directory is a problem of its own
	}
	var warnings []string
	if int64(fs.MinFree) >= size {
		warnings = append(warnings, fmt.Sprintf("nothing will be stored: %s is not smaller than the whole disk of %s, which has %s. Lower it",
			c.named([]string{"blob_store.fs.min_free"}), fs.RootDir, Size(size)))
	}
	if int64(fs.MaxSize) > size {
		warnings = append(warnings, fmt.Sprintf("%s is larger than the whole disk of %s, which has %s. Only blob_store.fs.min_free limits the store",
			c.named([]string{"blob_store.fs.max_size"}), fs.RootDir, Size(size)))
	}
	return warnings
}

// capWarnings warns about caps of blocks that add up to more than the store may have: the
// store's limit is reached before all of theirs.
func (c *Config) capWarnings() []string {
	limit, key := c.BlobStore.FS.MaxSize, "blob_store.fs.max_size"
	if c.BlobStore.S3 != nil {
		limit, key = c.BlobStore.S3.MaxSize, "blob_store.s3.max_size"
	}
	var keys []string
	var sum float64 // many large ones exceed an integer
	for _, n := range c.Namespaces {
		if n.MaxSize > 0 {
			keys = append(keys, keyIn("repository", n.Key)+".max_size")
			sum += float64(n.MaxSize)
		}
	}
	if limit <= 0 || sum <= float64(limit) {
		return nil
	}
	return []string{fmt.Sprintf("the blocks' max_size add up to %s, more than %s (%s), so blocks can fill the store before they reach their own limit: %s. Lower them, or raise the limit of the store",
		Size(min(sum, math.MaxInt64/2)), Size(limit), key, c.named(keys))}
}

// diskSize returns the size in bytes of the filesystem of a directory, or of its
// nearest parent that exists.
func diskSize(dir string) (int64, error) {
	at, err := filepath.Abs(dir)
	if err != nil || dir == "" {
		return 0, err
	}
	for {
		size, err := sizeOfDisk(at)
		if err == nil {
			return size, nil
		}
		if parent := filepath.Dir(at); !errors.Is(err, fs.ErrNotExist) || parent == at {
			return 0, err
		}
		at = filepath.Dir(at)
	}
}
