package oci_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
)

func TestFields(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"b":[2,{"a":3}],"c":"x"}`:         `{"a":1,"b":[2,{"a":3}]}`,
		" {\n\t\"a\" : \"y\" , \"b\" : { } }\r\n": `{"a":"y","b":{ }}`,
		`{"a":"\",}]{[:\\","b":"\\"}`:             `{"a":"\",}]{[:\\","b":"\\"}`,
		`{"A":1,"a ":2,"":3}`:                     `{}`,
		`{"\u0061":1}`:                            `{"a":1}`,
		`{"a\"":1,"b:":2,"x{":{"b":3}}`:           `{}`,
		`{"a":1,"a":null}`:                        `{"a":null}`,
		`{"x":[[],{},[[{"a":1}]]],"b":false}`:     `{"b":false}`,
		`{"a":-1.5e+9}`:                           `{"a":-1.5e+9}`,
		`{}`:                                      `{}`,
		`null`:                                    `{}`,
		`{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,"a":1}`: `{"a":1}`,
	} {
		fields, err := oci.Fields([]byte(text), "a", "b")
		got := make(map[string]string)
		for name, value := range fields {
			got[name] = string(value)
		}
		var wanted map[string]json.RawMessage
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		expected := make(map[string]string)
		for name, value := range wanted {
			expected[name] = string(value)
		}
		if diff := cmp.Diff(expected, got); err != nil || diff != "" {
			t.Errorf("%.60s: %v %s", text, err, diff)
		}
	}
	for _, text := range []string{"", "[]", `"a"`, "1", "true", `{"a":1`, `{"a":1}{}`, `{"a":1}x`, `{a:1}`, `{"a"}`, `{"a":}`, `{,}`, "{\"a\":\"\n\"}", "\x00"} {
		if fields, err := oci.Fields([]byte(text), "a"); err == nil {
			t.Errorf("%q: %q", text, fields)
		}
	}
}

// The values of a long text are not copied.
func TestFieldsCopyNothing(t *testing.T) {
	text := []byte(`{"x":"` + strings.Repeat("x", 4<<20) + `","a":` + list("{}", 1<<20) + `}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if fields, err := oci.Fields(text, "a"); err != nil || len(fields["a"]) != 3<<20+1 {
		t.Errorf("%d bytes, %v", len(fields["a"]), err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<10 {
		t.Errorf("%d MiB took %d KiB more", len(text)>>20, took>>10)
	}
}

// FuzzFields holds the values to those that encoding/json finds.
func FuzzFields(f *testing.F) {
	for _, text := range []string{`{"a":1,"b":[2,{"a":3}],"c":"x"}`, `{"\u0061":"\",}]{[:\\" , "b" : {}}`, `{"a":1,"a":null}`, `null`, `{"a":1}x`, "\ufeff{}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fields, err := oci.Fields(text, "a", "b")
		var all map[string]json.RawMessage
		if valid := json.Unmarshal(text, &all) == nil; valid != (err == nil) {
			t.Fatalf("%q: %v", text, err)
		}
		if err != nil {
			return
		}
		for _, name := range []string{"a", "b"} {
			if got, want := fmt.Sprintf("%q", fields[name]), fmt.Sprintf("%q", all[name]); got != want {
				t.Errorf("%q: %s is %s, not %s", text, name, got, want)
			}
		}
	})
}
