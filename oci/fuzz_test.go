package oci_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/weirhq/weir/oci"
)

// FuzzReadTags holds a list to the grammar of tags, and to itself when it is written and
// read again.
func FuzzReadTags(f *testing.F) {
	for _, body := range []string{`{"name":"x","tags":["a","b.c"]}`, `{"tags":null}`, "\ufeff" + `{"Tags":["a"],"tags":["-","a"],"tags":["\u0062"]}`, `{"tags":[["a"]]}`, `{"tags":{}}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		tags, err := oci.ReadTags(bytes.NewReader(body))
		if err != nil {
			return
		}
		for _, tag := range tags {
			if ref, err := oci.ParseReference(tag); err != nil || !ref.IsTag() || ref.Tag() != tag {
				t.Errorf("%q has %q: %v", body, tag, err)
			}
		}
		again, err := json.Marshal(map[string]any{"tags": tags})
		if err != nil {
			t.Fatal(err)
		}
		if same, err := oci.ReadTags(bytes.NewReader(again)); err != nil || !slices.Equal(same, tags) {
			t.Errorf("%q is read as %q, %v", again, same, err)
		}
	})
}

// FuzzReadError holds the words of a stranger to one line that is fit for a header, a log
// and a terminal.
func FuzzReadError(f *testing.F) {
	for _, body := range []string{
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}`, `{"errors":[{"code":1,"message":{}},{"code":" denied "}]}`,
		"Bad\r\n\tGateway \x1b[31m", "<html>", "\x1f\x8b\x08", strings.Repeat("é", 200), `{"errors":[{"message":"a\u0000b\u2028c"}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		code, message := oci.ReadError(strings.NewReader(string(body)))
		if len(code) > 64 || strings.ContainsFunc(code, func(r rune) bool { return r != '_' && !('A' <= r && r <= 'Z') && !('0' <= r && r <= '9') }) {
			t.Errorf("%q has the code %q", body, code)
		}
		if len(message) > 303 || !utf8.ValidString(message) || strings.ContainsFunc(message, unicode.IsControl) || strings.TrimSpace(message) != message {
			t.Errorf("%q has the message %q", body, message)
		}
	})
}

// FuzzManifestType holds the types that are served to those of applications, and to JSON
// objects that say which version of a manifest they are or are artifacts.
func FuzzManifestType(f *testing.F) {
	const image, index = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	for _, c := range [][2]string{
		{`{"schemaVersion":2,"mediaType":"` + image + `","config":{},"layers":[]}`, image},
		{`{"schemaVersion":2,"manifests":[]}`, "text/html"},
		{`{"schemaVersion":"2","mediaType":"text/html","layers":[]}`, index + "; charset=utf-8"},
		{`{"SchemaVersion":2,"schemaversion":2,"manifests":[]}`, index},
		{`{"schemaVersion":1,"fsLayers":[]}`, ""},
		{`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}`, ""},
		{"\ufeff" + `{"schemaVersion":2.0,"config":{},"layers":[],"manifests":null}`, ""},
	} {
		f.Add([]byte(c[0]), c[1])
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		mediaType, err := oci.ManifestType(body, contentType)
		if err != nil {
			if mediaType != "" {
				t.Errorf("%q: %q in spite of %v", body, mediaType, err)
			}
			return
		}
		if !oci.IsServed(mediaType) || strings.ContainsAny(mediaType, "\r\n; ") {
			t.Errorf("%q as %q has the type %q", body, contentType, mediaType)
		}
		var fields map[string]json.RawMessage // has exact names
		if err := json.Unmarshal(oci.TrimMark(body), &fields); err != nil {
			t.Fatalf("%q is a manifest: %v", body, err)
		}
		if version, named := fields["schemaVersion"]; named && string(version) != "null" && !strings.Contains(string(version), "2") && !strings.Contains(string(version), "e") {
			t.Errorf("%q has version %s", body, version)
		}
		// The type is that of the bytes: it does not change with the header once it is known.
		if same, err := oci.ManifestType(body, mediaType); err != nil || same != mediaType {
			t.Errorf("%q as its own type %q is %q, %v", body, mediaType, same, err)
		}
	})
}
