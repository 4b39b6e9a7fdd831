package config

import (
	"fmt"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
)

// Warnings returns sentences for the operator about a valid configuration, to be
// logged at the start.
func (c *Config) Warnings() []string {
	var warnings []string
	if len(c.source.ignored) > 0 {
		warnings = append(warnings, "keys that change nothing for a mirror are ignored: "+c.named(c.source.ignored))
	}
	if len(c.source.optedOut) > 0 {
		warnings = append(warnings, "a repository cannot opt out of global.immutable_tags = true. These keys have no effect: "+c.named(c.source.optedOut))
	}
	if len(c.Namespaces) == 0 {
		warnings = append(warnings, "no repository is configured, so the answer to every pull is 404")
	}
	if lent := c.lentCredentials(); len(lent) > 0 && !hosts.Loopback(c.Server.BindAddress) {
		warnings = append(warnings, fmt.Sprintf("the server listens beyond loopback (server.bind_address = %q) and does not authenticate its clients. "+
			"Every client can read all that these credentials can read: %s", c.Server.BindAddress, c.named(lent)))
	}
	return warnings
}

// lentCredentials returns the key paths of the upstreams that receive credentials.
func (c *Config) lentCredentials() []string {
	var keys []string
	for _, r := range c.Namespaces {
		for i, u := range r.Upstreams {
			if u.Username != "" || u.ClientCertificate != "" {
				keys = append(keys, elementOf(keyIn("repository", r.Key)+".upstream", i))
			}
		}
	}
	return keys
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
