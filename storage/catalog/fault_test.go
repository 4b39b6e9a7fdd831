package catalog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

// A full disk must not turn every pull into a request upstream.
func TestCatalogRemembersWhatItCannotWrite(t *testing.T) {
	c, m := newCatalog(t)
	full := errors.New("disk full")
	tag := catalog.Tag{Descriptor: manifest("manifest"), Checked: checked}
	m.FailPut(full)
	for range 2 {
		if err := c.PutTag(t.Context(), app, "v1", tag); !errors.Is(err, full) {
			t.Errorf("PutTag: %v, want the fault", err)
		}
		if err := c.PutLink(t.Context(), app, tag.Descriptor); !errors.Is(err, full) {
			t.Errorf("PutLink: %v, want the fault", err)
		}
	}
	if got, err := c.Tag(t.Context(), app, "v1"); !cmp.Equal(got, tag) || err != nil {
		t.Errorf("Tag = %+v, %v, want %+v", got, err, tag)
	}
	if got, err := c.Link(t.Context(), app, tag.Descriptor.Digest); !cmp.Equal(got, tag.Descriptor) || err != nil {
		t.Errorf("Link = %+v, %v, want %+v", got, err, tag.Descriptor)
	}

	// The link is known, but not recorded: the next one to put it writes it.
	m.FailPut(nil)
	must(t, c.PutLink(t.Context(), app, tag.Descriptor))
	restarted := catalog.New(m.Records(), catalog.Options{})
	if _, err := restarted.Link(t.Context(), app, tag.Descriptor.Digest); err != nil {
		t.Errorf("Link after a restart: %v", err)
	}

	// A record that is only in memory can still be deleted.
	must(t, c.DeleteTag(t.Context(), app, "v1"))
	if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Tag after DeleteTag: %v, want ErrNotExist", err)
	}
}

func TestCatalogReportsReadErrors(t *testing.T) {
	c, m := newCatalog(t)
	broken := errors.New("input/output error")
	m.FailGet(broken)
	if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, broken) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Tag: %v, want the fault", err)
	}
	must(t, c.PutLink(t.Context(), app, blob("x"))) // replaces what cannot be read
	m.FailGet(nil)
	if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Tag: %v, want ErrNotExist", err)
	}
}

