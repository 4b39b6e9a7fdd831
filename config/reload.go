package config

import (
	"reflect"
	"slices"
	"strings"
)

// RestartRequired returns the key paths that differ between two configurations and
// that a running server cannot change, in the order of their declaration.
// Namespaces, access rules, trusted proxies, the tag policy, max_manifest_size, max_blob_size, Redis and log.level are swapped live.
func RestartRequired(old, new *Config) []string {
	return frozenChanges("", reflect.ValueOf(*old), reflect.ValueOf(*new))
}

func frozenChanges(table string, old, new reflect.Value) []string {
	var changed []string
	for name, field := range keysOf(old.Type()) {
		key := keyIn(table, name)
		a, b := old.FieldByIndex(field.Index), new.FieldByIndex(field.Index)
		// Two tables are compared key by key. If only one of them exists, the
		// table itself has changed.
		if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
			a, b = a.Elem(), b.Elem()
		}
		switch {
		// All keys of a live table are live.
		case field.Tag.Get("reload") == "live":
		case a.Kind() == reflect.Struct:
			changed = append(changed, frozenChanges(key, a, b)...)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			changed = append(changed, key)
		}
	}
	return changed
}

// Sources returns the configuration files that were read, in the order of merging,
// or the words for none.
func (c *Config) Sources() string {
	if len(c.source.files) == 0 {
		return "built-in default"
	}
	return strings.Join(c.source.files, ", ")
}

// Overrides returns the flags and the variables whose values are in force in place of
// those of files, by name and sorted, such as --listen and WEIR_LOG_LEVEL.
func (c *Config) Overrides() []string {
	names := []string{}
	for _, at := range c.source.positions {
		// The built-in repository blocks have no origin.
		if at.file != "" && !slices.Contains(c.source.files, at.file) {
			names = append(names, at.file)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Files returns the files that the configuration depends on, sorted: the
// configuration files, the files of secrets and of users, and the certificates of the server, of
// upstreams, of webhooks and of Redis. If one of them changes, the configuration must be loaded again.
func (c *Config) Files() []string {
	files := slices.Clone(c.source.files)
	for _, file := range c.source.secretFiles {
		files = append(files, file)
	}
	files = append(files, c.Auth.Htpasswd)
	for _, o := range c.Auth.OIDC {
		files = append(files, o.ClientCertificateBundle, o.ClientPrivateKey, o.ServerCABundle)
	}
	for _, r := range c.Namespaces {
		for _, u := range r.Upstreams {
			files = append(files, u.ClientCertificate, u.ClientPrivateKey, u.ServerCABundle)
		}
	}
	if t := c.Server.TLS; t != nil {
		files = append(files, t.ServerCertificateBundle, t.ServerPrivateKey, t.ClientCABundle)
		if t.ACME != nil {
			files = append(files, t.ACME.CABundle)
		}
	}
	for _, w := range c.Auth.Webhooks {
		files = append(files, w.ClientCertificate, w.ClientPrivateKey, w.ServerCABundle)
	}
	if r := c.Cache.Redis; r != nil {
		files = append(files, r.ClientCertificate, r.ClientPrivateKey, r.ServerCABundle)
	}
	files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
	slices.Sort(files)
	return slices.Compact(files)
}

// Documents returns the configuration files in the order of merging.
func (c *Config) Documents() []string { return slices.Clone(c.source.files) }

// HasRepositories reports whether the files have a repository block, apart from those that pages have
// written. If not, the built-in ones are in force.
func (c *Config) HasRepositories() bool {
	for key, at := range c.source.positions {
		if strings.HasPrefix(key, "repository.") && at.file != "" && !slices.Contains(c.source.written, at.file) { // the built-in ones are in no file
			return true
		}
	}
	return false
}
