package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

var (
	app     = storage.RepoID{Namespace: "ghcr.io", Name: "acme/app"}
	checked = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func manifest(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
}

func blob(content string) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
}

func newCatalog(t *testing.T) (*catalog.Catalog, *storagetest.Memory) {
	m := storagetest.NewMemory(t)
	return catalog.New(m.Records(), catalog.Options{}), m
}

func TestCatalogTags(t *testing.T) {
	c, m := newCatalog(t)
	if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Tag: %v, want ErrNotExist", err)
	}
	if tags, err := c.Tags(t.Context(), app); len(tags) != 0 || err != nil {
		t.Errorf("Tags = %q, %v", tags, err)
	}
	want := catalog.Tag{Descriptor: manifest("one"), Checked: checked}
	for _, tag := range []string{"v1", "latest", "_odd", "v1.0-rc_1", strings.Repeat("x", 128)} {
		must(t, c.PutTag(t.Context(), app, tag, want))
	}
	newer := catalog.Tag{Descriptor: manifest("two"), Checked: checked.Add(time.Hour)}
	must(t, c.PutTag(t.Context(), app, "v1", newer))

	for name, c := range map[string]*catalog.Catalog{"same": c, "restarted": catalog.New(m.Records(), catalog.Options{})} {
		if got, err := c.Tag(t.Context(), app, "v1"); !cmp.Equal(got, newer) || err != nil {
			t.Errorf("%s: Tag = %+v, %v, want %+v", name, got, err, newer)
		}
		if got, err := c.Tag(t.Context(), app, "_odd"); !cmp.Equal(got, want) || err != nil {
			t.Errorf("%s: Tag = %+v, %v, want %+v", name, got, err, want)
		}
		tags, err := c.Tags(t.Context(), app)
		if want := []string{"_odd", "latest", "v1", "v1.0-rc_1", strings.Repeat("x", 128)}; !slices.Equal(tags, want) || err != nil {
			t.Errorf("%s: Tags = %q, %v, want %q", name, tags, err, want)
		}
	}

	must(t, c.DeleteTag(t.Context(), app, "v1"))
	if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Tag after DeleteTag: %v, want ErrNotExist", err)
	}
	if err := c.DeleteTag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a second DeleteTag: %v, want ErrNotExist", err)
	}
}

func TestCatalogLinks(t *testing.T) {
	c, m := newCatalog(t)
	want := manifest("manifest")
	decorated := want
	decorated.Annotations = map[string]string{"not": "kept"}
	must(t, c.PutLink(t.Context(), app, decorated))
	must(t, c.PutLink(t.Context(), app, blob("layer")))
	wide := ocispec.Descriptor{Digest: digest.SHA512.FromString("layer"), Size: 5}
	must(t, c.PutLink(t.Context(), app, wide))

	for name, c := range map[string]*catalog.Catalog{"same": c, "restarted": catalog.New(m.Records(), catalog.Options{})} {
		for _, want := range []ocispec.Descriptor{want, blob("layer"), wide} {
			if got, err := c.Link(t.Context(), app, want.Digest); !cmp.Equal(got, want) || err != nil {
				t.Errorf("%s: Link = %+v, %v, want %+v", name, got, err, want)
			}
		}
		// Possession in one repository says nothing about another.
		for _, other := range []storage.RepoID{
			{Namespace: "ghcr.io/acme", Name: "app"}, {Namespace: "ghcr.io", Name: "acme"}, {Namespace: "ghcr.io", Name: "acme/app/sub"}, {Namespace: "quay.io", Name: "acme/app"},
		} {
			if _, err := c.Link(t.Context(), other, want.Digest); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%s: Link in %+v: %v, want ErrNotExist", name, other, err)
			}
		}
	}

	must(t, c.DeleteLink(t.Context(), app, want.Digest))
	if _, err := c.Link(t.Context(), app, want.Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Link after DeleteLink: %v, want ErrNotExist", err)
	}
	if err := c.DeleteLink(t.Context(), app, want.Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a second DeleteLink: %v, want ErrNotExist", err)
	}
}

