package upstream_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A link leads to the next page in whatever form it is written, or to none.
func TestLinks(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("repo", "c", []byte("layer"))
	c := newClient(t, r)
	next := url.Values{"last": {"c"}, "n": {"2"}}
	for link, want := range map[string]url.Values{
		`</v2/repo/tags/list?last=c&n=2>; rel="next"`:                            next,
		`</v2/repo/tags/list?last=c&n=2>; rel=next`:                              next,
		`</v2/repo/tags/list?last=c&n=2>;rel=next`:                               next,
		`</v2/repo/tags/list?last=c&n=2> ; REL = "NEXT"`:                         next,
		`</v2/repo/tags/list?last=c&n=2>; rel='next'`:                            next,
		`</v2/repo/tags/list?last=c&n=2>; rel="prev next"`:                       next,
		`<https://elsewhere.test/b?last=c&n=2>; rel="next"`:                      next,
		`<//elsewhere.test/b?last=c&n=2>; rel="next"`:                            next,
		`<list?last=c&n=2>; rel="next"`:                                          next,
		`<?last=c&n=2>; rel="next"`:                                              next,
		`< ?last=c&n=2 >; rel="next"`:                                            next,
		`<?last=c&amp;n=2>; rel="next"`:                                          next,
		`<?last=c&amp;amp;n=2>; rel="next"`:                                      next,
		`<?last=c&#38;n=2>; rel="next"`:                                          next,
		`<?last=c\u0026n=2>; rel="next"`:                                         next,
		`<?last=c;n=2>; rel="next"`:                                              next,
		`<?n=2;last=c>; rel="next"`:                                              next,
		`<?last=c&n=2#top>; rel="next"`:                                          next,
		`<?&last=c&&n=2&>; rel="next"`:                                           next,
		`</v2/repo/tags/list;session=1?last=c&n=2>; rel="next"`:                  next,
		`<?x=1>; rel=prev, <?last=c&n=2>; rel=next`:                              next,
		`<?x=1>; rel=prev; title="a, <?x=2>; rel=next", <?last=c&n=2>; rel=next`: next,
		`<?last=c&n=2>; title="; rel=prev"; rel="next"`:                          next,
		`<?last=c&n=2>; title="a \" quote"; rel="next"; hreflang=en`:             next,
		`<?last=c&n=2>; rel=next, <?x=1>; rel=next`:                              next,
		`garbage, <?last=c&n=2>; rel=next`:                                       next,
		`<?page=ab%2Bc%3D;d>; rel=next`:                                          {"page": {"ab+c=;d"}},
		`<?page=ab==>; rel=next`:                                                 {"page": {"ab=="}},
		`<?last=c>; rel=prev; rel=next`:                                          nil,
		`<?last=c>; title="rel=next"`:                                            nil,
		`<?last=c>; relation=next`:                                               nil,
		`<?last=c>`:                                                              nil,
		`<?last=c; rel=next`:                                                     nil,
		`<?last=%zz&n=2>; rel=next`:                                              nil,
		`</v2/repo/tags/list>; rel=next`:                                         nil,
		`</v2/repo/tags/list?>; rel=next`:                                        nil,
		`<>; rel=next`:                                                           nil,
		`<?=c>; rel=next`:                                                        nil,
		`?last=c; rel=next`:                                                      nil,
		`<`:                                                                      nil,
		`garbage`:                                                                nil,
		`,;,"`:                                                                   nil,
		`<?last=` + strings.Repeat("x", 2048) + `>; rel=next`:                    nil,
	} {
		r.Fault(upstreamtest.Tags, upstreamtest.Header("Link", link)).Times(1)
		got := must[*oci.TagList](t)(c.Tags(t.Context(), "repo", nil))
		if diff := cmp.Diff(want, got.Next); diff != "" {
			t.Errorf("%s: %s", link, diff)
		}
	}
}

