package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// readers read a list, and return how many elements it has.
func readers() map[string]func(io.Reader) (int, error) {
	return map[string]func(io.Reader) (int, error){
		"tags": func(r io.Reader) (int, error) {
			tags, err := oci.ReadTags(r)
			return len(tags), err
		},
		"index": func(r io.Reader) (int, error) {
			manifests, _, err := oci.ReadIndex(r, ocispec.MediaTypeImageIndex)
			return len(manifests), err
		},
	}
}

// probe reads a text, and calls see before its end.
type probe struct {
	text *strings.Reader
	see  func()
	most int // bytes that were read
}

func (p *probe) Read(b []byte) (int, error) {
	n, err := p.text.Read(b)
	p.most += n
	if err == io.EOF && p.see != nil {
		p.see()
		p.see = nil
	}
	return n, err
}

// The text of a list is not in memory while it is decoded: of 4 MiB, one element.
func TestListsAreStreams(t *testing.T) {
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for name, text := range map[string]string{
		"no tags":                 `{"tags":` + list(`"`+strings.Repeat("-", 100)+`"`, 40_000) + `}`,
		"members":                 `{"tags":[]` + strings.Repeat(`,"x":"`+strings.Repeat("x", 1000)+`"`, 4000) + `}`,
		"elements of a member":    `{"manifest":` + list(`{"a":["`+strings.Repeat("x", 1000)+`"]}`, 4000) + `}`,
		"members of a member":     `{"manifest":{"x":0` + strings.Repeat(`,"x":{"a":{"b":"`+strings.Repeat("x", 1000)+`"}}`, 4000) + `}}`,
		"manifests, of no digest": `{"manifests":` + list(`{"digest":"`+strings.Repeat("x", 1000)+`"}`, 4000) + `}`,
	} {
		for kind, read := range readers() {
			before := live()
			grown := uint64(0)
			n, err := read(&probe{text: strings.NewReader(text), see: func() { grown = live() - min(before, live()) }})
			// An index has the field of one.
			if n != 0 || err != nil && !errors.Is(err, oci.ErrNoIndex) {
				t.Errorf("%s, %s: %d, %v", kind, name, n, err)
			}
			if grown > 1<<20 {
				t.Errorf("%s, %s: %d KiB of %d are in memory", kind, name, grown>>10, len(text)>>10)
			}
		}
	}
}

// A list is read no further than to the bound that it exceeds.
func TestListsEndAtTheirBounds(t *testing.T) {
	const rest = 64 << 10 // a buffer's
	for name, c := range map[string]struct {
		kind, begin, part string
		most              int // bytes
	}{
		"tags":            {"tags", `{"tags":["a"`, `,"a"`, 4 * 100_000},
		"manifests":       {"index", `{"manifests":[{}`, `,{}`, 3 * 10_000},
		"values":          {"index", `{"x":[0`, `,0`, 2 * 300_000},
		"features":        {"index", `{"manifests":[{"platform":{"os.features":[""`, `,""`, 3 * 300_000},
		"members":         {"index", `{"x":0`, `,"manifests":[]`, 15 * 300_000},
		"depth of tags":   {"tags", `{"tags":[`, `[`, 64},
		"depth":           {"index", `{"x":`, `{"x":`, 5 * 64},
		"depth in tags":   {"tags", `{"x":`, `[`, 64},
		"an element":      {"index", `{"manifests":[{"x":"`, `x`, 5 << 20},
		"a text":          {"tags", `{"x":"`, `\\`, 5 << 20},
		"a number":        {"tags", `{"x":1`, `1`, 5 << 20},
		"blanks":          {"tags", "{", " ", 64 << 10},
		"lines":           {"index", `{"x":[1`, "\r\n", 64 << 10},
		"a member's name": {"index", `{"`, `x`, 5 << 20},
	} {
		text := &probe{text: strings.NewReader(c.begin + strings.Repeat(c.part, 8<<20/len(c.part)))}
		n, err := readers()[c.kind](text)
		if err == nil || n != 0 || errors.Is(err, oci.ErrNoIndex) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		// The buffer of a decoder doubles.
		if text.most > 2*(len(c.begin)+c.most)+rest {
			t.Errorf("%s: %d bytes were read", name, text.most)
		}
	}
}

