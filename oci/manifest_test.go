package oci_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// named is a descriptor in JSON, of the content that is name.
func named(name string) string {
	return fmt.Sprintf(`{"mediaType":"m/%s","digest":"%s","size":%d}`, name, digest.FromString(name), len(name))
}

func TestReferences(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		kind    oci.Kind
		content string // names, in order
		subject string
		invalid int
	}{
		"image":             {`{"config":` + named("c") + `,"layers":[` + named("a") + `,` + named("b") + `]}`, oci.ImageManifest, "a b c", "", 0},
		"artifact":          {`{"blobs":[` + named("a") + `],"subject":` + named("s") + `}`, oci.ImageManifest, "a", "s", 0},
		"index":             {` {"manifests":[` + named("a") + `],"subject":` + named("s") + `}`, oci.Index, "a", "s", 0},
		"empty index":       {`{"manifests":[]}`, oci.Index, "", "", 0},
		"null":              {`{"manifests":null,"layers":null,"config":null}`, oci.Neither, "", "", 0},
		"both":              {`{"manifests":[` + named("a") + `],"layers":[` + named("b") + `]}`, oci.Both, "b a", "", 0},
		"configuration":     {`{"config":{"Env":["A=b"],"User":"u"},"rootfs":{}}`, oci.ImageManifest, "", "", 1},
		"invalid digests":   {`{"layers":[{"digest":"../../etc/passwd"},` + named("a") + `,{}],"subject":{"digest":"x"}}`, oci.ImageManifest, "a", "", 2},
		"an unserved hash":  {`{"layers":[{"digest":"` + sha384Digest + `"}]}`, oci.ImageManifest, "", "", 1},
		"many invalid ones": {`{"manifests":[` + strings.Repeat("{},", 100) + `{}]}`, oci.Index, "", "", 10},
		"a mark":            {"\ufeff" + `{"layers":[` + named("a") + `]}`, oci.ImageManifest, "a", "", 0},
		"schema as string":  {`{"schemaVersion":"2","manifests":[` + named("a") + `]}`, oci.Index, "a", "", 0},
		"twice":             {`{"layers":[` + named("a") + `],"layers":[` + named("b") + `]}`, oci.ImageManifest, "b", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := oci.References([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			var content []string
			for _, desc := range l.Content() {
				content = append(content, strings.TrimPrefix(desc.MediaType, "m/"))
			}
			if got := strings.Join(content, " "); got != c.content || l.Kind != c.kind || len(l.Invalid) != c.invalid {
				t.Errorf("kind %d, %q, invalid %v", l.Kind, got, l.Invalid)
			}
			if (l.Subject != nil) != (c.subject != "") || l.Subject != nil && l.Subject.MediaType != "m/"+c.subject {
				t.Errorf("subject %+v", l.Subject)
			}
		})
	}
}

