package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

// follow reads all pages of a list from path on, and returns how the names of
// each page and the queries of the links.
func follow[T any](t *testing.T, m *mirror, path string) (pages []T, links []url.Values) {
	t.Helper()
	for path != "" {
		w := m.do("GET", path)
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(), "Content-Type", "application/json")
		var page T
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		pages = append(pages, page)
		path = ""
		if link := w.Header().Get("Link"); link != "" {
			const start, end = "<", `>; rel="next"`
			if link[:1] != start || link[len(link)-len(end):] != end {
				t.Fatalf("Link: %s", link)
			}
			path = link[1 : len(link)-len(end)]
			u, err := url.Parse(path)
			if err != nil {
				t.Fatal(err)
			}
			links = append(links, u.Query())
		}
	}
	return pages, links
}

type tagPage struct {
	Name string
	Tags []string
}

func TestTags(t *testing.T) {
	r, m := pair(t)
	for _, tag := range []string{"a", "b", "c"} {
		r.AddImage("app", tag, []byte(tag))
	}
	// The name is the client's, and its ns stays in the links.
	pages, links := follow[tagPage](t, m, "/v2/app/tags/list?n=2&ns=up.example")
	if diff := cmp.Diff([]tagPage{{"app", []string{"a", "b"}}, {"app", []string{"c"}}}, pages); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]url.Values{{"n": {"2"}, "last": {"b"}, "ns": {"up.example"}}}, links); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"GET /v2/app/tags/list?n=2 200", "GET /v2/app/tags/list?last=b&n=2 200"}, r.Requests()); diff != "" {
		t.Error(diff)
	}
	pages, links = follow[tagPage](t, m, "/v2/up.example/app/tags/list")
	if diff := cmp.Diff([]tagPage{{"up.example/app", []string{"a", "b", "c"}}}, pages); diff != "" || len(links) != 0 {
		t.Errorf("%s, %v", diff, links)
	}
	wantHeader(t, m.do("GET", "/v2/up.example/app/tags/list").Header(), "Cache-Status", "weir; fwd=uri-miss")
}

// TestForeignLink has an upstream whose links are of its own making.
func TestForeignLink(t *testing.T) {
	r, m := pair(t)
	r.AddImage("app", "a", []byte("a"))
	link := r.Fault(upstreamtest.Tags, upstreamtest.Header("Link", `<https://elsewhere.example/v2/x/tags/list?next_page=a%26b%3D&ns=other>; rel="next"`)).Times(1)
	_, links := follow[tagPage](t, m, "/v2/up.example/app/tags/list")
	if diff := cmp.Diff([]url.Values{{"continue": {"bmV4dF9wYWdlPWElMjZiJTNE"}}}, links); diff != "" || link.Hits() != 1 {
		t.Error(diff)
	}
	if want := "GET /v2/app/tags/list?next_page=a%26b%3D 200"; !slices.Contains(r.Requests(), want) {
		t.Errorf("requests: %v", r.Requests())
	}
}

// A long list is encoded in pieces, so that a client that reads it slowly costs no copy
// of it.
func TestLongLists(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	var tags, referrers []string
	for i := range 20_000 {
		tags = append(tags, fmt.Sprintf("%q", fmt.Sprintf("v%040d", i)))
	}
	for i := range 2000 {
		referrers = append(referrers, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"a":"<&>","b":%[2]q}}`,
			ocispec.MediaTypeImageManifest, digest.FromString(fmt.Sprint(i)), i))
	}
	index := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[` + strings.Join(referrers, ",") + `]}`
	for path, body := range map[string]string{
		"/v2/up.example/app/tags/list":                                       `{"name":"up.example/app","tags":[` + strings.Join(tags, ",") + `]}`,
		"/v2/up.example/app/referrers/" + image.Digest.String():              index,
		"/v2/up.example/app/referrers/" + digest.FromString("none").String(): strings.Replace(index, strings.Join(referrers, ","), "", 1),
	} {
		r.ClearFaults()
		r.Fault(upstreamtest.Any, upstreamtest.Status(200, body), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex))
		w := &pieces{ResponseRecorder: httptest.NewRecorder()}
		m.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var got, want any
		if err := errors.Join(json.Unmarshal(w.Body.Bytes(), &got), json.Unmarshal([]byte(body), &want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", path, w.Body.Len(), len(body), err)
		}
		if w.longest > 128<<10 {
			t.Errorf("%s: %d bytes in one piece", path, w.longest)
		}
		if length := w.Header().Get("Content-Length"); (length != "") != (w.number == 1) {
			t.Errorf("%s: Content-Length %q of %d pieces", path, length, w.number)
		}
	}
}