func TestPutLinkWritesOnlyWhatIsNew(t *testing.T) {
	c, m := newCatalog(t)
	known := manifest("manifest")
	otherType := known
	otherType.MediaType = ocispec.MediaTypeImageIndex
	steps := []struct {
		name   string
		put    ocispec.Descriptor
		want   ocispec.Descriptor
		writes int
	}{
		{"first", known, known, 1},
		{"the same", known, known, 0},
		{"as a blob", blob("manifest"), known, 0},
		{"another media type", otherType, otherType, 1},
	}
	for _, step := range steps {
		before := m.Calls("Put")
		must(t, c.PutLink(t.Context(), app, step.put))
		if got := m.Calls("Put") - before; got != step.writes {
			t.Errorf("%s: %d writes, want %d", step.name, got, step.writes)
		}
		if got, err := c.Link(t.Context(), app, known.Digest); !cmp.Equal(got, step.want) || err != nil {
			t.Errorf("%s: Link = %+v, %v, want %+v", step.name, got, err, step.want)
		}
	}
	before := m.Calls("Put")
	must(t, catalog.New(m.Records(), catalog.Options{}).PutLink(t.Context(), app, otherType))
	if got := m.Calls("Put") - before; got != 0 {
		t.Errorf("%d writes of a link that is recorded but not in memory, want 0", got)
	}
}

// Asking about a tag that has not moved must not cost a write each time.
func TestPutTagWritesAnUnmovedTagOnceAMinute(t *testing.T) {
	c, memory := newCatalog(t)
	checked := time.Now().Add(-time.Hour)
	for _, step := range []struct {
		after  time.Duration
		desc   ocispec.Descriptor
		writes int
	}{
		{0, manifest("a"), 1},
		{30 * time.Second, manifest("a"), 1},
		{59 * time.Second, manifest("a"), 1},
		{60 * time.Second, manifest("a"), 2},
		{61 * time.Second, manifest("b"), 3},
		{62 * time.Second, manifest("a"), 4},
	} {
		want := catalog.Tag{Descriptor: step.desc, Checked: checked.Add(step.after)}
		must(t, c.PutTag(t.Context(), app, "latest", want))
		if got := memory.Calls("Put"); got != step.writes {
			t.Errorf("after %v: %d writes, want %d", step.after, got, step.writes)
		}
		got, err := c.Tag(t.Context(), app, "latest")
		if err != nil || got.Descriptor.Digest != step.desc.Digest || !got.Checked.Equal(want.Checked) {
			t.Errorf("after %v: %v, %v; want %v", step.after, got, err, want)
		}
	}
}

// A time that lies in the future is no time, and is written again at the next check.
func TestCatalogAfterAWrongClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"seconds": 30 * time.Second, "a day": 24 * time.Hour, "years": 20 * 365 * 24 * time.Hour} {
		c, memory := newCatalog(t)
		wrong := time.Now().Add(ahead)
		must(t, c.PutTag(t.Context(), app, "latest", catalog.Tag{Descriptor: manifest("a"), Checked: wrong}))
		must(t, c.PutDocument(t.Context(), app, "tags", "", catalog.Document{Body: []byte("{}"), Checked: wrong}))
		for label, read := range map[string]*catalog.Catalog{"in memory": c, "from the record": catalog.New(memory.Records(), catalog.Options{})} {
			tag, err := read.Tag(t.Context(), app, "latest")
			if err != nil || !tag.Checked.IsZero() || tag.Descriptor.Digest != manifest("a").Digest {
				t.Errorf("%s, %s: %v, %v", name, label, tag, err)
			}
			document, err := read.Document(t.Context(), app, "tags", "")
			if err != nil || !document.Checked.IsZero() || string(document.Body) != "{}" {
				t.Errorf("%s, %s: %v, %v", name, label, document, err)
			}
		}
		right := time.Now()
		must(t, c.PutTag(t.Context(), app, "latest", catalog.Tag{Descriptor: manifest("a"), Checked: right}))
		tag, err := catalog.New(memory.Records(), catalog.Options{}).Tag(t.Context(), app, "latest")
		if err != nil || !tag.Checked.Equal(right) {
			t.Errorf("%s: the record has %v, %v after a check", name, tag.Checked, err)
		}
	}
}

func TestCatalogDocuments(t *testing.T) {
	c, _ := newCatalog(t)
	tags := catalog.Document{Body: []byte(`{"tags":[]}`), Checked: checked}
	must(t, c.PutDocument(t.Context(), app, "tags", "n=10&last=../../etc/passwd", tags))
	must(t, c.PutDocument(t.Context(), app, "tags", "", catalog.Document{Checked: checked}))
	if got, err := c.Document(t.Context(), app, "tags", "n=10&last=../../etc/passwd"); !cmp.Equal(got, tags) || err != nil {
		t.Errorf("Document = %+v, %v, want %+v", got, err, tags)
	}
	if got, err := c.Document(t.Context(), app, "tags", ""); len(got.Body) != 0 || !got.Checked.Equal(checked) || err != nil {
		t.Errorf("Document = %+v, %v", got, err)
	}
	for kind, name := range map[string]string{"tags": "another", "referrers": "n=10&last=../../etc/passwd"} {
		if _, err := c.Document(t.Context(), app, kind, name); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Document(%s, %s): %v, want ErrNotExist", kind, name, err)
		}
	}
	replaced := catalog.Document{Body: []byte("new"), Checked: checked.Add(time.Hour)}
	must(t, c.PutDocument(t.Context(), app, "tags", "", replaced))
	if got, err := c.Document(t.Context(), app, "tags", ""); !cmp.Equal(got, replaced) || err != nil {
		t.Errorf("Document = %+v, %v, want %+v", got, err, replaced)
	}
}

