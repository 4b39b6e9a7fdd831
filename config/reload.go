package config

import (
	"reflect"
	"slices"
)

// RestartRequired returns the key paths, in the order of their declaration,
// that differ between two configurations and that a running server cannot
// change. Namespaces, the tag policy, max_manifest_size and log.level are
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
	for _, r := range c.Namespaces {
		for _, u := range r.Upstreams {
			files = append(files, u.ClientCertificate, u.ClientPrivateKey, u.ServerCABundle)
		}
	}
	files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
	slices.Sort(files)
	return slices.Compact(files)
}
