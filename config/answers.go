package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// RestartRequired returns the key paths, in the order of their declaration,
// that differ between two configurations and that a running server cannot
// change. Repositories, the tag policy, max_manifest_size and log.level are
// swapped live; the rest needs a restart.
func RestartRequired(old, new *Config) []string {
	return frozenChanges("", reflect.ValueOf(*old), reflect.ValueOf(*new))
}

func frozenChanges(table string, old, new reflect.Value) []string {
	var changed []string
	for name, field := range keysOf(old.Type()) {
		key := keyIn(table, name)
		a, b := old.FieldByIndex(field.Index), new.FieldByIndex(field.Index)
		if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
			a, b = a.Elem(), b.Elem()
		}
		switch {
		case field.Tag.Get("reload") == "live":
		case a.Kind() == reflect.Struct:
			changed = append(changed, frozenChanges(key, a, b)...)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			changed = append(changed, key)
		}
	}
	return changed
}

// Files returns every file that the configuration was read from, sorted: the
// configuration files, those of secrets, and the certificates that upstreams
// name. A change in any of them is a reason to load again.
func (c *Config) Files() []string {
	files := slices.Clone(c.source.files)
	for _, file := range c.source.secretFiles {
		files = append(files, file)
	}
	for _, r := range c.Repositories {
		for _, u := range r.Upstreams {
			files = append(files, u.ClientCertificate, u.ClientPrivateKey, u.ServerCABundle)
		}
	}
	files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
	slices.Sort(files)
	return slices.Compact(files)
}

// Warnings returns what an operator should know about a valid configuration at
// start.
func (c *Config) Warnings() []string {
	var warnings []string
	if len(c.source.ignored) > 0 {
		warnings = append(warnings, "keys that Weir does not need are ignored: "+c.named(c.source.ignored))
	}
	if len(c.source.optedOut) > 0 {
		warnings = append(warnings, "no repository can opt out of global.immutable_tags = true, so this has no effect: "+c.named(c.source.optedOut))
	}
	if len(c.Repositories) == 0 {
		warnings = append(warnings, "no repository is configured, so every pull is answered with 404")
	}
	if lent := c.lentCredentials(); len(lent) > 0 && !loopback(c.Server.BindAddress) {
		warnings = append(warnings, fmt.Sprintf("the server listens beyond loopback (server.bind_address = %q) and asks nobody who they are: "+
			"everyone who reaches it can read what these credentials can read: %s", c.Server.BindAddress, c.named(lent)))
	}
	return warnings
}

// lentCredentials returns the key paths of the upstreams that Weir presents
// credentials to.
func (c *Config) lentCredentials() []string {
	var keys []string
	for _, r := range c.Repositories {
		for i, u := range r.Upstreams {
			if u.Username != "" || u.ClientCertificate != "" {
				keys = append(keys, elementOf(keyIn("repository", r.Key)+".upstream", i))
			}
		}
	}
	return keys
}

// loopback reports whether only this machine reaches an address.
func loopback(address string) bool {
	ip, err := netip.ParseAddr(address)
	return address == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// named lists keys with their positions.
func (c *Config) named(keys []string) string {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = fmt.Sprintf("%s (%s)", key, c.where(key))
	}
	return strings.Join(texts, ", ")
}

// where names the position of a key for a person.
func (c *Config) where(key string) string {
	if at := c.source.at(key); at.file != "" {
		return at.String()
	}
	return "built in"
}
