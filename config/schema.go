package config

import (
	"encoding"
	"errors"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
)

// fileSuffix ends the key that names the file of a secret: password_file.
const fileSuffix = "_file"

// keysOf yields the keys of a table in the order of their declaration, each
// with its field. The struct tags are the schema.
func keysOf(t reflect.Type) iter.Seq2[string, reflect.StructField] {
	return func(yield func(string, reflect.StructField) bool) {
		for field := range t.Fields() {
			if name := field.Tag.Get("toml"); name != "" && !yield(name, field) {
				return
			}
		}
	}
}

// isTable reports whether a type is a table, and not a value with a textual form
// such as a [URL].
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// isOptionalTable reports whether a type is a table that may be absent, such as *[Redis].
func isOptionalTable(t reflect.Type) bool { return t.Kind() == reflect.Pointer && isTable(t.Elem()) }

// isNamed reports whether a type holds tables by name, such as repository blocks: a slice
// of tables whose field Key is the name.
func isNamed(t reflect.Type) bool {
	if t.Kind() != reflect.Slice || !isTable(t.Elem()) {
		return false
	}
	_, ok := t.Elem().FieldByName("Key")
	return ok
}

func isSecret(field reflect.StructField) bool { return field.Type == reflect.TypeFor[Secret]() }

// knownKeys returns all keys that a table may have, with those for files of secrets.
func knownKeys(t reflect.Type) []string {
	var names []string
	for name, field := range keysOf(t) {
		names = append(names, name)
		if isSecret(field) {
			names = append(names, name+fileSuffix)
		}
	}
	return names
}

