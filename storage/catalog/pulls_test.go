package catalog_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// pullsOf returns pulls of one image by one client.
func pullsOf(tag string, dgst digest.Digest, client string, at time.Time) catalog.RepositoryPulls {
	one := catalog.PullsAt(1, at, catalog.Client{Name: client, Last: at})
	return catalog.RepositoryPulls{All: one, Tags: map[string]catalog.Pulls{tag: one}, Images: map[digest.Digest]catalog.Pulls{dgst: one}}
}

// The counts of all mirrors on the same records add up.
func TestPullsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, m := newCatalog(t)
		theirs := catalog.New(m.Records(), catalog.Options{Shared: true})
		dgst, today := blob("image").Digest, time.Now().UTC()
		yesterday := today.Add(-24 * time.Hour)
		must(t, ours.AddPulls(t.Context(), app, "one", pullsOf("v1", dgst, "alice", yesterday)))
		must(t, ours.AddPulls(t.Context(), app, "one", pullsOf("v1", dgst, "bob", today)))
		must(t, theirs.AddPulls(t.Context(), app, "two", pullsOf("v2", dgst, "alice", today)))
		got, err := catalog.New(m.Records(), catalog.Options{}).Pulls(t.Context(), app)
		must(t, err)
		want := catalog.Pulls{Total: 3, Last: today, Newest: catalog.DayOf(today), Days: []int64{2, 1}, Clients: []catalog.Client{{Name: "alice", Last: today}, {Name: "bob", Last: today}}}
		if diff := cmp.Diff(want, got.All); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, got.Images[dgst]); diff != "" {
			t.Error(diff)
		}
		if got.Tags["v1"].Total != 2 || got.Tags["v2"].Total != 1 || len(got.Tags) != 2 {
			t.Errorf("the tags have %+v", got.Tags)
		}
		if got.All.On(catalog.DayOf(yesterday)) != 1 || got.All.On(catalog.DayOf(today)+1) != 0 || got.All.On(0) != 0 {
			t.Errorf("the days have %+v", got.All)
		}
		// Pulls alone make no repository.
		if repos, err := ours.Repositories(t.Context()); len(repos) != 0 || err != nil {
			t.Errorf("Repositories = %v, %v", repos, err)
		}
	})
}

// A record stays small, however many images, clients and days it counts.
func TestPullsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCatalog(t)
		now := time.Now().UTC()
		many := catalog.RepositoryPulls{Tags: make(map[string]catalog.Pulls), Images: make(map[digest.Digest]catalog.Pulls)}
		for i := range 250 {
			one := catalog.PullsAt(1, now.Add(time.Duration(i-250)*time.Second))
			many.Tags[fmt.Sprint("v", i)], many.Images[blob(fmt.Sprint(i)).Digest] = one, one
		}
		must(t, c.AddPulls(t.Context(), app, "one", many))
		got, err := c.Pulls(t.Context(), app)
		must(t, err)
		if len(got.Tags) != 200 || len(got.Images) != 200 || got.Tags["v249"].Total != 1 || got.Tags["v49"].Total != 0 {
			t.Errorf("%d tags and %d images have counts", len(got.Tags), len(got.Images))
		}
		other := storage.RepoID{Namespace: "ghcr.io", Name: "other"}
		for i := range 40 {
			client := fmt.Sprint(i, strings.Repeat("x", 250))
			must(t, c.AddPulls(t.Context(), other, "one", pullsOf("v1", blob("image").Digest, client, time.Now().UTC())))
			time.Sleep(24 * time.Hour)
		}
		got, err = c.Pulls(t.Context(), other)
		must(t, err)
		if len(got.All.Days) != 30 || len(got.All.Clients) != 10 || got.All.Total != 40 {
			t.Errorf("%d days and %d clients of %d pulls", len(got.All.Days), len(got.All.Clients), got.All.Total)
		}
	})
}

// Damaged records of pulls, and those of other versions, count nothing and are replaced.
func TestDamagedPulls(t *testing.T) {
	dgst := blob("image").Digest
	many := `{"version":1,"tags":{` + strings.Repeat(`"a":{},`, 3) + `"x/y":{}}}`
	for _, document := range []string{
		"", "{", "null", "{}", `{"version":2,"all":{"total":7}}`, `{"version":1,"all":{"total":-1}}`, many,
		`{"version":1,"all":{"days":[1,-1]}}`, `{"version":1,"images":{"sha256:x":{}}}`, `{"version":1,"all":{"clients":[{"name":""}]}}`,
	} {
		c, m := newCatalog(t)
		must(t, m.Records().Put(t.Context(), "ghcr.io/acme/app/_pulls/one", []byte(document)))
		if got, err := c.Pulls(t.Context(), app); got.All.Total != 0 || err != nil {
			t.Errorf("%q: %+v, %v", document, got, err)
		}
		must(t, c.AddPulls(t.Context(), app, "one", pullsOf("v1", dgst, "alice", checked)))
		if got, err := c.Pulls(t.Context(), app); got.All.Total != 1 || err != nil {
			t.Errorf("%q: %+v, %v", document, got, err)
		}
	}
}

// A clock that ran ahead for a time does not hide the days after it.
func TestPullsOfTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCatalog(t)
		now := time.Now().UTC()
		must(t, c.AddPulls(t.Context(), app, "one", pullsOf("v1", blob("image").Digest, "alice", now.AddDate(1, 0, 0))))
		must(t, c.AddPulls(t.Context(), app, "one", pullsOf("v1", blob("image").Digest, "bob", now)))
		got, err := c.Pulls(t.Context(), app)
		must(t, err)
		if got.All.Total != 2 || got.All.On(catalog.DayOf(now)) != 1 || got.All.Last.After(now) || got.All.Clients[0].Last.After(now) {
			t.Errorf("%+v", got.All)
		}
	})
}