func TestCatalogRepositories(t *testing.T) {
	c, m := newCatalog(t)
	if repos, err := c.Repositories(t.Context()); len(repos) != 0 || err != nil {
		t.Errorf("Repositories = %v, %v", repos, err)
	}
	want := []storage.RepoID{
		{Namespace: "docker.io", Name: "library/nginx"},
		{Namespace: "ghcr.io", Name: "acme"},
		{Namespace: "ghcr.io", Name: "acme/app"},
		{Namespace: "ghcr.io/acme", Name: "app"},
		{Namespace: "ghcr.io", Name: "acme/app/sub"},
		{Namespace: "ghcr.io", Name: "acme-labs/app"},
		{Namespace: "localhost:5000", Name: "x"},
	}
	slices.SortFunc(want, func(a, b storage.RepoID) int {
		return strings.Compare(a.String()+"\x00"+a.Namespace, b.String()+"\x00"+b.Namespace)
	})
	for i, repo := range want {
		if i%2 == 0 {
			must(t, c.PutLink(t.Context(), repo, blob("layer")))
			must(t, c.PutLink(t.Context(), repo, blob("another")))
		}
		if i%3 != 0 || i%2 != 0 {
			must(t, c.PutTag(t.Context(), repo, "latest", catalog.Tag{Descriptor: manifest("x")}))
		}
	}
	must(t, c.PutDocument(t.Context(), storage.RepoID{Namespace: "ghcr.io", Name: "has/only/documents"}, "tags", "", catalog.Document{Checked: checked}))
	must(t, c.PutDelivery(t.Context(), "has.only.deliveries", blob("layer").Digest))
	must(t, c.PutDelivery(t.Context(), "ghcr.io", blob("layer").Digest))
	must(t, c.PutKeeping(t.Context(), []string{"ghcr.io"}))
	for _, garbage := range []string{"top", "ghcr.io/x", "ghcr.io/_tags/x", "ghcr.io/acme/_deliveries/sha256/x", "ghcr.io/x/_other/y", "%zz/x/_tags/y", "%67hcr.io/x/_tags/y", "ghcr.io%2facme/app/_tags/lower-case-escape"} {
		must(t, m.Records().Put(t.Context(), garbage, []byte("garbage")))
	}
	reads := m.Calls("Get")
	repos, err := c.Repositories(t.Context())
	if err != nil || !slices.Equal(repos, want) {
		t.Errorf("Repositories, %v:\n%s", err, cmp.Diff(want, repos))
	}
	if n := m.Calls("Get") - reads; n != 0 {
		t.Errorf("Repositories read %d records", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Repositories(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Repositories: %v, want the context's error", err)
	}
	if _, err := c.Tags(ctx, app); !errors.Is(err, context.Canceled) {
		t.Errorf("Tags: %v, want the context's error", err)
	}
}

func TestCatalogRefusesHostileNames(t *testing.T) {
	c, m := newCatalog(t)
	for _, repo := range []storage.RepoID{
		{}, {Namespace: "", Name: "x"}, {Namespace: "x", Name: ""}, {Namespace: "..", Name: "x"}, {Namespace: ".", Name: "x"},
		{Namespace: "x", Name: ".."}, {Namespace: "x", Name: "a/../b"}, {Namespace: "x", Name: "/a"}, {Namespace: "x", Name: "a/"},
		{Namespace: "x", Name: "a//b"}, {Namespace: "x", Name: "a/_tags"}, {Namespace: "x", Name: "_links/a"}, {Namespace: "x", Name: "a\x00"},
		{Namespace: strings.Repeat("x", 256), Name: "a"},
	} {
		_, tagsErr := c.Tags(t.Context(), repo)
		for method, err := range map[string]error{
			"PutTag":      c.PutTag(t.Context(), repo, "v1", catalog.Tag{Descriptor: manifest("x")}),
			"PutLink":     c.PutLink(t.Context(), repo, blob("x")),
			"PutDocument": c.PutDocument(t.Context(), repo, "tags", "", catalog.Document{Checked: checked}),
			"Tags":        tagsErr,
			"DeleteTag":   c.DeleteTag(t.Context(), repo, "v1"),
			"DeleteLink":  c.DeleteLink(t.Context(), repo, blob("x").Digest),
		} {
			if !errors.Is(err, storage.ErrInvalidKey) {
				t.Errorf("%s in %.40q: %v, want ErrInvalidKey", method, repo, err)
			}
		}
	}
	for _, tag := range []string{"", ".", "..", "a/b", "../x", "a\x00"} {
		if _, err := c.Tag(t.Context(), app, tag); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("Tag(%q): %v, want ErrInvalidKey", tag, err)
		}
	}
	for _, kind := range []string{"", "..", "a/b"} {
		if _, err := c.Document(t.Context(), app, kind, "x"); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("Document of kind %q: %v, want ErrInvalidKey", kind, err)
		}
	}
	if _, err := c.Link(t.Context(), app, "sha256:../../x"); !errors.Is(err, digest.ErrDigestInvalidFormat) && !errors.Is(err, digest.ErrDigestInvalidLength) {
		t.Errorf("Link: %v, want an error about the digest", err)
	}
	broken := blob("x")
	broken.Size = -1
	for name, err := range map[string]error{
		"a tag without a digest":    c.PutTag(t.Context(), app, "v1", catalog.Tag{}),
		"a link of negative size":   c.PutLink(t.Context(), app, broken),
		"a document without a time": c.PutDocument(t.Context(), app, "tags", "", catalog.Document{}),
	} {
		if err == nil {
			t.Errorf("%s was recorded", name)
		}
	}
	if n := m.Calls("Put"); n != 0 {
		t.Errorf("%d records were written", n)
	}
}