func TestReadIndex(t *testing.T) {
	const index, image = ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest
	for name, c := range map[string]struct {
		text, contentType string
		manifests         int
		mediaType         string
		noIndex           bool
	}{
		"some":                  {`{"schemaVersion":2,"mediaType":"` + index + `","manifests":[` + valid + `,{},` + valid + `]}`, "", 2, index, false},
		"by the header":         {`{"schemaVersion":2,"manifests":[` + valid + `]}`, index, 1, index, false},
		"by its fields":         {`{"schemaVersion":2,"manifests":[` + valid + `]}`, "text/plain", 1, index, false},
		"a mark":                {"\ufeff" + ` {"schemaVersion":2,"manifests":[]}`, "", 0, index, false},
		"without a version":     {`{"manifests":[` + valid + `]}`, index, 1, "", false},
		"null":                  {`{"schemaVersion":2,"mediaType":"` + index + `","manifests":null}`, index, 0, index, false},
		"no manifests":          {`{"schemaVersion":2,"mediaType":"` + index + `"}`, "", 0, index, false},
		"twice":                 {`{"schemaVersion":2,"manifests":[` + valid + `,` + valid + `],"manifests":[` + valid + `]}`, index, 1, index, false},
		"twice, null":           {`{"schemaVersion":2,"mediaType":"` + index + `","manifests":[` + valid + `],"manifests":null}`, index, 0, index, false},
		"twice, the config":     {`{"schemaVersion":2,"config":{},"manifests":[` + valid + `],"config":null}`, index, 1, index, false},
		"other case":            {`{"schemaVersion":2,"manifests":[],"Manifests":[` + valid + `],"Config":{}}`, index, 0, index, false},
		"a name with an escape": {`{"schemaVersion":2,"\u006danifests":[` + valid + `]}`, index, 1, index, false},
		"other members":         {`{"x":[{"manifests":[1]}],"schemaVersion":2,"annotations":{"manifests":"["},"manifests":[` + valid + `]}`, index, 1, index, false},
		"an image":              {`{"schemaVersion":2,"config":` + valid + `,"layers":[]}`, image, 0, "", true},
		"both":                  {`{"schemaVersion":2,"layers":[],"manifests":[` + valid + `]}`, index, 0, "", true},
		"an artifact":           {`{"blobs":[],"manifests":[]}`, "", 0, "", true},
		"an object":             {`{"errors":[]}`, index, 0, "", true},
		"an empty object":       {`{}`, index, 0, "", true},
		"null alone":            {`null`, index, 0, "", true},
		"a list":                {`[]`, index, 0, "", true},
		"a text":                {`"x"`, index, 0, "", true},
		"no list":               {`{"manifests":{}}`, index, 0, "", true},
		"other elements":        {`{"manifests":[1]}`, index, 0, "", true},
		"other fields":          {`{"manifests":[{"size":"1"}]}`, index, 0, "", true},
		"a page":                {` <html>`, index, 0, "", true},
		"nothing":               {``, index, 0, "", true},
		"only blanks":           {" \n", index, 0, "", true},
	} {
		// The text comes in parts of any length.
		for _, r := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text)), iotest.DataErrReader(strings.NewReader(c.text))} {
			manifests, mediaType, err := oci.ReadIndex(r, c.contentType)
			if len(manifests) != c.manifests || mediaType != c.mediaType || (err != nil) != c.noIndex || err != nil && !errors.Is(err, oci.ErrNoIndex) {
				t.Errorf("%s: %d, %s, %v", name, len(manifests), mediaType, err)
			}
		}
	}
}

// A list that is broken off, or whose reader fails, is no list of less.
func TestBrokenLists(t *testing.T) {
	whole := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","tags":["a","b"],"x":{"y":[1,{"z":null}]},"manifests":[` + valid + `,` + valid + `]}`
	failure := errors.New("the connection broke")
	for kind, read := range readers() {
		for length := 1; length < len(whole); length++ {
			if n, err := read(strings.NewReader(whole[:length])); err == nil || n != 0 || errors.Is(err, oci.ErrNoIndex) {
				t.Errorf("%s of %d bytes: %d, %v", kind, length, n, err)
			}
		}
		for length := range len(whole) + 1 {
			broken := io.MultiReader(strings.NewReader(whole[:length]), iotest.ErrReader(failure))
			if n, err := read(broken); !errors.Is(err, failure) || n != 0 {
				t.Errorf("%s that breaks after %d bytes: %d, %v", kind, length, n, err)
			}
		}
		for _, more := range []string{"{}", "x", ",", "]", `"`} {
			if n, err := read(strings.NewReader(whole + more)); err == nil || n != 0 {
				t.Errorf("%s and %q: %d, %v", kind, more, n, err)
			}
		}
		if n, err := read(strings.NewReader(whole + " \r\n\t")); err != nil || n != 2 {
			t.Errorf("%s and blanks: %d, %v", kind, n, err)
		}
	}
}

// FuzzReadIndex holds a list that is read as a stream to one that is read as a whole.
func FuzzReadIndex(f *testing.F) {
	for _, body := range []string{
		`{"schemaVersion":2,"manifests":[` + valid + `,{}]}`, `{"schemaVersion":2,"manifests":null}`, `{"errors":[]}`, `[`, `<html>`, "\ufeffnull",
		`{"schemaVersion":2,"layers":[],"manifests":[]}`, `{"x":{"y":[1,{"z":"\"]"}]},"manifests":[],"manifests":[` + valid + `]}`,
	} {
		f.Add([]byte(body), ocispec.MediaTypeImageIndex)
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		manifests, mediaType, err := oci.ReadIndex(iotest.HalfReader(bytes.NewReader(body)), contentType)
		var members map[string]json.RawMessage
		invalid := json.Unmarshal(oci.TrimMark(body), &members) != nil
		switch {
		case err != nil && (manifests != nil || mediaType != ""):
			t.Fatalf("%q: %v in spite of %v", body, manifests, err)
		case err != nil:
			return
		case invalid:
			t.Fatalf("%q is accepted", body)
		}
		// The fields of a manifest, spelt exactly.
		for name := range members {
			if !strings.Contains("|schemaVersion|mediaType|artifactType|config|layers|blobs|manifests|", "|"+name+"|") {
				delete(members, name)
			}
		}
		exact, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range manifests {
			if _, err := oci.ParseDigest(d.Digest.String()); err != nil || d.Size < 0 || len(d.MediaType) > 255 || len(d.ArtifactType) > 255 {
				t.Errorf("%q has %+v", body, d)
			}
		}
		links, err := oci.References(exact)
		if want := fmt.Sprintf("%+v", links.Manifests); err != nil || fmt.Sprintf("%+v", manifests) != want {
			t.Errorf("%q has %+v, not %s, %v", body, manifests, want, err)
		}
		if whole, err := oci.ManifestType(body, contentType); err == nil && whole != mediaType || err != nil && mediaType != "" {
			t.Errorf("%q is of type %q, not %q, %v", body, mediaType, whole, err)
		}
	})
}