func TestReferencesRefusesOtherContent(t *testing.T) {
	for name, body := range map[string]string{
		"empty":                "",
		"no JSON":              "<html>",
		"an array":             "[]",
		"a truncated manifest": `{"layers":[` + named("a"),
		"another shape":        `{"layers":"x"}`,
		"far too many":         `{"layers":[` + strings.Repeat("{},", 100_000) + `{}]}`,
	} {
		if l, err := oci.References([]byte(body)); err == nil || l.Kind != oci.Neither || len(l.Content()) > 0 {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

func TestReadReferences(t *testing.T) {
	image := ` {"layers":[` + named("a") + `]}`
	l, err := oci.ReadReferences(strings.NewReader(image), int64(len(image)))
	if err != nil || len(l.Layers) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := oci.ReadReferences(strings.NewReader(image+"   "), int64(len(image))); !errors.Is(err, oci.ErrManifestTooLarge) {
		t.Errorf("too large: %v", err)
	}
	marked := "\ufeff" + image
	if l, err := oci.ReadReferences(strings.NewReader(marked), int64(len(marked))); err != nil || len(l.Layers) != 1 {
		t.Errorf("after a mark: %+v, %v", l, err)
	}
	if _, err := oci.ReadReferences(strings.NewReader(marked), int64(len(marked))-1); !errors.Is(err, oci.ErrManifestTooLarge) {
		t.Errorf("after a mark, too large: %v", err)
	}
	broken := errors.New("broken")
	if _, err := oci.ReadReferences(iotest.ErrReader(broken), 10); !errors.Is(err, broken) {
		t.Errorf("broken: %v", err)
	}
	layer := &counter{r: io.LimitReader(zeros{}, 1<<20)}
	if _, err := oci.ReadReferences(layer, 1<<20); err == nil || layer.n > 4<<10 {
		t.Errorf("%d bytes of a layer were read: %v", layer.n, err)
	}
	if _, err := oci.ReadReferences(strings.NewReader("  "), 10); err == nil {
		t.Error("blanks are no manifest")
	}
}

func TestReadManifest(t *testing.T) {
	const limit = oci.DefaultMaxManifest
	if _, err := oci.ReadManifest(io.LimitReader(zeros{}, limit+1), limit); !errors.Is(err, oci.ErrManifestTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	if body, err := oci.ReadManifest(io.LimitReader(zeros{}, limit), limit); err != nil || len(body) != limit {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// FuzzReferences feeds References any bytes: it does not panic, and all digests
// that it returns are valid.
func FuzzReferences(f *testing.F) {
	f.Add([]byte(`{"config":` + named("c") + `,"layers":[` + named("a") + `],"subject":` + named("s") + `}`))
	f.Add([]byte(`{"manifests":[{},null,` + named("a") + `],"layers":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		l, err := oci.References(body)
		if err != nil {
			return
		}
		all := l.Content()
		if l.Subject != nil {
			all = append(all, *l.Subject)
		}
		if slices.ContainsFunc(all, func(d ocispec.Descriptor) bool { _, err := oci.ParseDigest(d.Digest.String()); return err != nil }) {
			t.Errorf("%q has invalid digests: %+v", body, all)
		}
		if read, err := oci.ReadReferences(strings.NewReader(string(body)), int64(len(body))); err != nil || read.Kind != l.Kind {
			t.Errorf("%q read from a stream: %+v, %v", body, read, err)
		}
	})
}

func TestManifestType(t *testing.T) {
	const (
		vendor   = "application/vnd.example.bundle.v2+json"
		artifact = "application/vnd.oci.artifact.manifest.v1+json"
		image    = `{"schemaVersion":2,"config":{"digest":"x"},"layers":[]}`
		index    = `{"schemaVersion":2,"manifests":[]}`
		layers   = `{"schemaVersion":2,"layers":[]}`
	)
	for name, c := range map[string]struct{ body, header, want string }{
		"own":               {`{"schemaVersion":2,"mediaType":"application/b","layers":[]}`, vendor, "application/b"},
		"own, nothing else": {`{"schemaVersion":2,"mediaType":"` + vendor + `"}`, "", vendor},
		"header":            {layers, vendor + "; charset=utf-8", vendor},
		"odd header":        {layers, vendor + "; =", vendor},
		"header in capital": {layers, "Application/VND.example.bundle.v2+JSON", vendor},
		"header of Docker":  {index, "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"},
		"header of ORAS":    {`{"blobs":[]}`, "application/vnd.cncf.oras.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json"},
		// Without a type of manifests, the shape decides.
		"silent image":        {image, "", ocispec.MediaTypeImageManifest},
		"silent index":        {index, "", ocispec.MediaTypeImageIndex},
		"image as plain text": {image, "text/plain; charset=utf-8", ocispec.MediaTypeImageManifest},
		"image as octets":     {image, "application/octet-stream", ocispec.MediaTypeImageManifest},
		"image as S3 says":    {image, "binary/octet-stream", ocispec.MediaTypeImageManifest},
		"index as JSON":       {index, "application/json", ocispec.MediaTypeImageIndex},
		"index as a page":     {index, "text/html", ocispec.MediaTypeImageIndex},
		"index as nonsense":   {index, ";;", ocispec.MediaTypeImageIndex},
		"empty type":          {`{"schemaVersion":2,"mediaType":"","config":{},"layers":[{}]}`, "", ocispec.MediaTypeImageManifest},
		// Artifact manifests have no schemaVersion, and may have nothing but a type.
		"artifact":           {`{"mediaType":"` + artifact + `","artifactType":"application/b","subject":{}}`, "", artifact},
		"artifact, blobs":    {`{"blobs":[{}]}`, artifact, artifact},
		"artifact, version":  {`{"schemaVersion":2,"blobs":[]}`, artifact, artifact},
		"layers that are no": {`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{},"layers":null}`, "", ocispec.MediaTypeImageManifest},
		// Fields of another type and a byte order mark decide nothing.
		"schema as a string":  {`{"schemaVersion":"2","mediaType":"application/b","layers":[]}`, vendor, "application/b"},
		"schema 2.0":          {`{"schemaVersion":2.0,"layers":[]}`, vendor, vendor},
		"type of other type":  {`{"schemaVersion":2,"mediaType":17,"layers":[]}`, vendor, vendor},
		"type null":           {`{"schemaVersion":2,"mediaType":null,"layers":[]}`, vendor, vendor},
		"type in capitals":    {`{"schemaVersion":2,"MediaType":"application/b","layers":[]}`, vendor, vendor},
		"a mark":              {"\ufeff" + `{"schemaVersion":2,"mediaType":"application/b","layers":[]}`, vendor, "application/b"},
		"a mark and newlines": {"\ufeff\r\n" + `{"schemaVersion":2,"mediaType":"application/b","layers":[]}` + "\r\n", vendor, "application/b"},
		"a mark, silent":      {"\ufeff" + image, "", ocispec.MediaTypeImageManifest},
	} {
		if got, err := oci.ManifestType([]byte(c.body), c.header); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// The answers of other services, with any header, and broken manifests.
	for name, body := range map[string]string{
		"nothing": `{}`, "null": `null`, "an array": `[]`, "a type": `{"mediaType":"` + vendor + `"}`, "a version": `{"schemaVersion":2}`,
		"another document":                `{"schemaVersion":2,"errors":[]}`,
		"a metadata service":              `{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"x","Token":"y"}`,
		"a service list":                  `[{"Datacenter":"dc1","ServiceTags":[]}]`,
		"a container":                     `{"Id":"x","Config":{"Env":["A=b"]},"config":{},"layers":[]}`,
		"no version":                      `{"mediaType":"` + vendor + `","config":{},"layers":[]}`,
		"version 3":                       `{"schemaVersion":3,"mediaType":"` + vendor + `","config":{},"layers":[]}`,
		"version 1.5":                     `{"schemaVersion":1.5,"config":{},"layers":[]}`,
		"version null":                    `{"schemaVersion":null,"config":{},"layers":[]}`,
		"a version of another type":       `{"schemaVersion":{},"config":{},"layers":[]}`,
		"in capitals":                     `{"SchemaVersion":2,"Config":{},"Layers":[]}`,
		"lists in capitals":               `{"schemaVersion":2,"Config":{},"Layers":[]}`,
		"another type of its own":         `{"schemaVersion":2,"mediaType":"application/json"}`,
		"an artifact of another document": `{"schemaVersion":1.5,"blobs":[]}`,
		"cut":                             `{"schemaVersion":2,"layers":[`, "two": layers + layers,
	} {
		if got, err := oci.ManifestType([]byte(body), vendor); err == nil || errors.Is(err, oci.ErrSchema1) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, body := range map[string]string{
		"both": `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, "an index with layers": `{"schemaVersion":2,"layers":[],"manifests":[]}`,
		"no list": `{"schemaVersion":2,"manifests":{}}`, "null": `{"schemaVersion":2,"manifests":null}`,
		"no configuration": `{"schemaVersion":2,"layers":[]}`, "no layers": `{"schemaVersion":2,"config":{}}`,
		"blobs": `{"blobs":[]}`, "an artifact type": `{"schemaVersion":2,"artifactType":"application/b"}`,
	} {
		if got, err := oci.ManifestType([]byte(body), "application/json"); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, c := range [][2]string{
		{`{"schemaVersion":1}`, ""}, {`{}`, "application/vnd.docker.distribution.manifest.v1+prettyjws"},
		{`{"mediaType":"application/vnd.docker.distribution.manifest.v1+json"}`, ""},
		{`{"schemaVersion":"1"}`, ""}, {`{"schemaVersion":1.0}`, ""}, {"\ufeff" + `{"schemaVersion":1}`, ""},
	} {
		if _, err := oci.ManifestType([]byte(c[0]), c[1]); !errors.Is(err, oci.ErrSchema1) {
			t.Errorf("%q: %v", c, err)
		}
	}
	if _, err := oci.ManifestType([]byte("<html>"), "application/b"); err == nil || errors.Is(err, oci.ErrSchema1) {
		t.Errorf("HTML: %v", err)
	}
}

// heapGrowth returns how many bytes the heap holds more after a call, which must keep
// alive the memory that is to be counted.
func heapGrowth(f func()) int64 {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	f()
	return heap() - before
}

func TestReadError(t *testing.T) {
	for name, c := range map[string]struct{ body, code, message string }{
		"document":       {`{"errors":[{"code":"DENIED","message":"go\naway","detail":{"x":1}},{"code":"OTHER"}]}`, "DENIED", "go away"},
		"a mark":         {"\ufeff" + `{"errors":[{"code":"DENIED","message":"m"}]}`, "DENIED", "m"},
		"odd message":    {`{"errors":[{"code":"DENIED","message":{"text":"m"}}]}`, "DENIED", ""},
		"code second":    {`{"errors":[{"message":"x"},{"code":"NAME_UNKNOWN","message":"m"}]}`, "NAME_UNKNOWN", "m"},
		"code after odd": {`{"errors":[{"code":7,"message":"x"},null,{"code":"NAME_UNKNOWN","message":"m"}]}`, "NAME_UNKNOWN", "m"},
		"small code":     {`{"errors":[{"code":"manifest_unknown ","message":"m"}]}`, "MANIFEST_UNKNOWN", "m"},
		"compressed":     {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xcaH", "", ""},
		"Latin-1":        {"caf\xe9 ferm\xe9", "", ""},
		"numeric code":   {`{"errors":[{"code":17,"message":"m"}]}`, "", "m"},
		"plain text":     {"Bad \x1b[2JGateway\n", "", "Bad [2JGateway"},
		"HTML":           {" <html>", "", ""},
		"empty":          {"", "", ""},
		"no errors":      {`{"errors":[]}`, "", `{"errors":[]}`},
		"odd code":       {`{"errors":[{"code":"a b","message":"m"}]}`, "", "m"},
		"long code":      {`{"errors":[{"code":"` + strings.Repeat("A", 65) + `","message":"m"}]}`, "", "m"},
		"long message":   {strings.Repeat("é", 200), "", strings.Repeat("é", 150) + "..."},
		"half character": {"a" + strings.Repeat("é", 200), "", "a" + strings.Repeat("é", 149) + "..."},
	} {
		if code, message := oci.ReadError(strings.NewReader(c.body)); code != c.code || message != c.message {
			t.Errorf("%s: %q, %q", name, code, message)
		}
	}
	if code, message := oci.ReadError(iotest.ErrReader(errors.New("broken"))); code != "" || message != "" {
		t.Errorf("broken: %q, %q", code, message)
	}
	// A word in a long body does not keep the body in memory.
	padded := strings.Repeat(" ", 60<<10)
	for name, body := range map[string]string{"text": padded + "Gateway", "document": `{"errors":[{"code":"` + padded + `A","message":"` + padded + `m"}]}`} {
		var kept []string
		if grown := heapGrowth(func() {
			for range 100 {
				code, message := oci.ReadError(strings.NewReader(body))
				kept = append(kept, code, message)
			}
		}); grown > 1<<20 {
			t.Errorf("%s: %d KiB are kept of 100 errors", name, grown>>10)
		}
		runtime.KeepAlive(kept)
	}
	endless := &counter{r: zeros{}}
	if oci.ReadError(endless); endless.n > 70<<10 {
		t.Errorf("%d bytes of an endless body were read", endless.n)
	}
}