// A warm pull reads no record.
func TestCatalogIsWarm(t *testing.T) {
	c, m := newCatalog(t)
	link := manifest("manifest")
	must(t, c.PutTag(t.Context(), app, "v1", catalog.Tag{Descriptor: link, Checked: checked}))
	must(t, c.PutLink(t.Context(), app, link))
	restarted := catalog.New(m.Records(), catalog.Options{})
	for name, step := range map[string]struct {
		catalog *catalog.Catalog
		reads   int
	}{"after the puts": {c, 0}, "after a restart": {restarted, 2}} {
		before := m.Calls("Get")
		for range 10 {
			if _, err := step.catalog.Tag(t.Context(), app, "v1"); err != nil {
				t.Error(err)
			}
			if _, err := step.catalog.Link(t.Context(), app, link.Digest); err != nil {
				t.Error(err)
			}
		}
		if got := m.Calls("Get") - before; got != step.reads {
			t.Errorf("%s: %d reads, want %d", name, got, step.reads)
		}
	}
}

// A media type becomes a Content-Type, so a page's or one without a bound is not recorded.
func TestOddMediaTypesAreNotRecorded(t *testing.T) {
	c, _ := newCatalog(t)
	for _, mediaType := range []string{"text/html", "application/x\r\nX: y", "application/" + strings.Repeat("x", 4<<20), "nonsense"} {
		d := manifest("x")
		d.MediaType = mediaType
		if err := c.PutLink(t.Context(), app, d); !errors.Is(err, storage.ErrInvalidRecord) {
			t.Errorf("a link of type %.40q: %v", mediaType, err)
		}
		if err := c.PutTag(t.Context(), app, "v1", catalog.Tag{Descriptor: d}); !errors.Is(err, storage.ErrInvalidRecord) {
			t.Errorf("a tag of type %.40q: %v", mediaType, err)
		}
	}
	if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("the tag: %v", err)
	}
}

func TestCatalogMemoryIsBounded(t *testing.T) {
	m := storagetest.NewMemory(t)
	c := catalog.New(m.Records(), catalog.Options{Tags: 2, Links: 2})
	for i := range 4 {
		must(t, c.PutTag(t.Context(), app, fmt.Sprint(i), catalog.Tag{Descriptor: manifest("x")}))
		must(t, c.PutLink(t.Context(), app, blob(fmt.Sprint(i))))
	}
	before := m.Calls("Get")
	for i := 3; i >= 0; i-- {
		if _, err := c.Tag(t.Context(), app, fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
		if _, err := c.Link(t.Context(), app, blob(fmt.Sprint(i)).Digest); err != nil {
			t.Error(err)
		}
	}
	if got := m.Calls("Get") - before; got != 4 {
		t.Errorf("%d reads, want those of the 2 oldest tags and links", got)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCatalogLink(b *testing.B) {
	c := catalog.New(storagetest.NewMemory(b).Records(), catalog.Options{})
	link := manifest("manifest")
	must(b, c.PutLink(b.Context(), app, link))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Link(b.Context(), app, link.Digest); err != nil {
			b.Fatal(err)
		}
	}
}
