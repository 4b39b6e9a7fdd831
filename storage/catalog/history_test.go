package catalog_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/storage/catalog"
)

// A history has the last hundred manifests, of one year.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := newCatalog(t)
		if got, err := c.History(t.Context(), app, "v1"); len(got) != 0 || err != nil {
			t.Errorf("History = %v, %v", got, err)
		}
		add := func(i int) {
			t.Helper()
			must(t, c.AddHistory(t.Context(), app, "v1", catalog.Named{Digest: blob(fmt.Sprint(i)).Digest, First: time.Now().Add(-time.Hour), Last: time.Now()}))
		}
		for i := range 120 {
			add(i)
			time.Sleep(time.Hour)
		}
		got, err := catalog.New(m.Records(), catalog.Options{}).History(t.Context(), app, "v1")
		if err != nil || len(got) != 100 || got[0].Digest != blob("119").Digest || got[99].Digest != blob("20").Digest {
			t.Errorf("%d manifests, %v: %+v", len(got), err, got)
		}
		time.Sleep(366 * 24 * time.Hour)
		if got, err := c.History(t.Context(), app, "v1"); len(got) != 0 || err != nil {
			t.Errorf("after a year: %v, %v", got, err)
		}
		add(200)
		if got, err := c.History(t.Context(), app, "v1"); len(got) != 1 || err != nil {
			t.Errorf("after a move: %v, %v", got, err)
		}
	})
}

// A damaged history counts as none, and is replaced.
func TestDamagedHistory(t *testing.T) {
	for _, document := range []string{"", "{", "null", "{}", `{"version":2}`, `{"version":1,"named":[{"digest":"x"}]}`} {
		c, m := newCatalog(t)
		must(t, m.Records().Put(t.Context(), "ghcr.io/acme/app/_history/v1", []byte(document)))
		if got, err := c.History(t.Context(), app, "v1"); len(got) != 0 || err != nil {
			t.Errorf("%q: %v, %v", document, got, err)
		}
		must(t, c.AddHistory(t.Context(), app, "v1", catalog.Named{Digest: blob("x").Digest, Last: time.Now()}))
		if got, err := c.History(t.Context(), app, "v1"); len(got) != 1 || err != nil {
			t.Errorf("%q: %v, %v", document, got, err)
		}
	}
}
