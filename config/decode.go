package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// place is the path of a value in the configuration.
type place struct {
	key     string // key path: repository."ghcr.io".upstream[0].url
	generic string // without keys of blocks and indices: repository.*.upstream.url
}

func (p place) in(name string) place {
	return place{keyIn(p.key, name), strings.TrimPrefix(p.generic+"."+name, ".")}
}

func (p place) element(i int) place { return place{elementOf(p.key, i), p.generic} }

// decoder fills a Config from a tree. It continues after a problem, so that one
// report has all problems.
type decoder struct {
	config   *Config
	problems Problems
}

// decode returns the configuration of a tree, and its problems. A value with a
// problem keeps its default.
func decode(root *node) (*Config, Problems) {
	d := decoder{config: base()}
	d.config.source = source{positions: map[string]position{}, secretFiles: map[string]string{}, oddSecrets: map[string]string{}}
	root = d.placePolicy(d.placeOlder(root))
	keepsNothing := takeNothingKept(root)
	d.table(place{}, root, reflect.ValueOf(d.config).Elem())
	d.tierDefaults(keepsNothing)
	// Requests without credentials are refused if there is a way to identify clients,
	// unless policies decide about them.
	if _, isSet := d.config.source.positions["auth.anonymous"]; !isSet {
		d.config.Auth.Anonymous = !d.config.Auth.identifies() || d.config.policyDecides()
	}
	return d.config, d.problems
}

func (d *decoder) fail(p place, n *node, err error) {
	d.problems = append(d.problems, &Problem{File: n.file, Line: n.line, Key: p.key, Err: err})
}

func (d *decoder) failKind(p place, n *node, wanted string) {
	d.fail(p, n, fmt.Errorf("must be %s, not %s", wanted, kindOf(n)))
}

// table decodes a table into a struct.
func (d *decoder) table(p place, n *node, dst reflect.Value) {
	d.config.source.positions[p.key] = n.position
	t, ok := n.value.(table)
	if !ok {
		d.failKind(p, n, "a table")
		return
	}
	// The fields are decoded in their order, so that repositories can inherit
	// values of global, which stands before them.
	known := map[string]bool{}
	for name, field := range keysOf(dst.Type()) {
		known[name] = true
		value := dst.FieldByIndex(field.Index)
		if isSecret(field) { // a secret has a second key, for its file
			known[name+fileSuffix] = true
			d.secret(p.in(name), t[name], p.in(name+fileSuffix), t[name+fileSuffix], value.Addr().Interface().(*Secret))
		} else if n, ok := t[name]; ok {
			d.config.source.positions[p.in(name).key] = n.position
			d.value(p.in(name), n, value)
		}
	}
	// Sorted, since the order of a map would change the report from run to run.
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if !known[name] {
			d.unknownKey(p.in(name), t[name], dst.Type(), name)
		}
	}
}

// unknownKey handles a key that a table of type t does not have.
func (d *decoder) unknownKey(p place, n *node, t reflect.Type, name string) {
	switch verdict, err := judgeUnknownKey(p.generic); verdict {
	case refused:
		d.fail(p, n, err)
	case ignored:
		d.config.source.positions[p.key] = n.position
		d.config.source.ignored = append(d.config.source.ignored, p.key)
	case unknown:
		if err := errUnquotedKey(p, n, t, name); err != nil {
			d.fail(p, n, err)
			return
		}
		d.fail(p, n, errUnknownKey(t, strings.TrimSuffix(p.generic, "."+name), name))
	}
}

// value decodes one value into a field.
func (d *decoder) value(p place, n *node, dst reflect.Value) {
	switch field := dst.Addr().Interface().(type) {
	case *string:
		if s, ok := d.text(p, n); ok {
			*field = s
		}
	case *bool:
		if b, ok := n.value.(bool); ok {
			*field = b
		} else {
			d.failKind(p, n, "true or false")
		}
	case *int:
		if i, ok := d.integer(p, n); ok {
			*field = int(i)
		}
	case **float64:
		d.fraction(p, n, field)
	case *time.Duration:
		d.seconds(p, n, field)
	case *[]string:
		decodeTexts(d, p, n, field, func(s string, dst *string) error { *dst = s; return nil })
	case *[]Image:
		decodeTexts(d, p, n, field, func(s string, dst *Image) error { return dst.UnmarshalText([]byte(s)) })
	case *[]Class:
		decodeTexts(d, p, n, field, func(s string, dst *Class) error { return dst.UnmarshalText([]byte(s)) })
	case *[]Network:
		decodeTexts(d, p, n, field, func(s string, dst *Network) error { return dst.UnmarshalText([]byte(s)) })
	case *[]Platform:
		decodeTexts(d, p, n, field, func(s string, dst *Platform) error { return dst.UnmarshalText([]byte(s)) })
	case **string:
		if s, ok := d.text(p, n); ok {
			*field = &s
		}
	case **Redis:
		d.redis(p, n, field)
	case *[]Namespace:
		d.namespaces(p, n, field)
	case *[]Upstream:
		tables(d, p, n, newUpstream, field)
	case *[]Warm:
		tables(d, p, n, newWarm, field)
	case encoding.TextUnmarshaler:
		if s, ok := d.text(p, n); ok {
			if err := field.UnmarshalText([]byte(s)); err != nil {
				d.fail(p, n, err)
			}
		}
	default:
		d.protection(p, n, dst)
	}
}

