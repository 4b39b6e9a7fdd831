package config

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// WriteTOML writes the configuration in force, with defaults and inherited values,
// and with secrets redacted. [Load] reads the same value from it, except for the
// secrets. It returns the error of the writer.
func (c *Config) WriteTOML(w io.Writer) error {
	p := printer{source: c.source}
	p.header(c.source.files)
	p.table("", "", reflect.ValueOf(*c))
	p.origins()
	_, err := w.Write(p.Bytes())
	return err
}

// Setting is a value of the configuration in force.
type Setting struct {
	Key    string // such as repository."docker.io".tag_ttl
	Value  string // in TOML, without secrets
	Origin string // a place in a file, a variable, a flag or another key; "" if it is built in
}

// Settings returns the configuration in force, with defaults and inherited values, in the order of
// [Config.WriteTOML]. Secrets are redacted.
func (c *Config) Settings() []Setting {
	p := printer{source: c.source}
	p.table("", "", reflect.ValueOf(*c))
	return p.settings
}

type printer struct {
	bytes.Buffer
	source   source
	settings []Setting
}

// origins writes where the values come from, as comments behind the settings: most
// values are defaults, and a comment at each one would hide them.
func (p *printer) origins() {
	set := slices.DeleteFunc(slices.Clone(p.settings), func(s Setting) bool { return s.Origin == "" })
	if len(set) == 0 {
		return
	}
	longest := 0
	for _, setting := range set {
		longest = max(longest, len(setting.Key))
	}
	p.WriteString("\n# Where values come from, unless they are built in:\n")
	for _, setting := range set {
		fmt.Fprintf(p, "#   %-*s  %s\n", longest, setting.Key, setting.Origin)
	}
}

// value writes a value, by the key path of the setting and by a name in its table.
func (p *printer) value(key, name, text string) {
	fmt.Fprintf(p, "%s = %s\n", name, text)
	p.settings = append(p.settings, Setting{key, text, p.origin(key, name)})
}

// origin returns where a value comes from. A block inherits the values of global that it
// does not set.
func (p *printer) origin(key, name string) string {
	at, ok := p.source.positions[key]
	if _, isSet := p.source.positions[keyIn("global", name)]; !ok && isSet && strings.HasPrefix(key, "repository.") && !strings.Contains(key, "[") {
		return "global." + name
	}
	if !ok {
		return ""
	}
	return at.String() // empty for a built-in value
}

func (p *printer) header(files []string) {
	p.WriteString("# The configuration in force. Secrets are redacted.\n")
	if len(files) == 0 {
		p.WriteString("# Source: built-in default\n")
	}
	for _, file := range files {
		fmt.Fprintf(p, "# Source: %q\n", file)
	}
}

// table writes a table: its own keys, then the tables in it. The heading is empty
// for the document and for tables that hold only tables.
func (p *printer) table(heading, key string, v reflect.Value) {
	if heading != "" {
		p.WriteString("\n" + heading + "\n")
	}
	for name, field := range keysOf(v.Type()) {
		p.setting(keyIn(key, name), name, v, v.FieldByIndex(field.Index).Interface())
	}
	// Tables come last: a key after them would belong to the last table.
	for name, field := range keysOf(v.Type()) {
		p.below(keyIn(key, name), v.FieldByIndex(field.Index))
	}
}

// setting writes one key of the table v, unless it is a table itself.
func (p *printer) setting(key, name string, v reflect.Value, value any) {
	if secret, ok := value.(Secret); ok {
		// A secret from a file is written as that file, so that it can be loaded.
		if file := p.source.secretFiles[key]; file != "" {
			p.value(key, name+fileSuffix, quote(file))
			return
		}
		// Of a URL only the password is secret.
		value = secret.String()
		switch holder := v.Interface().(type) {
		case Redis:
			if name == "url" {
				value = holder.redactedURL()
			}
		case Tracing:
			value = holder.redactedEndpoint()
		case Upstream:
			if name == "proxy" {
				value = holder.redactedProxy()
			}
		}
	}
	if text, ok := literal(value); ok {
		p.value(key, name, text)
	}
}

// below writes the tables in a field, if there are any.
func (p *printer) below(key string, v reflect.Value) {
	switch v.Interface().(type) {
	case BlobStore, Cache, Observability: // they have no keys of their own, so no heading
		p.table("", key, v)
	case []Upstream, []Warm:
		for i := range v.Len() {
			p.table("[["+key+"]]", elementOf(key, i), v.Index(i))
		}
	default:
		switch {
		case isOptionalTable(v.Type()) && !v.IsNil():
			p.table("["+key+"]", key, v.Elem())
		case isNamed(v.Type()):
			for i := range v.Len() {
				key := keyIn(key, v.Index(i).FieldByName("Key").String())
				p.table("["+key+"]", key, v.Index(i))
			}
		case isTable(v.Type()):
			p.table("["+key+"]", key, v)
		}
	}
}

// literal returns a value as TOML, or false for tables.
func literal(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return quote(v), true
	case bool:
		return strconv.FormatBool(v), true
	case SyncToDisk:
		if v == SyncAlways {
			return quote(string(v)), true
		}
		return string(v), true
	case int:
		return strconv.Itoa(v), true
	case *string:
		if v == nil {
			return "", false
		}
		return quote(*v), true
	case *float64:
		if v == nil {
			return "", false
		}
		return strconv.FormatFloat(*v, 'f', -1, 64), true
	case time.Duration:
		return strconv.FormatInt(int64(v/time.Second), 10), true
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]", true
	case Groups:
		return v.literal(), true
	case []Image:
		return literalList(v), true
	case []Class:
		return literalList(v), true
	case []Platform:
		return literalList(v), true
	case []Network:
		return literalList(v), true
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		return quote(string(text)), err == nil
	default:
		return "", false
	}
}

// literalList returns an array of strings as TOML.
func literalList[T encoding.TextMarshaler](values []T) string {
	quoted := make([]string, len(values))
	for i, value := range values {
		text, _ := value.MarshalText() // those of this package do not fail
		quoted[i] = quote(string(text))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quote returns a string as TOML that Load reads as the same string.
func quote(s string) string {
	text := toml.Key{escape(s)}.String()
	if strings.HasPrefix(text, `"`) {
		return text
	}
	return `"` + text + `"` // the library leaves bare keys without quotes
}

// redactedProxy returns the proxy's URL without its password.
func (u Upstream) redactedProxy() string {
	proxy, err := u.ProxyURL()
	if err != nil {
		return redacted
	}
	if proxy == nil {
		return ""
	}
	return redactURL(proxy)
}

// redactURL returns a URL without its password. A user without a password may be a
// token, so it is redacted too.
func redactURL(u *url.URL) string {
	if _, ok := u.User.Password(); ok {
		u.User = url.UserPassword(u.User.Username(), "redacted")
	} else if u.User != nil {
		u.User = url.User("redacted")
	}
	return u.String()
}
