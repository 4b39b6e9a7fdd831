package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func tags(t *testing.T, n *namespace.Namespace, query url.Values) (*namespace.Tags, error) {
	t.Helper()
	return n.Tags(t.Context(), "app", query)
}

func wantTags(t *testing.T, list *namespace.Tags, err error, cache namespace.CacheStatus, next url.Values, want ...string) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if list.Cache != cache || (list.Warning != "") != (cache == namespace.Stale) {
		t.Errorf("%v with the warning %q, want %v", list.Cache, list.Warning, cache)
	}
	if diff := cmp.Diff(want, list.Tags); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(next, list.Next); diff != "" {
		t.Errorf("next page: %s", diff)
	}
}

func TestTags(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassDenied))
		for _, tag := range []string{"a", "b", "c"} {
			r.AddImage("app", tag, []byte(tag))
		}
		list, err := tags(t, n, nil)
		wantTags(t, list, err, namespace.Passed, nil, "a", "b", "c")
		list, err = tags(t, n, url.Values{"n": {"2"}})
		wantTags(t, list, err, namespace.Passed, url.Values{"n": {"2"}, "last": {"b"}}, "a", "b")
		list, err = tags(t, n, list.Next)
		wantTags(t, list, err, namespace.Passed, nil, "c")
		wantRequests(t, r,
			"GET /v2/app/tags/list 200",
			"GET /v2/app/tags/list?n=2 200",
			"GET /v2/app/tags/list?last=b&n=2 200")

		// The last answer is given again when the upstream fails.
		r.Fault(upstreamtest.Tags, upstreamtest.Status(403, ""))
		time.Sleep(time.Hour)
		list, err = tags(t, n, url.Values{"n": {"2"}})
		wantTags(t, list, err, namespace.Stale, url.Values{"n": {"2"}, "last": {"b"}}, "a", "b")
		if !strings.Contains(list.Warning, "1h0m0s") {
			t.Errorf("the warning %q does not tell the age", list.Warning)
		}
		off := m.namespace("up.example", r, offline)
		list, err = tags(t, off, nil)
		wantTags(t, list, err, namespace.Hit, nil, "a", "b", "c")

		for name, n := range map[string]*namespace.Namespace{
			"another class": m.namespace("up.example", r, staleOn(upstream.ClassUnavailable)),
			"too old":       m.namespace("up.example", r, staleOn(upstream.ClassDenied), maxStale(time.Minute)),
		} {
			if list, err := tags(t, n, nil); !errors.Is(err, upstream.ErrDenied) {
				t.Errorf("%s: %+v, %v", name, list, err)
			}
		}
	})
}

// TestTagsOfAClientThatLeft has a client leave while its list is read. The tags that are
// cached cannot be listed for it, and that is no trouble of the store.
func TestTagsOfAClientThatLeft(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, n *namespace.Namespace) (context.Context, context.CancelFunc){
		"before": func(t *testing.T, _ *namespace.Namespace) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		},
		"while the upstream is asked": func(t *testing.T, _ *namespace.Namespace) (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), time.Second)
		},
		"while it waits for a place": func(t *testing.T, n *namespace.Namespace) (context.Context, context.CancelFunc) {
			for i := range 70 { // more than there are places
				go n.Tags(t.Context(), fmt.Sprint("other", i), nil)
			}
			synctest.Wait()
			return context.WithTimeout(t.Context(), time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r)
				image := r.AddImage("app", "a", []byte("a"))
				wantManifest(t, get(t, n, "app", "a"), namespace.Miss, image)
				r.Fault(upstreamtest.Tags, upstreamtest.Hold(upstreamtest.NewGate()))
				ctx, cancel := leave(t, n)
				defer cancel()
				if list, err := n.Tags(ctx, "app", nil); err == nil {
					t.Errorf("the client that left got %v", list.Tags)
				}
				time.Sleep(time.Minute) // all lookups have ended
				if log := m.log.String(); strings.Contains(log, "cannot list") {
					t.Errorf("the log has\n%s", log)
				}
			})
		})
	}
}