// pieces records the writes of an answer.
type pieces struct {
	*httptest.ResponseRecorder
	number, longest int
}

func (p *pieces) Write(piece []byte) (int, error) {
	p.number++
	p.longest = max(p.longest, len(piece))
	return p.ResponseRecorder.Write(piece)
}

func TestEmptyTags(t *testing.T) {
	r, m := pair(t)
	r.Fault(upstreamtest.Tags, upstreamtest.Status(200, `{"name":"app","tags":null}`))
	if w := m.do("GET", "/v2/up.example/app/tags/list"); w.Body.String() != `{"name":"up.example/app","tags":[]}` {
		t.Errorf("body %s", w.Body)
	}
}

func TestReferrers(t *testing.T) {
	r, m := pair(t)
	image := r.AddImage("app", "v1", []byte("a layer"))
	path := "/v2/up.example/app/referrers/" + image.Digest.String()
	if w := m.do("GET", path); w.Body.String() != `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}` {
		t.Errorf("body %s", w.Body)
	}
	sbom := r.AddReferrer("app", image, "application/sbom", []byte("sbom"))
	r.AddReferrer("app", image, "application/signature", []byte("signature"))
	for query, want := range map[string]struct {
		filters string
		n       int
	}{
		"": {"", 2}, "?artifactType=application/sbom": {"artifactType", 1}, "?artifactType=none": {"artifactType", 0},
	} {
		w := m.do("GET", path+query)
		wantStatus(t, w, 200)
		wantHeader(t, w.Header(), "Content-Type", ocispec.MediaTypeImageIndex, "OCI-Filters-Applied", want.filters)
		var index ocispec.Index
		if err := json.Unmarshal(w.Body.Bytes(), &index); err != nil || len(index.Manifests) != want.n || index.SchemaVersion != 2 {
			t.Errorf("%q: %s, %v", query, w.Body, err)
		}
		if want.n == 1 && index.Manifests[0].Digest != sbom.Digest {
			t.Errorf("%q: %s", query, w.Body)
		}
	}
}

func TestCatalog(t *testing.T) {
	r, m := pair(t)
	type catalog struct{ Repositories []string }
	if w := m.do("GET", "/v2/_catalog"); w.Body.String() != `{"repositories":[]}` {
		t.Errorf("empty: %s", w.Body)
	}
	for _, repo := range []string{"b", "a", "team/c"} {
		r.AddImage(repo, "v1", []byte(repo))
		wantStatus(t, m.do("GET", "/v2/up.example/"+repo+"/manifests/v1"), 200)
	}
	wantStatus(t, m.do("GET", "/v2/up.example/missing/manifests/v1"), 404)
	pages, links := follow[catalog](t, m, "/v2/_catalog?n=2")
	if diff := cmp.Diff([]catalog{{[]string{"up.example/a", "up.example/b"}}, {[]string{"up.example/team/c"}}}, pages); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]url.Values{{"n": {"2"}, "last": {"up.example/b"}}}, links); diff != "" {
		t.Error(diff)
	}
	pages, _ = follow[catalog](t, m, "/v2/_catalog?last=up.example/b")
	if diff := cmp.Diff([]catalog{{[]string{"up.example/team/c"}}}, pages); diff != "" {
		t.Error(diff)
	}
	// What no block serves any more is not listed.
	m.serve()
	if w := m.do("GET", "/v2/_catalog"); w.Body.String() != `{"repositories":[]}` {
		t.Errorf("without blocks: %s", w.Body)
	}
}
