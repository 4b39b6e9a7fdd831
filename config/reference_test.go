package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const referencePage = "../docs/configuration.md"

// setting is one row of the reference: the cells of its table.
type setting struct{ Key, Type, Default, Change string }

// TestReference compares docs/configuration.md with the code. The headings of the
// page are headings of TOML. As a configuration they set no key, so that each table
// has its defaults, and each required key is a problem. A new key needs a row of
// the page and a new table a heading, but no change of this test.
func TestReference(t *testing.T) {
	shown, tables := readReference(t)
	file := write(t, "config.toml", strings.Join(tables, "\n"))
	document, problem := readDocument(file)
	if problem != nil {
		t.Fatalf("the headings are not TOML: %v", problem)
	}
	c, problems := decode(document)
	required := map[string]bool{}
	for _, p := range append(problems, c.unrelated(problems)...) {
		required[genericKey(p.Key)] = true
	}
	want := settingsBelow(t, "", reflect.ValueOf(*c), false)
	for key, s := range want {
		switch {
		case required[key]:
			s.Default = "required"
		case key == "blob_store.fs.max_size": // the page has a heading for the bucket
			s.Default = "`\"\"`"
		case key == "auth.anonymous":
			s.Default = "`true` without users, else `false`: see below"
		case key == "repository.*.namespace":
			s.Default = "the key, if it is a host name"
		case strings.HasPrefix(key, "repository.*.access_policy."): // which is a policy of its own
		case strings.HasPrefix(key, "repository.*.") && slices.Contains(knownSchema(), "global."+strings.TrimPrefix(key, "repository.*.")):
			s.Default = "as in `[global]`"
		}
		want[key] = s
	}
	if len(want) != len(knownSchema()) {
		t.Errorf("the page has headings for %d of %d keys; the keys are %q", len(want), len(knownSchema()), knownSchema())
	}
	if d := cmp.Diff(want, shown); d != "" {
		t.Errorf("the code (-) and %s (+): %s", referencePage, d)
	}
}

// readReference returns the rows of the page by generic key path, and its
// headings that are tables.
func readReference(t *testing.T) (rows map[string]setting, tables []string) {
	t.Helper()
	rows = map[string]setting{}
	table := ""
	for line := range strings.Lines(readPage(t)) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			table = ""
			if strings.HasPrefix(heading, "[") {
				tables = append(tables, heading)
				table = genericKey(strings.Trim(heading, "[]"))
			}
		}
		if table == "" || !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 5 {
			t.Fatalf("%d cells, want 5: %s", len(cells), line)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		name, _, _ := strings.Cut(strings.Trim(cells[0], "`"), "`")
		key := table + "." + name
		if _, twice := rows[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		rows[key] = setting{cells[0], cells[1], cells[2], cells[3]}
	}
	return rows, tables
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// settingsBelow returns the settings of a decoded table, as the page must show
// them, by generic key path.
func settingsBelow(t *testing.T, table string, v reflect.Value, live bool) map[string]setting {
	t.Helper()
	settings := map[string]setting{}
	for name, field := range keysOf(v.Type()) {
		key := strings.TrimPrefix(table+"."+name, ".")
		live := live || field.Tag.Get("reload") == "live"
		value := v.FieldByIndex(field.Index)
		if text, ok := literal(value.Interface()); ok {
			settings[key] = setting{shownKey(name, field), typeName(t, field.Type), "`" + text + "`", shownChange(live)}
			continue
		}
		if field.Type == reflect.TypeFor[*float64]() || field.Type == reflect.TypeFor[*string]() {
			settings[key] = setting{shownKey(name, field), typeName(t, field.Type), "not set", shownChange(live)}
			continue
		}
		switch field.Type.Kind() {
		case reflect.Pointer:
			value = value.Elem()
		case reflect.Slice:
			if isNamed(field.Type) {
				key += ".*"
			}
			if value.Len() == 0 {
				continue
			}
			value = value.Index(0)
		}
		if value.IsValid() {
			for key, s := range settingsBelow(t, key, value, live) {
				settings[key] = s
			}
		}
	}
	return settings
}

func shownKey(name string, field reflect.StructField) string {
	if isSecret(field) {
		return "`" + name + "`, `" + name + fileSuffix + "`"
	}
	return "`" + name + "`"
}

func shownChange(live bool) string {
	if live {
		return "live"
	}
	return "restart"
}

// typeName returns the name that the page has for a type.
func typeName(t *testing.T, of reflect.Type) string {
	t.Helper()
	names := map[reflect.Type]string{
		reflect.TypeFor[string]():        "string",
		reflect.TypeFor[[]string]():      "list of strings",
		reflect.TypeFor[[]Class]():       "list of strings",
		reflect.TypeFor[[]Image]():       "list of strings",
		reflect.TypeFor[[]Platform]():    "list of strings",
		reflect.TypeFor[[]Network]():     "list of strings",
		reflect.TypeFor[Groups]():        "table of lists",
		reflect.TypeFor[Date]():          "date",
		reflect.TypeFor[URL]():           "string",
		reflect.TypeFor[APIPath]():       "string",
		reflect.TypeFor[*string]():       "string",
		reflect.TypeFor[PolicyDefault](): "string",
		reflect.TypeFor[bool]():          "boolean",
		reflect.TypeFor[SyncToDisk]():    "boolean or word",
		reflect.TypeFor[int]():           "integer",
		reflect.TypeFor[*float64]():      "number",
		reflect.TypeFor[time.Duration](): "seconds",
		reflect.TypeFor[Duration]():      "duration",
		reflect.TypeFor[DurationLimit](): "duration",
		reflect.TypeFor[Size]():          "size",
		reflect.TypeFor[SizeLimit]():     "size",
		reflect.TypeFor[Secret]():        "secret",
	}
	name, ok := names[of]
	if !ok {
		t.Errorf("%s has no name in the reference", of)
	}
	if !strings.Contains(readPage(t), "\n| "+name+" | ") {
		t.Errorf("the reference does not say how a value of type %s is written", name)
	}
	return name
}

// The reference's examples are configurations without a problem.
func TestReferenceExamples(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "secret")
	secrets := t.TempDir()
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(readPage(t), -1)
	if len(examples) == 0 {
		t.Fatal("the test does not see the examples")
	}
	for _, example := range examples {
		text := strings.ReplaceAll(example[1], "/run/secrets", secrets)
		text = strings.ReplaceAll(text, "/etc/weir/htpasswd", write(t, "htpasswd", ""))
		for _, file := range regexp.MustCompile(`_file = "(.*)"`).FindAllStringSubmatch(text, -1) {
			if err := os.WriteFile(file[1], []byte(secretHash+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if problems := problemsOf(t, text); problems != "" {
			t.Errorf("%s\n%s", problems, example[1])
		}
	}
}

// Keys of Angos are ignored or refused as the reference says.
func TestReferenceOfForeignKeys(t *testing.T) {
	_, section, found := strings.Cut(readPage(t), "## Configurations of Angos\n")
	ignoredKeys, refusedKeys, both := strings.Cut(section, "Keys that protect something")
	if !found || !both {
		t.Fatal("the test does not see the section")
	}
	judge := func(text string, want verdict) {
		for _, list := range regexp.MustCompile("(?m)^(- |  )(`.*)$").FindAllStringSubmatch(text, -1) {
			for _, key := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(list[2], -1) {
				if got, _ := judgeUnknownKey(key[1]); got != want {
					t.Errorf("%s: verdict %d, want %d", key[1], got, want)
				}
			}
		}
	}
	judge(ignoredKeys, ignored)
	judge(refusedKeys, refused)
}