// TestKeptTags lists in pages, whose links are the upstream's own, and asks for them in
// other ways while the upstream is away. One record is kept of each repository.
func TestKeptTags(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassDenied))
		for _, tag := range []string{"a", "b", "c", "d", "e"} {
			r.AddImage("app", tag, []byte(tag))
		}
		read := func(query url.Values) *namespace.Tags {
			t.Helper()
			list, err := tags(t, n, query)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		// Pages that no link has led to make no record.
		for _, last := range []string{"a", "b", "x", "y"} {
			read(url.Values{"last": {last}})
		}
		if records := m.recordKeys(t); len(records) != 0 {
			t.Errorf("records: %q", records)
		}
		for list := read(url.Values{"n": {"2"}}); list.Next != nil; {
			list = read(list.Next)
		}
		// None of these changes the kept list: it is shorter, or led to by no link.
		read(url.Values{"n": {"1"}})
		read(url.Values{"n": {"1"}, "last": {"c"}})
		for i := range 50 {
			read(url.Values{"n": {fmt.Sprint(i + 3)}, "last": {fmt.Sprint("a", i)}})
		}
		if records := m.recordKeys(t); len(records) != 1 {
			t.Errorf("records: %q", records)
		}
		away := r.Fault(upstreamtest.Tags, upstreamtest.Status(403, ""))
		for _, c := range []struct {
			query, next url.Values
			want        []string
		}{
			{nil, nil, []string{"a", "b", "c", "d", "e"}},
			{url.Values{"n": {"2"}}, url.Values{"n": {"2"}, "last": {"b"}}, []string{"a", "b"}},
			{url.Values{"n": {"2"}, "last": {"b"}}, url.Values{"n": {"2"}, "last": {"d"}}, []string{"c", "d"}},
			{url.Values{"n": {"3"}, "last": {"c"}}, nil, []string{"d", "e"}},
			{url.Values{"last": {"e"}}, nil, []string{}},
		} {
			list, err := tags(t, n, c.query)
			wantTags(t, list, err, namespace.Stale, c.next, c.want...)
		}
		if list, err := tags(t, n, url.Values{"last": {"bb"}}); err == nil {
			t.Errorf("after a tag that is not kept: %v", list.Tags)
		}
		if list, err := tags(t, n, url.Values{"next_page": {"2"}}); err == nil {
			t.Errorf("a page that is not kept: %v", list.Tags)
		}
		away.Remove()

		// A page that changed ends the list, until its link is followed again.
		r.AddImage("app", "aa", []byte("aa"))
		time.Sleep(time.Hour)
		read(url.Values{"n": {"2"}})
		r.Fault(upstreamtest.Tags, upstreamtest.Status(403, ""))
		list, err := tags(t, n, nil)
		wantTags(t, list, err, namespace.Stale, url.Values{"n": {"2"}, "last": {"aa"}}, "a", "aa")
	})
}

// TestInventedQuestions asks an upstream for content that it lacks: nothing is recorded.
func TestInventedQuestions(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		image := r.AddImage("app", "tag", []byte("a layer"))
		for i := range 100 {
			random := digest.FromString(fmt.Sprint(i))
			for _, repo := range []string{"app", fmt.Sprint("none", i)} {
				for _, artifactType := range []string{"", fmt.Sprint("a/b", i)} {
					if _, err := n.Referrers(t.Context(), repo, random, artifactType); err != nil {
						t.Fatal(err)
					}
				}
				n.Referrers(t.Context(), "app", image.Digest, fmt.Sprint("a/b", i))
				n.Manifest(t.Context(), repo, oci.ByDigest(random))
				n.Manifest(t.Context(), repo, oci.ByTag(fmt.Sprint("none", i)))
				n.Head(t.Context(), repo, oci.ByTag(fmt.Sprint("none", i)))
				getBlob(t, n, repo, random)
			}
			n.Tags(t.Context(), fmt.Sprint("none", i), nil)
		}
		if records := m.recordKeys(t); len(records) != 0 {
			t.Errorf("%d records, such as %s", len(records), records[0])
		}
		// That a known image has no referrers is worth a record.
		get(t, n, "app", "tag")
		before := len(m.recordKeys(t))
		if _, err := n.Referrers(t.Context(), "app", image.Digest, ""); err != nil || len(m.recordKeys(t)) != before+1 {
			t.Errorf("%d records after %d, %v", len(m.recordKeys(t)), before, err)
		}
	})
}