// allKeys returns the generic key path of every setting: repository names are
// an asterisk, array indices are left out.
func allKeys(t reflect.Type, parent string) []string {
	var keys []string
	for name, field := range keysOf(t) {
		key := strings.TrimPrefix(parent+"."+name, ".")
		switch field.Type {
		case reflect.TypeFor[[]Upstream]():
			keys = append(keys, allKeys(reflect.TypeFor[Upstream](), key)...)
		case reflect.TypeFor[[]Warm]():
			keys = append(keys, allKeys(reflect.TypeFor[Warm](), key)...)
		default:
			switch {
			case isOptionalTable(field.Type):
				keys = append(keys, allKeys(field.Type.Elem(), key)...)
			case isNamed(field.Type):
				keys = append(keys, allKeys(field.Type.Elem(), key+".*")...)
			case isTable(field.Type):
				keys = append(keys, allKeys(field.Type, key)...)
			default:
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// unknownKeyError is the error for a key that a table cannot hold. The key may be
// another one's, misspelt.
type unknownKeyError string

func (e unknownKeyError) Error() string { return string(e) }

// errUnquotedKey returns the error for the key of a block that lacks its quotation marks, so that
// the parts of a host became tables: [repository.docker.io]. It is nil for another unknown key.
func errUnquotedKey(p place, n *node, t reflect.Type, name string) error {
	for _, known := range knownKeys(t) {
		if len(name) > 4 && levenshtein.Distance(name, known, nil) <= 2 { // a misspelt table
			return nil
		}
	}
	host, ok := strings.CutPrefix(p.key, "repository.")
	below, isTable := n.value.(table)
	if !ok || !isTable || strings.Count(p.generic, ".") != 2 || strings.ContainsRune(host, '"') {
		return nil
	}
	for len(below) == 1 { // the parts that are left
		name := slices.Collect(maps.Keys(below))[0]
		inner, isTable := below[name].value.(table)
		if !isTable {
			break
		}
		host, below = host+"."+name, inner
	}
	return unknownKeyError("unknown key; write the name of a registry in quotation marks: [repository." + strconv.Quote(host) + "]")
}

// errUnknownKey returns the error for a key that a table of type t, at the generic path parent, cannot
// hold.
func errUnknownKey(t reflect.Type, parent, name string) error {
	known := knownKeys(t)
	distance := func(candidate string) int { return levenshtein.Distance(name, candidate, nil) }
	nearest := slices.MinFunc(known, func(a, b string) int { return distance(a) - distance(b) })
	// Two wrong letters, or a third of a long name, is still a typo.
	if distance(nearest) <= max(2, len(name)/3) {
		return unknownKeyError(`unknown key; did you mean "` + nearest + `"?`)
	}
	// The key may be known in another table: in the one with the longest common path.
	elsewhere, shared := "", -1
	for _, key := range allKeys(reflect.TypeFor[Config](), "") {
		if n := commonPath(parent, key); strings.HasSuffix(key, "."+name) && n > shared {
			elsewhere, shared = key, n
		}
	}
	if shared <= 0 { // in a table that has nothing to do with this one
		// It may be a part of a name here, such as "certificate" of "server_certificate_bundle".
		part := func(key string) bool { return strings.Contains("_"+key+"_", "_"+name+"_") }
		if i := slices.IndexFunc(known, part); i >= 0 {
			return unknownKeyError(`unknown key; did you mean "` + known[i] + `"?`)
		}
	}
	if elsewhere != "" {
		return unknownKeyError("unknown key; did you mean " + elsewhere + "?")
	}
	// Or it may be a table that belongs into another one.
	for _, key := range allKeys(reflect.TypeFor[Config](), "") {
		if at := strings.Index("."+key, "."+name+"."); at >= 0 {
			return unknownKeyError("unknown key; did you mean [" + strings.ReplaceAll(key[:at+len(name)], "*", "NAME") + "]?")
		}
	}
	return unknownKeyError("unknown key; known here are " + strings.Join(known, ", "))
}

// commonPath returns how many tables two paths share at their beginning.
func commonPath(a, b string) (n int) {
	parts, others := strings.Split(a, "."), strings.Split(b, ".")
	for n < len(parts) && n < len(others) && parts[n] == others[n] {
		n++
	}
	return n
}

// errProtects is the error for a key that restricts access. If Weir ignored it, the
// operator would believe in a protection that does not exist.
var errProtects = errors.New("not available in this version of Weir; remove it " +
	"(it restricts access: ignoring it would grant that access to everyone)")

// verdict is the treatment of a key that Weir does not have.
type verdict int

const (
	unknown verdict = iota
	ignored         // accepted with a warning
	refused         // an error that says why
)

// judgeUnknownKey returns the verdict on a key that Weir does not have, by its
// generic path. Keys of Angos that change nothing for a mirror are ignored. Keys
// that restrict access, or need a feature that this version lacks, are refused.
func judgeUnknownKey(generic string) (verdict, error) {
	switch generic {
	case "server.handshake_timeout",
		"global.update_pull_time",
		"global.enable_manifest_redirect", "global.allow_missing_manifest_references",
		"global.namespace_walk_concurrency", "global.gc_grace_secs", "global.atime_audit_window_secs",
		"global.max_concurrent_replication_jobs", "global.event_webhooks",
		"global.job_queue", "global.retention_policy",
		"blob_store.s3.multipart_copy_threshold", "blob_store.s3.multipart_copy_chunk_size", "blob_store.s3.multipart_copy_jobs",
		"blob_store.s3.multipart_uniform_parts", "blob_store.s3.circuit_breaker_threshold", "blob_store.s3.circuit_breaker_cooldown_secs",
		"blob_store.s3.children_scan_concurrency",
		"metadata_store", "event_webhook",
		"repository.*.event_webhooks", "repository.*.retention_policy":
		return ignored, nil
	}
	if strings.HasPrefix(generic, "server.query_timeout") {
		return ignored, nil
	}
	// Of observability Weir has the table tracing only; a key below that is a typo.
	if name, below := strings.CutPrefix(generic, "observability."); below && !strings.Contains(name, ".") {
		return ignored, nil
	}
	for _, scope := range []string{"", "global.", "repository.*."} {
		switch generic {
		case scope + "auth", scope + "downstream":
			return refused, errProtects
		}
	}
	return unknown, nil
}
