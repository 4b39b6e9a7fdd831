package upstream_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
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
	} {
		query, _ := url.ParseQuery(test.asked)
		r.Fault(upstreamtest.Tags, upstreamtest.Status(200, `{"tags":[`+test.tags+`]}`), upstreamtest.Header("Link", "<?"+test.link+`>; rel=next`)).Times(1)
		if got := must[*oci.TagList](t)(c.Tags(t.Context(), "repo", query)); (got.Next == nil) != test.ends {
			t.Errorf("%s: next is %v", name, got.Next)
		}
	}
}