// TestInventedQuestionsOfAgreeableRegistries has registries that answer what a client invents
// with 200: an empty list of tags for any repository, the same page for any token, the same
// referrers for any type, and a manifest by HEAD for any tag.
func TestInventedQuestionsOfAgreeableRegistries(t *testing.T) {
	for name, c := range map[string]struct {
		match upstreamtest.Match
		body  string
		ask   func(ctx context.Context, n *namespace.Namespace, subject digest.Digest, i int) error
		want  int // records that all of them leave
	}{
		"no tags": {upstreamtest.Tags, `{"tags":[]}`, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest, i int) error {
			_, err := n.Tags(ctx, fmt.Sprint("none", i), nil)
			return err
		}, 0},
		"null": {upstreamtest.Tags, `{"name":"none","tags":null}`, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest, i int) error {
			_, err := n.Tags(ctx, fmt.Sprint("none", i), nil)
			return err
		}, 0},
		"tokens of pages": {upstreamtest.Tags, `{"tags":["a","b"]}`, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest, i int) error {
			_, err := n.Tags(ctx, "app", url.Values{"page": {fmt.Sprint(i)}})
			return err
		}, 0},
		"names of parameters": {upstreamtest.Tags, `{"tags":["a","b"]}`, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest, i int) error {
			_, err := n.Tags(ctx, "app", url.Values{fmt.Sprint("x", i): {"y"}})
			return err
		}, 0},
		"lengths of pages": {upstreamtest.Tags, `{"tags":["a","b"]}`, func(ctx context.Context, n *namespace.Namespace, _ digest.Digest, i int) error {
			_, err := n.Tags(ctx, "app", url.Values{"n": {fmt.Sprint(i + 2)}})
			return err
		}, 1},
		"types of referrers": {nil, "", func(ctx context.Context, n *namespace.Namespace, subject digest.Digest, i int) error {
			_, err := n.Referrers(ctx, "app", subject, fmt.Sprint("application/x", i))
			return err
		}, 8},
		"tags by HEAD": {upstreamtest.Manifests, "", func(ctx context.Context, n *namespace.Namespace, _ digest.Digest, i int) error {
			_, err := n.Head(ctx, "app", oci.ByTag(fmt.Sprint("x", i)))
			return err
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example", upstreamtest.WithoutReferrersFilter())
				n := m.namespace("up.example", r)
				image := r.AddImage("app", "v1", []byte("a layer"))
				r.AddReferrer("app", image, "application/sbom", []byte("sbom"))
				get(t, n, "app", "v1")
				before := len(m.recordKeys(t))
				switch {
				case c.body != "":
					r.Fault(c.match, upstreamtest.Status(200, c.body))
				case c.match != nil:
					r.Fault(c.match, upstreamtest.Status(200, ""), upstreamtest.Header("Content-Type", image.MediaType),
						upstreamtest.Header("Docker-Content-Digest", digest.FromString("x").String()), upstreamtest.Header("Content-Length", "7"))
				}
				for i := range 50 {
					if err := c.ask(t.Context(), n, image.Digest, i); err != nil {
						t.Fatal(err)
					}
				}
				if left := len(m.recordKeys(t)) - before; left != c.want {
					t.Errorf("%d records after 50 questions, want %d: %q", left, c.want, m.recordKeys(t))
				}
			})
		})
	}
}

