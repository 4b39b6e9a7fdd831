package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// oddReferrers are registries that refuse the list of referrers: the fallback tag is
// read, and only a registry's word that it is missing means that there are none.
func oddReferrers() []oddity {
	const page = "<!DOCTYPE html><title>Sign in</title>"
	denied := `{"errors":[{"code":"DENIED","message":"no"}]}`
	subject := digest.FromString("the subject")
	list, tag := "GET /v2/app/referrers/"+subject.String()+" ", "GET /v2/app/manifests/sha256-"+subject.Encoded()+" "
	referrer := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":3,"artifactType":"example/sbom"}`, ocispec.MediaTypeImageManifest, digest.FromString("sbom"))
	platform := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":3,"platform":{"architecture":"amd64","os":"linux"}}`, ocispec.MediaTypeImageManifest, digest.FromString("amd64"))
	index := func(entry string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, entry)
	}
	var oddities []oddity
	for _, c := range []struct {
		name     string
		list     int
		listBody string
		tag      string // the fallback tag's content; "": there is none
		tagFault int    // in place of it
		answer   int
		found    string
		wire     []string
	}{
		{"401, tag", 401, "", index(referrer), 0, 200, "example/sbom", []string{list + "401", tag + "200"}},
		{"403, tag", 403, denied, index(referrer), 0, 200, "example/sbom", []string{list + "403", tag + "200"}},
		{"406, tag", 406, "", index(referrer), 0, 200, "example/sbom", []string{list + "406", tag + "200"}},
		{"500, tag", 500, page, index(referrer), 0, 200, "example/sbom", []string{list + "500", tag + "200"}},
		{"501, tag", 501, "", index(referrer), 0, 200, "example/sbom", []string{list + "501", tag + "200"}},
		{"a page, tag", 200, page, index(referrer), 0, 200, "example/sbom", []string{list + "200", tag + "200"}},
		{"406, no tag", 406, "", "", 0, 200, `"manifests":[]`, []string{list + "406", tag + "404"}},
		{"404, 403 for the missing tag", 404, "", "", 403, 200, `"manifests":[]`, []string{list + "404", tag + "403"}},
		{"404, the tag names the platforms", 404, "", index(platform), 0, 200, `"manifests":[]`, []string{list + "404", tag + "200"}},
		{"404, the tag names an image", 404, "", `{"schemaVersion":2,"config":{},"layers":[]}`, 0, 200, `"manifests":[]`, []string{list + "404", tag + "200"}},
		{"both denied", 403, denied, "", 403, 403, "DENIED", []string{list + "403", tag + "403"}},
		{"500, and 500 for the tag", 500, "", "", 500, 502, "UNAVAILABLE", []string{list + "500", tag + "500"}},
		{"429", 429, "", index(referrer), 0, 429, "TOOMANYREQUESTS", []string{list + "429"}},
		{"503", 503, "", "", 0, 502, "UNAVAILABLE", []string{list + "503", list + "503", list + "503"}},
	} {
		oddities = append(oddities, oddity{
			name: "referrers: " + c.name,
			script: func(upstream *upstreamtest.Registry) []string {
				upstream.Fault(upstreamtest.Referrers, upstreamtest.Status(c.list, c.listBody))
				if c.tag != "" {
					upstream.AddManifest("app", "sha256-"+subject.Encoded(), "", []byte(c.tag))
				}
				if c.tagFault != 0 {
					upstream.Fault(upstreamtest.Manifests, upstreamtest.Status(c.tagFault, denied))
				}
				return []string{"app/referrers/" + subject.String()}
			},
			answer: []int{c.answer},
			wire:   c.wire,
			check: func(t *testing.T, answers []harness.Answer) {
				if got := string(answers[0].Body); !strings.Contains(got, c.found) {
					t.Errorf("the client got %s, want %s", got, c.found)
				}
			},
		})
	}
	return append(oddities, ownReferrer())
}

