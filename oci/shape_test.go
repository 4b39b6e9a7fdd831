package oci_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/weirhq/weir/oci"
)

// list returns a JSON list of n times the same value.
func list(value string, n int) string { return "[" + strings.Repeat(value+",", n-1) + value + "]" }

const valid = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2}`

// Texts of a few megabytes that would take a hundred times as much memory are refused
// before they are decoded.
func TestHostileShapes(t *testing.T) {
	for name, body := range map[string]string{
		"empty descriptors": `{"manifests":` + list("{}", 2<<20) + `}`,
		"empty layers":      `{"layers":` + list("{}", 2<<20) + `}`,
		"nulls":             `{"manifests":` + list("null", 1<<20) + `}`,
		"features":          `{"manifests":[{"platform":{"os.features":` + list(`""`, 1<<20) + `}}]}`,
		"urls":              `{"layers":[{"urls":` + list(`""`, 1<<20) + `}]}`,
		"annotations":       `{"manifests":[{"annotations":{` + strings.Repeat(`"a":"",`, 1<<20) + `"b":""}}]}`,
		"a key repeated":    `{` + strings.Repeat(`"manifests":[{}],`, 1<<19) + `"manifests":[]}`,
		"unknown members":   `{"x":` + list("1", 1<<20) + `,"manifests":[]}`,
		"deep":              `{"x":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `}`,
		"deep objects":      strings.Repeat(`{"manifests":[`, 1000) + strings.Repeat(`]}`, 1000),
		"too many, valid":   `{"manifests":` + list(valid, 10_001) + `}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := oci.References([]byte(body))
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if took := int(after.TotalAlloc-before.TotalAlloc) - len(body); took > 40<<20 {
			t.Errorf("%s: %d MiB of text took %d MiB", name, len(body)>>20, took>>20)
		}
	}
	// Large lists of real registries are read.
	annotated := strings.TrimSuffix(valid, "}") + `,"annotations":{` + strings.Repeat(`"k":"a \"[{,","l":"]",`, 4) + `"m":""}}`
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"many":       {`{"manifests":` + list(valid, 10_000) + `}`, 10_000},
		"annotated":  {`{"manifests":` + list(annotated, 2000) + `}`, 2000},
		"long texts": {`{"annotations":{"a":"` + strings.Repeat(`,[{\\`, 400_000) + `"},"manifests":` + list(valid, 3) + `}`, 3},
		"none":       {`{"manifests":[]}`, 0},
	} {
		if links, err := oci.References([]byte(c.body)); err != nil || len(links.Manifests) != c.want {
			t.Errorf("%s: %d, %v", name, len(links.Manifests), err)
		}
	}
}

// Descriptors that cannot be real are left out, and the others stay.
func TestHostileDescriptors(t *testing.T) {
	long := strings.Repeat("x", 256)
	with := func(member string) string { return strings.TrimSuffix(valid, "}") + "," + member + "}" }
	hostile := []string{
		`{}`, `{"digest":"sha256:x"}`, `{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}`, with(`"size":-1`), with(`"mediaType":"` + long + `"`),
		with(`"mediaType":"text html"`), with(`"mediaType":"a\r\nb/c"`), with(`"artifactType":"` + long + `"`), with(`"platform":{"os":"` + long + `"}`),
		with(`"platform":{"architecture":"` + long + `"}`), with(`"platform":{"os.version":"` + long + `"}`), with(`"platform":{"variant":"` + long + `"}`),
		with(`"platform":{"os.features":` + list(`"a"`, 100) + `}`),
	}
	links, err := oci.References([]byte(`{"manifests":[` + valid + "," + strings.Join(hostile, ",") + "," + with(`"artifactType":"sbom/example"`) + "," + with(`"mediaType":""`) + `]}`))
	if err != nil || len(links.Manifests) != 3 || len(links.Invalid) != 10 {
		t.Errorf("%d stay, %d are reported, %v", len(links.Manifests), len(links.Invalid), err)
	}
	// Layers have any type, such as the one that a tool copied from a header.
	links, err = oci.References([]byte(`{"layers":[` + with(`"mediaType":"text/plain; charset=utf-8"`) + "," + with(`"mediaType":"`+long+`"`) + `]}`))
	if err != nil || len(links.Layers) != 1 {
		t.Errorf("layers: %d stay, %v", len(links.Layers), err)
	}
}

func TestReadTags(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"some":          {`{"name":"x","tags":["a","b.c"]}`, "[a b.c]"},
		"a mark":        {"\ufeff" + `{"tags":["a"]}`, "[a]"},
		"null":          {`{"tags":null}`, "[]"},
		"missing":       {`{}`, "[]"},
		"no tags":       {`{"tags":["a","","-x","a b","../x","` + strings.Repeat("x", 129) + `","é","b"]}`, "[a b]"},
		"twice":         {`{"tags":["a"],"tags":["b"]}`, "[b]"},
		"other members": {`{"manifest":` + list(`{"tag":["x"]}`, 200_000) + `,"tags":["a"]}`, "[a]"},
		"other case":    {`{"tags":["a"],"Tags":["b"]}`, "[a]"},
	} {
		if tags, err := oci.ReadTags(strings.NewReader(c.body)); err != nil || fmt.Sprint(tags) != c.want {
			t.Errorf("%s: %v, %v", name, tags, err)
		}
	}
	if tags, err := oci.ReadTags(strings.NewReader(`{"tags":` + list(`"a"`, 100_000) + `}`)); err != nil || len(tags) != 100_000 {
		t.Errorf("100,000 tags: %d, %v", len(tags), err)
	}
	for name, body := range map[string]string{
		"too many": `{"tags":` + list(`"a"`, 100_001) + `}`, "deep": `{"tags":[` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `]}`,
		"numbers": `{"tags":[1]}`, "an object": `{"tags":{"a":1}}`, "a page": "<html>", "cut": `{"tags":["a"`,
	} {
		if tags, err := oci.ReadTags(strings.NewReader(body)); err == nil {
			t.Errorf("%s: %d tags", name, len(tags))
		}
	}
}