// TestTagsFromTheCache has lists that were never asked for.
func TestTagsFromTheCache(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r, staleOn(upstream.ClassDenied))
		r.Fault(upstreamtest.Tags, upstreamtest.Status(403, ""))
		if list, err := tags(t, n, nil); !errors.Is(err, upstream.ErrDenied) {
			t.Errorf("nothing is cached: %+v, %v", list, err)
		}
		if list, err := tags(t, m.namespace("up.example", r, offline), nil); !isOffline(err) {
			t.Errorf("nothing is cached, offline: %+v, %v", list, err)
		}
		for _, tag := range []string{"c", "a", "b"} {
			r.AddImage("app", tag, []byte(tag))
			get(t, n, "app", tag)
			time.Sleep(time.Minute)
		}
		list, err := tags(t, n, nil)
		wantTags(t, list, err, namespace.Stale, nil, "a", "b", "c")
		if !strings.Contains(list.Warning, "3m0s") {
			t.Errorf("the warning %q does not tell the age of the oldest", list.Warning)
		}
		list, err = tags(t, n, url.Values{"n": {"2"}})
		wantTags(t, list, err, namespace.Stale, url.Values{"n": {"2"}, "last": {"b"}}, "a", "b")
		list, err = tags(t, n, list.Next)
		wantTags(t, list, err, namespace.Stale, nil, "c")
		list, err = tags(t, m.namespace("up.example", r, offline, maxStale(time.Second)), nil)
		wantTags(t, list, err, namespace.Hit, nil, "a", "b", "c")

		// max_stale holds for each of them.
		list, err = tags(t, m.namespace("up.example", r, staleOn(upstream.ClassDenied), maxStale(150*time.Second)), nil)
		wantTags(t, list, err, namespace.Stale, nil, "a", "b")
		n = m.namespace("up.example", r, staleOn(upstream.ClassDenied), maxStale(time.Second))
		if list, err := tags(t, n, nil); !errors.Is(err, upstream.ErrDenied) {
			t.Errorf("all are too old: %+v, %v", list, err)
		}
	})
}

func TestTagsHerd(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		n := m.namespace("up.example", r)
		r.AddImage("app", "a", []byte("a layer"))
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Tags, upstreamtest.Hold(gate))
		statuses := make(chan namespace.CacheStatus, 10)
		together(gate, 10, func(int) {
			list, err := tags(t, n, nil)
			if err != nil || len(list.Tags) != 1 {
				t.Errorf("%+v, %v", list, err)
				return
			}
			statuses <- list.Cache
		})
		counts := make(map[namespace.CacheStatus]int)
		for range 10 {
			counts[<-statuses]++
		}
		if counts[namespace.Passed] != 1 || counts[namespace.Collapsed] != 9 {
			t.Errorf("statuses: %v", counts)
		}
		wantRequests(t, r, "GET /v2/app/tags/list 200")
	})
}

func wantReferrers(t *testing.T, r *namespace.Referrers, err error, cache namespace.CacheStatus, want ...ocispec.Descriptor) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if r.Cache != cache || (r.Warning != "") != (cache == namespace.Stale) {
		t.Errorf("%v with the warning %q, want %v", r.Cache, r.Warning, cache)
	}
	got := make(map[digest.Digest]bool)
	for _, d := range r.Index.Manifests {
		got[d.Digest] = true
	}
	for _, d := range want {
		if !got[d.Digest] {
			t.Errorf("%s is missing", d.ArtifactType)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d referrers, want %d", len(got), len(want))
	}
}