func TestCatalogGarbage(t *testing.T) {
	dgst := digest.FromString("x")
	tagKey := "ghcr.io/acme/app/_tags/v1"
	linkKey := "ghcr.io/acme/app/_links/sha256/" + dgst.Encoded()
	other := digest.FromString("other").String()
	for name, document := range map[string]string{
		"empty": "", "truncated": `{"descriptor":{"mediaType":"app`, "not JSON": "\x00\x01", "null": "null", "list": "[]", "string": `"x"`,
		"no digest": `{}`, "no digest in the tag": `{"descriptor":{}}`, "bad digest": `{"digest":"sha256:abc","descriptor":{"digest":"sha256:abc"}}`,
		"negative size": `{"digest":"` + dgst.String() + `","size":-1,"descriptor":{"digest":"` + dgst.String() + `","size":-1}}`,
		"of another":    `{"digest":"` + other + `","size":1,"descriptor":{"digest":"../x","size":1}}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory(t)
			var log bytes.Buffer
			c := catalog.New(m.Records(), catalog.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			must(t, m.Records().Put(t.Context(), tagKey, []byte(document)))
			must(t, m.Records().Put(t.Context(), linkKey, []byte(document)))
			for range 3 {
				if _, err := c.Tag(t.Context(), app, "v1"); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Tag: %v, want ErrNotExist", err)
				}
				if _, err := c.Link(t.Context(), app, dgst); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("Link: %v, want ErrNotExist", err)
				}
			}
			for _, key := range []string{tagKey, linkKey} {
				if n := strings.Count(log.String(), "key="+key); n != 1 {
					t.Errorf("%d log lines about %s, want 1", n, key)
				}
			}
			must(t, c.PutTag(t.Context(), app, "v1", catalog.Tag{Descriptor: blob("x")}))
			must(t, c.PutLink(t.Context(), app, blob("x")))
			restarted := catalog.New(m.Records(), catalog.Options{})
			if got, err := restarted.Tag(t.Context(), app, "v1"); got.Descriptor.Digest != dgst || err != nil {
				t.Errorf("Tag after a Put = %+v, %v", got, err)
			}
			if got, err := restarted.Link(t.Context(), app, dgst); got.Digest != dgst || err != nil {
				t.Errorf("Link after a Put = %+v, %v", got, err)
			}
		})
	}
}

// A record that a local user replaced by a text of megabytes costs no more than its own
// bytes, and counts as absent.
func TestCatalogHugeRecords(t *testing.T) {
	dgst := digest.FromString("x")
	descriptor := `"digest":"` + dgst.String() + `","size":1`
	many := func(value string) string { return strings.Repeat(value+",", 1<<20) + value }
	for name, document := range map[string]string{
		"objects":     `{"x":[` + many("{}") + `],` + descriptor + `,"descriptor":{` + descriptor + `}}`,
		"annotations": `{"annotations":{` + many(`"a":""`) + `},` + descriptor + `,"descriptor":{` + descriptor + `,"annotations":{` + many(`"a":""`) + `}}}`,
		"urls":        `{"urls":[` + many(`""`) + `],` + descriptor + `,"descriptor":{` + descriptor + `,"urls":[` + many(`""`) + `]}}`,
		"blanks":      strings.Repeat(" ", 8<<20) + `{` + descriptor + `,"descriptor":{` + descriptor + `}}`,
		"numbers":     `{"checked":"2026-01-02T03:04:05Z","body":[` + many("1") + `]}`,
		"nested":      strings.Repeat("[", 8<<20),
	} {
		m := storagetest.NewMemory(t)
		c := catalog.New(m.Records(), catalog.Options{})
		must(t, m.Records().Put(t.Context(), "ghcr.io/acme/app/_tags/v1", []byte(document)))
		must(t, m.Records().Put(t.Context(), "ghcr.io/acme/app/_links/sha256/"+dgst.Encoded(), []byte(document)))
		must(t, c.PutDocument(t.Context(), app, "tags", "", catalog.Document{Checked: checked}))
		for key := range m.Records().List(t.Context(), "") {
			must(t, m.Records().Put(t.Context(), key, []byte(document)))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, tagErr := c.Tag(t.Context(), app, "v1")
		_, linkErr := c.Link(t.Context(), app, dgst)
		_, documentErr := c.Document(t.Context(), app, "tags", "")
		runtime.ReadMemStats(&after)
		if !errors.Is(tagErr, storage.ErrNotExist) || !errors.Is(linkErr, storage.ErrNotExist) || !errors.Is(documentErr, storage.ErrNotExist) {
			t.Errorf("%s: %v, %v, %v", name, tagErr, linkErr, documentErr)
		}
		// The records in memory are copied once for each read.
		if took := int(after.TotalAlloc-before.TotalAlloc) - 3*len(document); took > 1<<20 {
			t.Errorf("%s: %d MiB took %d MiB more", name, len(document)>>20, took>>20)
		}
	}
	// Members that are not recorded, such as those of a later version, are not kept in memory.
	m := storagetest.NewMemory(t)
	c := catalog.New(m.Records(), catalog.Options{})
	must(t, m.Records().Put(t.Context(), "ghcr.io/acme/app/_tags/v1", []byte(`{"later":[1],"descriptor":{`+descriptor+`,"annotations":{"a":"b"}}}`)))
	if got, err := c.Tag(t.Context(), app, "v1"); err != nil || got.Descriptor.Digest != dgst || got.Descriptor.Annotations != nil {
		t.Errorf("Tag = %+v, %v", got, err)
	}
}

// gate is records whose first Get stops after it has read.
type gate struct {
	storage.Records
	once             sync.Once
	reached, proceed chan struct{}
}

func (g *gate) Get(ctx context.Context, key string) ([]byte, error) {
	document, err := g.Records.Get(ctx, key)
	g.once.Do(func() {
		close(g.reached)
		<-g.proceed
	})
	return document, err
}

// A possession that is taken away while another pull is reading it does not
// come back.
func TestCatalogDeleteWhileReading(t *testing.T) {
	m := storagetest.NewMemory(t)
	link := blob("layer")
	must(t, catalog.New(m.Records(), catalog.Options{}).PutLink(t.Context(), app, link))
	g := &gate{Records: m.Records(), reached: make(chan struct{}), proceed: make(chan struct{})}
	c := catalog.New(g, catalog.Options{})

	var users sync.WaitGroup
	users.Go(func() {
		if _, err := c.Link(t.Context(), app, link.Digest); err != nil {
			t.Errorf("Link: %v", err)
		}
	})
	<-g.reached
	users.Go(func() {
		if err := c.DeleteLink(t.Context(), app, link.Digest); err != nil {
			t.Errorf("DeleteLink: %v", err)
		}
	})
	for range 1000 {
		runtime.Gosched() // lets a deletion that does not wait for the reader go first
	}
	close(g.proceed)
	users.Wait()
	if _, err := c.Link(t.Context(), app, link.Digest); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Link after DeleteLink: %v, want ErrNotExist", err)
	}
}