// A link that leads back to a page before is none, so that no client turns in a circle.
func TestLinksThatLeadBack(t *testing.T) {
	r := upstreamtest.New(t)
	c := newClient(t, r)
	for name, test := range map[string]struct {
		asked, link, tags string
		ends              bool
	}{
		"a next page":                     {"n=2&last=b", "n=2&last=d", `"c","d"`, false},
		"from the first page":             {"", "last=b", `"a","b"`, false},
		"the same query":                  {"n=2&last=b", "n=2&last=b", `"a","b"`, true},
		"the same query in another order": {"last=b&n=2", "n=2&last=b", `"c","d"`, true},
		"the same page, longer":           {"last=b", "n=100&last=b", `"c","d"`, true},
		"the first page again":            {"n=2", "n=2", `"a","b"`, true},
		"the first page again, longer":    {"", "n=100", `"a","b"`, true},
		"back to an earlier page":         {"n=2&last=d", "n=2&last=b", `"e","f"`, true},
		"the same token":                  {"page=x", "page=x", `"a"`, true},
		"another token":                   {"page=x", "page=y", `"a"`, false},
		"another order of tags":           {"last=b", "last=B", `"a","B"`, false},
		"an empty page":                   {"page=x", "page=y", ``, false},
		"an empty page that goes nowhere": {"n=2&last=d", "n=2&last=d", ``, true},
		"a link without its parameter":    {"n=2&last=b", "n=2", `"c","d"`, true},
		"a token that was lost":           {"page=z", "n=2&page=", `"a"`, true},
		"an empty last":                   {"n=2&last=b", "last=&n=2", `"c","d"`, true},
	} {
		query, _ := url.ParseQuery(test.asked)
		r.Fault(upstreamtest.Tags, upstreamtest.Status(200, `{"tags":[`+test.tags+`]}`), upstreamtest.Header("Link", "<?"+test.link+`>; rel=next`)).Times(1)
		if got := must[*oci.TagList](t)(c.Tags(t.Context(), "repo", query)); (got.Next == nil) != test.ends {
			t.Errorf("%s: next is %v", name, got.Next)
		}
	}
}

// A circle of pages ends wherever a client enters it, and each time. A way without one
// ends by itself, also if another client goes along it in other steps.
func TestCirclesOfPages(t *testing.T) {
	long := map[string]string{"": "p0"}
	for i := range 50 {
		long[fmt.Sprintf("page=p%d", i)] = fmt.Sprintf("page=p%d", i+1)
	}
	long[""], long["page=p50"] = "page=p0", "page=p7"
	for name, test := range map[string]struct {
		links map[string]string // from query to query
		asked string            // the first query
		want  int               // pages
	}{
		"two tokens":         {map[string]string{"": "page=1", "page=1": "page=2", "page=2": "page=1"}, "", 3},
		"entered in between": {map[string]string{"page=1": "page=2", "page=2": "page=1"}, "page=2", 2},
		"three names":        {map[string]string{"": "last=b&n=2", "last=b&n=2": "last=d&n=2", "last=d&n=2": "last=B&n=2", "last=B&n=2": "last=b&n=2"}, "", 4},
		"other lengths":      {map[string]string{"n=2": "n=2&page=1", "n=2&page=1": "n=2&page=2", "n=2&page=2": "n=9&page=1"}, "n=2", 3},
		"a long one":         {long, "", 52},
		"none":               {map[string]string{"": "page=1", "page=1": "page=3", "page=3": "page=2"}, "", 4},
	} {
		t.Run(name, func(t *testing.T) {
			links := make(map[string]string)
			for from, to := range test.links {
				query, _ := url.ParseQuery(from)
				links[query.Encode()] = to
			}
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if to := links[r.URL.Query().Encode()]; to != "" {
					w.Header().Set("Link", "<?"+to+`>; rel="next"`)
				}
				w.Write([]byte(`{"tags":["B"]}`))
			}))
			t.Cleanup(s.Close)
			c := newClient(t, upstreamtest.New(t), func(o *upstream.Options) { o.URL = must[*url.URL](t)(url.Parse(s.URL)) })
			for range 3 {
				query, _ := url.ParseQuery(test.asked)
				read := 0
				for ; query != nil && read < 100; read++ {
					query = must[*oci.TagList](t)(c.Tags(t.Context(), "repo", query)).Next
				}
				if read != test.want {
					t.Errorf("%d pages, want %d", read, test.want)
				}
				// The pages of another repository are others.
				if list := must[*oci.TagList](t)(c.Tags(t.Context(), "other", url.Values{"page": {"2"}})); links["page=2"] != "" && list.Next == nil {
					t.Error("another repository has no next page")
				}
			}
		})
	}
}