func TestReferrers(t *testing.T) {
	for name, options := range map[string][]upstreamtest.Option{
		"API":            nil,
		"without filter": {upstreamtest.WithoutReferrersFilter()},
		"fallback tag":   {upstreamtest.WithoutReferrers()},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example", options...)
				n := m.namespace("up.example", r, staleOn(upstream.ClassDenied))
				image := r.AddImage("app", "tag", []byte("a layer"))
				sbom := r.AddReferrer("app", image, "application/sbom", []byte("sbom"))
				signature := r.AddReferrer("app", image, "application/signature", []byte("signature"))
				list := func(n *namespace.Namespace, artifactType string) (*namespace.Referrers, error) {
					return n.Referrers(t.Context(), "app", image.Digest, artifactType)
				}
				off := m.namespace("up.example", r, offline)
				if _, err := list(off, ""); !isOffline(err) {
					t.Errorf("offline and never asked: %v", err)
				}
				got, err := list(n, "application/sbom")
				wantReferrers(t, got, err, namespace.Passed, sbom)
				got, err = list(n, "")
				wantReferrers(t, got, err, namespace.Passed, sbom, signature)

				r.Fault(upstreamtest.Any, upstreamtest.Status(403, ""))
				got, err = list(n, "")
				wantReferrers(t, got, err, namespace.Stale, sbom, signature)
				got, err = list(n, "application/sbom")
				wantReferrers(t, got, err, namespace.Stale, sbom)
				// Never asked, but told by the whole list.
				got, err = list(n, "application/signature")
				wantReferrers(t, got, err, namespace.Stale, signature)
				got, err = list(off, "application/signature")
				wantReferrers(t, got, err, namespace.Hit, signature)

				if _, err = list(m.namespace("up.example", r), "application/signature"); !errors.Is(err, upstream.ErrDenied) {
					t.Errorf("a class that is not served from the cache: %v", err)
				}
			})
		})
	}
}

func TestNoReferrers(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example", upstreamtest.WithoutReferrers())
		got, err := m.namespace("up.example", r).Referrers(t.Context(), "app", digest.FromString("x"), "")
		wantReferrers(t, got, err, namespace.Passed)
	})
}

// Kept lists that a local user replaced count as none, and cost no more than their bytes.
func TestReplacedLists(t *testing.T) {
	const n = 2 << 20
	many := func(value string) string { return "[" + strings.Repeat(value+",", n) + value + "]" }
	for name, body := range map[string]string{
		"pages":       `{"pages":` + many("{}") + `}`,
		"tags":        `{"tags":` + many(`""`) + `}`,
		"next":        `{"pages":[{"tags":["a"],"next":{"a":` + many(`""`) + `}}]}`,
		"descriptors": `{"index":{"manifests":` + many("{}") + `}}`,
		"annotations": `{"index":{"annotations":{"a":""` + strings.Repeat(`,"b":""`, n) + `}}}`,
		"nested":      strings.Repeat("[", n),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				n := m.namespace("up.example", r, staleOn(upstream.ClassUnavailable))
				r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
				repo := storage.RepoID{Namespace: "up.example", Name: "app"}
				subject := digest.FromString("subject")
				for kind, list := range map[string]string{"tags": "", "referrers": subject.String() + "?"} {
					if err := m.catalog.PutDocument(t.Context(), repo, kind, list, catalog.Document{Body: []byte(body), Checked: time.Now()}); err != nil {
						t.Fatal(err)
					}
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				if list, err := n.Tags(t.Context(), "app", nil); err == nil {
					t.Errorf("%d tags", len(list.Tags))
				}
				if list, err := n.Referrers(t.Context(), "app", subject, ""); err == nil {
					t.Errorf("%d referrers", len(list.Index.Manifests))
				}
				runtime.ReadMemStats(&after)
				// Each record is read and its body copied out of it.
				if took := int(after.TotalAlloc - before.TotalAlloc); took > 2*3*len(body) {
					t.Errorf("two records with bodies of %d MiB took %d MiB", len(body)>>20, took>>20)
				}
			})
		})
	}
}
