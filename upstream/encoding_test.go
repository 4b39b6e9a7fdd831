package upstream_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// encode applies codings in their order.
func encode(t *testing.T, content []byte, codings ...string) []byte {
	t.Helper()
	for _, coding := range codings {
		var b bytes.Buffer
		var w io.WriteCloser
		switch coding {
		case "gzip":
			w = gzip.NewWriter(&b)
		case "zlib":
			w = zlib.NewWriter(&b)
		case "flate":
			w = must[*flate.Writer](t)(flate.NewWriter(&b, 5))
		}
		w.Write(content)
		w.Close()
		content = b.Bytes()
	}
	return content
}

// encodingRegistry answers every GET and HEAD with the same body.
type encodingRegistry struct {
	body     []byte
	coding   string
	chunked  bool // no length
	ranges   bool
	requests []string
}

func (r *encodingRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.requests = append(r.requests, strings.TrimSpace(req.Method+" "+req.Header.Get("Range")))
	w.Header().Set("Content-Encoding", r.coding)
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromString("the decoded content").String())
	switch {
	case r.ranges:
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(r.body))
	case r.chunked:
		w.(http.Flusher).Flush()
		w.Write(r.body)
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(r.body)))
		w.Write(r.body)
	}
}

func (r *encodingRegistry) client(t *testing.T) *upstream.Client {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return newClient(t, upstreamtest.New(t), func(o *upstream.Options) { o.URL = must[*url.URL](t)(url.Parse(s.URL)) })
}

// The digest decides whether a body with a coding is the content as it came, or decoded.
func TestContentEncoding(t *testing.T) {
	config := []byte(`{"schemaVersion":2,"layers":[],"text":"` + strings.Repeat("a ", 1000) + `"}`)
	layer := encode(t, config, "gzip")
	for name, test := range map[string]struct {
		content []byte
		codings []string
		header  string
		fails   string // "": the content arrives
	}{
		"gzip":                        {config, []string{"gzip"}, "gzip", ""},
		"x-gzip":                      {config, []string{"gzip"}, "x-gzip", ""},
		"GZIP":                        {config, []string{"gzip"}, "GZIP", ""},
		"deflate":                     {config, []string{"zlib"}, "deflate", ""},
		"deflate without zlib":        {config, []string{"flate"}, "deflate", ""},
		"several":                     {config, []string{"zlib", "gzip"}, "deflate, gzip", ""},
		"gzip twice":                  {config, []string{"gzip", "gzip"}, "gzip,gzip", ""},
		"with identity":               {config, []string{"gzip"}, "identity, gzip", ""},
		"with aws-chunked":            {config, []string{"gzip"}, "gzip,aws-chunked", ""},
		"identity":                    {config, nil, "identity", ""},
		"empty":                       {config, nil, "", ""},
		"aws-chunked":                 {config, nil, "aws-chunked", ""},
		"not gzip at all":             {config, nil, "gzip", ""},
		"unknown, and nothing to do":  {config, nil, "br", ""},
		"the layer itself":            {layer, nil, "gzip", ""},
		"a compressed layer":          {layer, []string{"gzip"}, "gzip", ""},
		"unknown":                     {config, []string{"gzip"}, "br", "Content-Encoding: br"},
		"other content":               {config[1:], []string{"gzip"}, "gzip", "Content-Encoding: gzip"},
		"other content, not gzip":     {config[1:], nil, "gzip", "Content-Encoding: gzip"},
		"wrong order":                 {config, []string{"gzip", "zlib"}, "deflate, gzip", "Content-Encoding: deflate, gzip"},
		"too many":                    {config, []string{"gzip", "gzip", "gzip", "gzip"}, "gzip,gzip,gzip,gzip", "Content-Encoding: gzip, gzip"},
		"a header that is no coding":  {config, nil, ",, ,", ""},
		"several headers' worth":      {config, []string{"gzip"}, "gzip,", ""},
		"raw that is claimed deflate": {config, nil, "deflate", ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := test.content
			if test.fails != "" && want[0] != '{' {
				want = config // another content is asked for than the one that comes
			}
			dgst := digest.FromBytes(want)
			for _, chunked := range []bool{false, true} {
				r := &encodingRegistry{body: encode(t, test.content, test.codings...), coding: test.header, chunked: chunked}
				c := r.client(t)
				got, err := readAll(c.Blob(t.Context(), "app", dgst, 0, -1))
				if test.fails == "" && (err != nil || !bytes.Equal(got, want)) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if test.fails != "" && (!errors.Is(err, upstream.ErrDigestMismatch) || !strings.Contains(err.Error(), test.fails)) {
					t.Errorf("%v, want it to name %s", err, test.fails)
				}
				if len(r.requests) != 1 {
					t.Errorf("%q", r.requests)
				}
				if test.fails == "" {
					part, err := readAll(c.Blob(t.Context(), "app", dgst, 10, 7))
					if err != nil || !bytes.Equal(part, want[10:17]) {
						t.Errorf("a part: %q, %v", part, err)
					}
				}
			}
			if !bytes.Equal(test.content, config) || test.fails == "Content-Encoding: br" {
				return
			}
			// The same as a manifest, by digest and by tag.
			r := &encodingRegistry{body: encode(t, test.content, test.codings...), coding: test.header}
			for _, ref := range []oci.Reference{oci.ByDigest(dgst), oci.ByTag("v1")} {
				m, err := r.client(t).Manifest(t.Context(), "app", ref)
				if test.fails == "" && (err != nil || !bytes.Equal(m.Body, want) || m.Descriptor.Digest != dgst || m.Descriptor.Size != int64(len(want))) {
					t.Errorf("manifest %v: %+v, %v", ref, m, err)
				}
				if test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
					t.Errorf("manifest %v: %v", ref, err)
				}
			}
		})
	}
}