// protection decodes one value into a field that has to do with storage, TLS or access, or
// into any other table.
func (d *decoder) protection(p place, n *node, dst reflect.Value) {
	switch field := dst.Addr().Interface().(type) {
	case *SyncToDisk:
		d.syncToDisk(p, n, field)
	case **S3:
		d.s3(p, n, field)
	case **Cluster:
		d.cluster(p, n, field)
	case **TLS:
		*field = newTLS()
		d.table(p, n, reflect.ValueOf(*field).Elem())
	case **ACME:
		*field = newACME()
		d.table(p, n, reflect.ValueOf(*field).Elem())
	case **ACMEDNS:
		*field = newACMEDNS()
		d.table(p, n, reflect.ValueOf(*field).Elem())
	case *Groups:
		d.groups(p, n, field)
	case *[]AuthIdentity:
		named(d, p, n, newIdentity, field)
	case *[]OIDC:
		d.oidc(p, n, field)
	case **TokenService:
		d.tokenService(p, n, field)
	case *[]Webhook:
		named(d, p, n, newWebhook, field)
	case **AccessPolicy:
		d.accessPolicy(p, n, field)
	default:
		d.table(p, n, dst)
	}
}

func (d *decoder) syncToDisk(p place, n *node, dst *SyncToDisk) {
	switch n.value {
	case true:
		*dst = SyncBehind
	case false:
		*dst = SyncNever
	case string(SyncAlways):
		*dst = SyncAlways
	default:
		d.fail(p, n, errors.New(`must be true, false or "always"`))
	}
}

func (d *decoder) text(p place, n *node) (string, bool) {
	s, ok := n.value.(string)
	if !ok {
		d.failKind(p, n, "a string")
		return "", false
	}
	expanded, err := expand(s)
	if err != nil {
		d.fail(p, n, err)
		return "", false
	}
	return expanded, true
}

// decodeTexts decodes an array of strings, each by parse.
func decodeTexts[T any](d *decoder, p place, n *node, dst *[]T, parse func(string, *T) error) {
	elements, ok := n.value.([]*node)
	if !ok {
		d.failKind(p, n, "an array of strings")
		return
	}
	// An element with a problem leaves its zero value, so that the elements
	// after it keep their indices in further problems.
	values := make([]T, 0, len(elements)) // an empty list is not a missing one
	for i, element := range elements {
		var value T
		at := p.element(i)
		d.config.source.positions[at.key] = element.position
		if s, ok := d.text(at, element); ok {
			if err := parse(s, &value); err != nil {
				d.fail(at, element, err)
			}
		}
		values = append(values, value)
	}
	*dst = values
}

func (d *decoder) integer(p place, n *node) (int64, bool) {
	i, ok := n.value.(int64)
	if !ok {
		d.failKind(p, n, "a whole number")
	}
	return i, ok
}

func (d *decoder) fraction(p place, n *node, dst **float64) {
	switch value := n.value.(type) {
	case float64:
		*dst = &value
	case int64: // TOML distinguishes 1 from 1.0, and operators do not
		fraction := float64(value)
		*dst = &fraction
	default:
		d.failKind(p, n, "a number")
	}
}

func (d *decoder) seconds(p place, n *node, dst *time.Duration) {
	i, ok := d.integer(p, n)
	switch {
	case !ok: // integer has reported it
	case i < 0:
		d.fail(p, n, fmt.Errorf("%d seconds are negative", i))
	case i > int64(math.MaxInt64/time.Second): // the product below would overflow
		d.fail(p, n, fmt.Errorf("%d seconds are too long", i))
	default:
		*dst = time.Duration(i) * time.Second
	}
}

