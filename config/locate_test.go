package config

import (
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

const intricate = "\ufeff# comment [x]\r\n" + `a.b . "c d" = 1 # 2
text = """
key = 1
\" """""
'l.t' = '''
]''''' # 7
list = [ # 8
  "]", # 9
  { x = 1, y = [
    2] }, # 10, 11
  1979-05-27 07:32:00,
]
[[r."a.b".u]] # 14
k = "\"#"
[r."a.b"] # 16
z = 1
[[r."a.b".u]] # 18
  [r."a.b".u.sub] # 19
  "\u0041" = 1e3 # 20
`

func TestLocate(t *testing.T) {
	var values map[string]any
	if _, err := toml.Decode(intricate, &values); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{
		"a": 2, "a.b": 2, `a.b."c d"`: 2, "text": 3, `"l.t"`: 6, "list": 8, "list[0]": 9, "list[1]": 10,
		"list[1].x": 10, "list[1].y": 10, "list[1].y[0]": 11, "list[2]": 12,
		"r": 14, `r."a.b"`: 16, `r."a.b".u`: 14, `r."a.b".u[0]`: 14, `r."a.b".u[0].k`: 15, `r."a.b".z`: 17,
		`r."a.b".u[1]`: 18, `r."a.b".u[1].sub`: 19, `r."a.b".u[1].sub.A`: 20,
	}
	if d := cmp.Diff(want, locate(intricate)); d != "" {
		t.Error(d)
	}
}

// FuzzLocate compares locate with the parser: for every document that the parser
// accepts, locate must have a line for each key, and no other lines. Documents with
// an empty key are left out, since the parser drops array elements below them
// (BurntSushi/toml 1.6.0), and no key of Weir is empty.
func FuzzLocate(f *testing.F) {
	f.Add(intricate)
	f.Add(mirror)
	f.Add("\xfe\xffa = 1")
	f.Add("a = {b = {c.d = 1, e = []}}\n[f]\n[[f.g]]\n[[f.g]]\n[f.g.h]\nx=''")
	f.Fuzz(func(t *testing.T, text string) {
		var values map[string]any
		if _, err := toml.Decode(text, &values); err != nil {
			return
		}
		want := map[string]bool{}
		paths(values, "", want)
		got := locate(text)
		for key := range want {
			if strings.Contains("."+key+".", `."".`) {
				return
			}
		}
		for key := range want {
			if got[key] == 0 {
				t.Errorf("%q has no line in %q", key, text)
			}
		}
		for key := range got {
			if !want[key] {
				t.Errorf("%q is invented in %q", key, text)
			}
		}
	})
}

// paths collects the key paths of a value and of all values in it.
func paths(value any, key string, into map[string]bool) {
	if key != "" {
		into[key] = true
	}
	switch v := value.(type) {
	case map[string]any:
		for name, element := range v {
			paths(element, keyIn(key, name), into)
		}
	case []map[string]any:
		for i, element := range v {
			paths(element, elementOf(key, i), into)
		}
	case []any:
		for i, element := range v {
			paths(element, elementOf(key, i), into)
		}
	}
}