// The length of an encoded body is not that of the content.
func TestEncodedLengths(t *testing.T) {
	content := []byte(strings.Repeat("text ", 1000))
	for coding, want := range map[string]int64{"gzip": -1, "br": -1, "identity": 5000, "": 5000, "aws-chunked": 5000} {
		for _, ranges := range []bool{false, true} {
			r := &encodingRegistry{body: content, coding: coding, ranges: ranges}
			desc, err := r.client(t).StatBlob(t.Context(), "app", digest.FromBytes(content))
			if err != nil || desc.Size != want {
				t.Errorf("%q, ranges %t: %d bytes, %v; want %d", coding, ranges, desc.Size, err, want)
			}
			if ranges { // that handler gives no length for a HEAD
				continue
			}
			m, err := r.client(t).Head(t.Context(), "app", oci.ByTag("v1"))
			if err != nil || m.Descriptor.Size != want {
				t.Errorf("%q: the manifest has %d bytes, %v; want %d", coding, m.Descriptor.Size, err, want)
			}
		}
	}
}

// A large blob is streamed. If its first reading is wrong, the second is right.
func TestLargeEncodedBlob(t *testing.T) {
	noise := make([]byte, 2<<20)
	rand.Read(noise)
	packed := encode(t, noise, "gzip")
	for name, test := range map[string]struct {
		content, body []byte
		chunked       bool
		attempts      int
	}{
		"a layer as it is":           {packed, packed, false, 1},
		"a layer as it is, chunked":  {packed, packed, true, 2},
		"compressed on the fly":      {noise, packed, true, 1},
		"compressed, with length":    {noise, packed, false, 2},
		"not compressed":             {noise, noise, true, 1},
		"a packed layer, compressed": {packed, encode(t, packed, "gzip"), true, 1},
	} {
		r := &encodingRegistry{body: test.body, coding: "gzip", chunked: test.chunked}
		c, dgst := alone(r.client(t)), digest.FromBytes(test.content)
		for attempt := 1; ; attempt++ {
			blob := must[oci.Blob](t)(c.Blob(t.Context(), "app", dgst, 0, -1))
			got, err := io.ReadAll(blob)
			if err == nil && digest.FromBytes(got) == dgst {
				if attempt != test.attempts {
					t.Errorf("%s: %d attempts, want %d", name, attempt, test.attempts)
				}
				blob.Close()
				break
			}
			again := blob.Reject()
			blob.Close()
			if !again || attempt == 2 {
				t.Errorf("%s: %d bytes, %v, and no way on", name, len(got), err)
				break
			}
		}
		part, err := readAll(c.Blob(t.Context(), "app", dgst, 1<<20, 1000))
		if err != nil || !bytes.Equal(part, test.content[1<<20:1<<20+1000]) {
			t.Errorf("%s: a part: %d bytes, %v", name, len(part), err)
		}
	}
}

// A part of encoded bytes is of no use: the whole body is asked for.
func TestRangeOfEncodedBlob(t *testing.T) {
	content := []byte(strings.Repeat("text ", 1000))
	r := &encodingRegistry{body: encode(t, content, "gzip"), coding: "gzip", ranges: true}
	c := r.client(t)
	if got, err := readAll(c.Blob(t.Context(), "app", digest.FromBytes(content), 0, -1)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := readAll(c.Blob(t.Context(), "app", digest.FromBytes(content), 3, 4)); err != nil || !bytes.Equal(got, content[3:7]) {
		t.Errorf("%q, %v", got, err)
	}
	if want := "GET, GET bytes=3-6, GET"; strings.Join(r.requests, ", ") != want {
		t.Errorf("%q, want %s", r.requests, want)
	}
}

// A bomb ends at its bound, not when the memory does.
func TestDecompressionBomb(t *testing.T) {
	// A body of many members is as large, and takes no time to make (RFC 1952 section 2.2).
	bomb := bytes.Repeat(encode(t, make([]byte, 1<<20), "gzip"), 100)
	for _, codings := range []string{"gzip", "gzip, gzip"} {
		body := bomb
		if codings != "gzip" {
			body = encode(t, bomb, "gzip")
		}
		r := &encodingRegistry{body: body, coding: codings}
		_, err := readAll(r.client(t).Blob(t.Context(), "app", digest.FromString("x"), 0, -1))
		if !errors.Is(err, upstream.ErrDigestMismatch) || !strings.Contains(err.Error(), "times as long as the encoded one") {
			t.Errorf("%s: %v", codings, err)
		}
		if _, err := r.client(t).Manifest(t.Context(), "app", oci.ByTag("v1")); err == nil || !strings.Contains(err.Error(), "more than 5242880 bytes") {
			t.Errorf("%s: manifest: %v", codings, err)
		}
	}
}

// Lists, error documents and tokens are documents, and read as such.
func TestEncodedDocuments(t *testing.T) {
	r := &encodingRegistry{body: encode(t, []byte(`{"tags":["v1"]}`), "gzip"), coding: "gzip"}
	if list, err := r.client(t).Tags(t.Context(), "app", nil); err != nil || len(list.Tags) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	registry := upstreamtest.New(t)
	registry.Fault(upstreamtest.Any, upstreamtest.Status(400, string(encode(t, []byte(`{"errors":[{"code":"NAME_INVALID"}]}`), "gzip"))), upstreamtest.Header("Content-Encoding", "gzip"))
	_, err := newClient(t, registry).Tags(t.Context(), "app", nil)
	wantError(t, err, upstream.ErrNotFound)
}