// ownReferrer is a registry that reads the fallback tag as a digest, as GitLab does.
func ownReferrer() oddity {
	subject := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":3}]}`,
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, digest.FromString("a platform"))
	dgst := digest.FromString(subject)
	return oddity{
		name:    "referrers: the tag names the subject",
		options: []upstreamtest.Option{upstreamtest.WithoutReferrers()},
		script: func(upstream *upstreamtest.Registry) []string {
			upstream.AddManifest("app", "sha256-"+dgst.Encoded(), ocispec.MediaTypeImageIndex, []byte(subject))
			return []string{"app/referrers/" + dgst.String()}
		},
		wire: []string{"GET /v2/app/referrers/" + dgst.String() + " 404", "GET /v2/app/manifests/sha256-" + dgst.Encoded() + " 200"},
		check: func(t *testing.T, answers []harness.Answer) {
			if got := string(answers[0].Body); !strings.Contains(got, `"manifests":[]`) {
				t.Errorf("the client got %s", got)
			}
		},
	}
}

// A client that follows the mirror's links sees the whole list of tags and comes to an
// end, however the upstream writes its links.
func TestOddLinks(t *testing.T) {
	t.Parallel()
	links := []struct {
		name   string
		first  string // Link of the first page, with the tags a and b
		second string // of the one after b, with c and d
		tags   string // that the client sees
		pages  int
	}{
		{"escaped for HTML", `</v2/app/tags/list?last=b&amp;n=2>; rel="next"`, `</v2/app/tags/list?last=d&amp;n=2>; rel="next"`, "a b c d e", 3},
		{"escaped for JSON", `</v2/app/tags/list?last=b\u0026n=2>; rel="next"`, `</v2/app/tags/list?last=d\u0026n=2>; rel="next"`, "a b c d e", 3},
		{"semicolons", `</v2/app/tags/list?last=b;n=2>; rel="next"`, `</v2/app/tags/list;s=1?n=2;last=d>; rel="next"`, "a b c d e", 3},
		{"relative and unquoted", `<list?n=2&last=b>; rel=next`, `<?last=d&n=2>; rel=next`, "a b c d e", 3},
		{"one of several", `<?n=2>; rel="first"; title="a, <b>; rel=next", <?n=2&last=b>; rel="next"`, `<?n=2&last=d>; rel="last next"`, "a b c d e", 3},
		{"unreadable", `</v2/app/tags/list?n=2&last=%zz>; rel="next"`, "", "a b", 1},
		{"without an end", `</v2/app/tags/list?n=2&last=b; rel="next"`, "", "a b", 1},
		{"to the same page", `<?n=2&last=b>; rel="next"`, `<?n=2&last=b>; rel="next"`, "a b c d", 2},
		{"to the first page", `<?n=2>; rel="next"`, "", "a b", 1},
		{"back to the first page", `<?n=2&last=b>; rel="next"`, `<?n=2>; rel="next"`, "a b c d", 2},
		{"back", `<?n=2&last=b>; rel="next"`, `<?n=2&last=a>; rel="next"`, "a b c d", 2},
	}
	upstreams, config := make([]*upstreamtest.Registry, len(links)), ""
	for i, c := range links {
		upstreams[i] = upstreamtest.New(t)
		for _, tag := range []string{"a", "b", "c", "d", "e"} {
			upstreams[i].AddImage("app", tag, []byte(tag))
		}
		for last, link := range map[string]string{"": c.first, "b": c.second} {
			after := func(r *http.Request) bool { return upstreamtest.Tags(r) && r.URL.Query().Get("last") == last }
			upstreams[i].Fault(after, upstreamtest.Header("Link", link))
		}
		config += blockOf(fmt.Sprint("links", i), nil, at(upstreams[i]))
	}
	w := harness.StartWeir(t, config)
	for i, c := range links {
		t.Run(c.name, func(t *testing.T) {
			list := fmt.Sprintf("/v2/links%d/app/tags/list?", i)
			tags, pages := []string{}, 0
			for path := list + "n=2"; path != "" && pages < 10; pages++ {
				a := w.Get(t, path)
				expect(t, path, a, http.StatusOK, "")
				var page struct{ Tags []string }
				if err := json.Unmarshal(a.Body, &page); err != nil {
					t.Fatal(err)
				}
				tags = append(tags, page.Tags...)
				link := a.Header.Get("Link")
				path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
				if link != "" && (link != "<"+path+`>; rel="next"` || !strings.HasPrefix(path, list)) {
					t.Errorf("the mirror's link is %s", link)
				}
			}
			if got := strings.Join(tags, " "); got != c.tags || pages != c.pages {
				t.Errorf("%q on %d pages, want %q on %d", got, pages, c.tags, c.pages)
			}
			if got := upstreams[i].Requests(); len(got) != c.pages {
				t.Errorf("the upstream was asked %q", got)
			}
		})
	}
}