// secret decodes a secret, which is in the configuration itself or in the file that
// the second key names. Either node may be nil. An empty string counts as not set.
func (d *decoder) secret(p place, direct *node, filePlace place, fileNode *node, dst *Secret) {
	var inline, file string
	if direct != nil {
		d.config.source.positions[p.key] = direct.position
		inline, _ = d.text(p, direct) // "" after a problem, which d has
	}
	if fileNode != nil {
		d.config.source.positions[filePlace.key] = fileNode.position
		file, _ = d.text(filePlace, fileNode) // likewise
	}
	*dst = Secret(inline)
	switch {
	case file == "": // the secret is inline, or not set at all
	case inline != "":
		d.fail(filePlace, fileNode, fmt.Errorf("%s is also set (%s); set only one of the two", p.key, direct.position))
	default:
		secret, err := readSecret(file)
		if err != nil {
			d.fail(filePlace, fileNode, err)
			return
		}
		*dst = Secret(secret)
		// Further problems of the secret point at the key that names its file.
		d.config.source.positions[p.key] = fileNode.position
		d.config.source.secretFiles[p.key] = file
		if reason := oddity(secret); reason != "" {
			d.config.source.oddSecrets[p.key] = reason
		}
	}
}

func (d *decoder) redis(p place, n *node, dst **Redis) {
	redis := newRedis()
	before := len(d.problems)
	d.table(p, n, reflect.ValueOf(redis).Elem())
	*dst = redis
	// If the URL itself could not be decoded, it would seem to be missing.
	if len(d.problems) > before {
		return
	}
	if err := redis.parseURL(); err != nil {
		at := d.config.source.at(p.in("url").key)
		d.fail(p.in("url"), &node{position: at}, err)
	}
}

func (d *decoder) namespaces(p place, n *node, dst *[]Namespace) {
	blocks, ok := n.value.(table)
	if !ok {
		d.failKind(p, n, `tables such as [repository."docker.io"]`)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(blocks)) {
		at := place{p.in(key).key, p.generic + ".*"}
		*dst = append(*dst, d.namespace(at, blocks[key], key))
	}
}

// namespace decodes one block over the values of Global, which have been decoded
// before: its field comes first.
func (d *decoder) namespace(p place, n *node, key string) Namespace {
	g := d.config.Global
	r := newNamespace(key, g)
	d.table(p, n, reflect.ValueOf(&r).Elem())
	if r.Host == "" { // namespace = "" means the default too
		r.Host = defaultHost(key)
	}
	r.Host = strings.ToLower(r.Host)
	// A block cannot switch off immutable_tags of global.
	if g.ImmutableTags && !r.ImmutableTags {
		r.ImmutableTags = true
		d.config.source.optedOut = append(d.config.source.optedOut, p.in("immutable_tags").key)
	}
	// An empty list does not switch off the exclusions of global.
	if len(r.ImmutableTagsExclusions) == 0 {
		r.ImmutableTagsExclusions = g.ImmutableTagsExclusions
	}
	if r.FallbackOn == nil {
		r.FallbackOn = defaultFallbackOn(r)
	}
	if r.RecheckPossession == unset {
		r.RecheckPossession = defaultRecheck(r)
	}
	return r
}

// tables decodes an array of tables, each over its defaults.
func tables[T any](d *decoder, p place, n *node, defaults func() T, dst *[]T) {
	elements, ok := n.value.([]*node)
	if !ok {
		d.fail(p, n, errors.New("must be a list of tables: write ["+"["+p.key+"]] with two brackets"))
		return
	}
	for i, element := range elements {
		value := defaults()
		d.table(p.element(i), element, reflect.ValueOf(&value).Elem())
		*dst = append(*dst, value)
	}
}

// named decodes a table of tables, each over its defaults, sorted by their names.
func named[T any](d *decoder, p place, n *node, defaults func(key string) T, dst *[]T) {
	elements, ok := n.value.(table)
	if !ok {
		d.failKind(p, n, "tables such as ["+p.key+".NAME]")
		return
	}
	for _, key := range slices.Sorted(maps.Keys(elements)) {
		// A key that belongs into a table with a name, and stands in the one around it.
		if _, isTable := elements[key].value.(table); !isTable {
			d.failKind(p.in(key), elements[key], "in a table with a name, such as ["+p.key+".NAME]")
			continue
		}
		value := defaults(key)
		d.table(place{p.in(key).key, p.generic + ".*"}, elements[key], reflect.ValueOf(&value).Elem())
		*dst = append(*dst, value)
	}
}

// kindOf names a value's type in the words of TOML.
func kindOf(n *node) string {
	switch n.value.(type) {
	case table:
		return "a table"
	case []*node:
		return "an array"
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	default:
		return "a date or time"
	}
}
