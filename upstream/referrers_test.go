package upstream_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestReferrers(t *testing.T) {
	for name, options := range map[string][]upstreamtest.Option{
		"filtered there": nil,
		"filtered here":  {upstreamtest.WithoutReferrersFilter()},
		"fallback tag":   {upstreamtest.WithoutReferrers()},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, options...)
			image := r.AddImage("repo", "latest", []byte("layer"))
			sbom := r.AddReferrer("repo", image, "example/sbom", []byte("sbom"))
			signature := r.AddReferrer("repo", image, "example/signature", []byte("signature"))
			c := upstream.NewChain(upstream.ChainOptions{}, newClient(t, r))
			for artifactType, want := range map[string]int{"": 2, "example/sbom": 1, "example/signature": 1, "example/none": 0} {
				got := must[*oci.Referrers](t)(c.Referrers(t.Context(), "repo", image.Digest, artifactType))
				if len(got.Index.Manifests) != want || got.Index.Manifests == nil || got.Index.MediaType != ocispec.MediaTypeImageIndex {
					t.Errorf("%q gives %v", artifactType, got.Index)
				}
				for _, m := range got.Index.Manifests {
					if m.Digest != sbom.Digest && m.Digest != signature.Digest || artifactType != "" && m.ArtifactType != artifactType {
						t.Errorf("%q gives %v", artifactType, m)
					}
				}
			}
			if got := must[*oci.Referrers](t)(c.Referrers(t.Context(), "repo", sbom.Digest, "")); len(got.Index.Manifests) != 0 {
				t.Errorf("got %v for what nobody refers to", got.Index)
			}
			r.Fault(upstreamtest.Any, upstreamtest.Status(500, ""))
			_, err := c.Referrers(t.Context(), "repo", image.Digest, "")
			wantError(t, err, upstream.ErrUnavailable)
		})
	}
}

// A registry whose referrers API is switched off may say so with 405.
func TestReferrersNotAllowed(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithoutReferrers())
	image := r.AddImage("repo", "latest", []byte("layer"))
	sbom := r.AddReferrer("repo", image, "example/sbom", []byte("sbom"))
	r.Fault(upstreamtest.Referrers, upstreamtest.Status(http.StatusMethodNotAllowed, ""))
	for _, artifactType := range []string{"", "example/sbom"} {
		got := must[*oci.Referrers](t)(newClient(t, r).Referrers(t.Context(), "repo", image.Digest, artifactType))
		if len(got.Index.Manifests) != 1 || got.Index.Manifests[0].Digest != sbom.Digest {
			t.Errorf("%q gives %v", artifactType, got.Index.Manifests)
		}
	}
}

const (
	page         = "<!DOCTYPE html><title>Not here</title>"
	deniedText   = `{"errors":[{"code":"DENIED","message":"no"}]}`
	unknownText  = `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such manifest"}]}`
	nameUnknown  = `{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}`
	unsupported  = `{"errors":[{"code":"UNSUPPORTED","message":"no such endpoint"}]}`
	tooManyText  = `{"errors":[{"code":"TOOMANYREQUESTS","message":"slower"}]}`
	brokenIndex  = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":`
	imageText    = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`
	emptyListing = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
)

// An answer that is no list of referrers leads to the fallback tag, and to no other
// request.
func TestReferrersRefused(t *testing.T) {
	for _, refusal := range []struct {
		status int
		body   string
	}{
		{400, ""}, {400, unsupported}, {401, ""}, {401, deniedText}, {403, ""}, {403, deniedText}, {403, page}, {404, ""}, {404, unknownText},
		{404, nameUnknown}, {404, page}, {405, ""}, {406, unsupported}, {410, ""}, {415, ""}, {418, page}, {500, ""}, {500, page}, {501, ""},
		{200, page}, {200, ""}, {200, "{}"}, {200, "404 page not found"}, {200, imageText}, {200, `[]`}, {200, `{"manifests":17}`}, {200, unknownText},
	} {
		t.Run(fmt.Sprintf("%d %.30s", refusal.status, refusal.body), func(t *testing.T) {
			r := upstreamtest.New(t, upstreamtest.WithoutReferrers())
			image := r.AddImage("repo", "latest", []byte("layer"))
			r.Fault(upstreamtest.Referrers, upstreamtest.Status(refusal.status, refusal.body))
			list, tag := listAndTag(image.Digest)
			c := newClient(t, r)
			if got := must[*oci.Referrers](t)(c.Referrers(t.Context(), "repo", image.Digest, "")); len(got.Index.Manifests) != 0 {
				t.Errorf("without a tag: %v", got.Index.Manifests)
			}
			sbom := r.AddReferrer("repo", image, "example/sbom", []byte("sbom"))
			for artifactType, want := range map[string]int{"": 1, "example/sbom": 1, "example/other": 0} {
				got := must[*oci.Referrers](t)(c.Referrers(t.Context(), "repo", image.Digest, artifactType))
				if len(got.Index.Manifests) != want || want > 0 && got.Index.Manifests[0].Digest != sbom.Digest {
					t.Errorf("%q gives %v", artifactType, got.Index.Manifests)
				}
			}
			answer := fmt.Sprintf("GET %s %d", list, refusal.status)
			wantAsked(t, r, answer, "GET "+tag+" 404", answer, "GET "+tag+" 200", answer, "GET "+tag+" 200", answer, "GET "+tag+" 200")
		})
	}
}

// listAndTag returns the paths of the two questions about the referrers of an image.
func listAndTag(dgst digest.Digest) (list, tag string) {
	return "/v2/repo/referrers/" + dgst.String(), "/v2/repo/manifests/sha256-" + dgst.Encoded()
}

// wantAsked compares the requests without their queries.
func wantAsked(t *testing.T, r *upstreamtest.Registry, want ...string) {
	t.Helper()
	var got []string
	for _, request := range r.Requests() {
		before, after, found := strings.Cut(request, "?")
		if found {
			_, status, _ := strings.Cut(after, " ")
			before += " " + status
		}
		got = append(got, before)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The two refusals together tell whether there are no referrers.
func TestNoReferrers(t *testing.T) {
	for _, c := range []struct {
		list     int
		listBody string
		tag      int
		tagBody  string
		want     error // nil: none
		requests int
	}{
		{404, "", 404, unknownText, nil, 2},
		{404, page, 404, page, nil, 2},
		{404, "", 403, deniedText, nil, 2}, // Artifactory, for a missing tag
		{404, "", 403, page, nil, 2},
		{405, "", 403, "", nil, 2},
		{500, "", 403, deniedText, nil, 2},
		{403, page, 403, deniedText, nil, 2}, // a web filter does not know the path
		{403, page, 403, page, upstream.ErrDenied, 2},
		{403, deniedText, 403, deniedText, upstream.ErrDenied, 2},
		{403, "", 403, "", upstream.ErrDenied, 2},
		{401, "", 403, "", upstream.ErrDenied, 2},
		{401, deniedText, 401, deniedText, upstream.ErrDenied, 2},
		{404, "", 401, "", upstream.ErrDenied, 2},
		{403, deniedText, 404, unknownText, nil, 2},
		{403, deniedText, 404, nameUnknown, upstream.ErrDenied, 2},
		{403, deniedText, 404, page, upstream.ErrDenied, 2},
		{500, "", 404, unknownText, nil, 2},
		{500, "", 404, page, upstream.ErrUnavailable, 2}, // a load balancer's
		{200, page, 404, "", nil, 2},
		{200, page, 200, page, upstream.ErrUnavailable, 2}, // a login page before everything
		{404, "", 200, page, upstream.ErrUnavailable, 2},
		{404, "", 200, brokenIndex, upstream.ErrUnavailable, 2},
		{404, "", 500, "", upstream.ErrUnavailable, 2},
		{403, "", 500, "", upstream.ErrUnavailable, 2},
		{500, "", 401, "", upstream.ErrUnavailable, 2},
		{500, "", 429, "", upstream.ErrRateLimited, 2},
		{404, "", 503, "", upstream.ErrUnavailable, 4}, // tried again, as any other request
		{429, "", 404, unknownText, upstream.ErrRateLimited, 1},
		{403, tooManyText, 404, unknownText, upstream.ErrRateLimited, 1},
		{502, "", 404, unknownText, upstream.ErrUnavailable, 3},
		{503, page, 404, unknownText, upstream.ErrUnavailable, 3},
		{504, "", 404, unknownText, upstream.ErrUnavailable, 3},
		{508, "", 404, unknownText, upstream.ErrUnavailable, 1},
		{200, brokenIndex, 404, unknownText, upstream.ErrUnavailable, 1},
	} {
		t.Run(fmt.Sprintf("%d %.20s, %d %.20s", c.list, c.listBody, c.tag, c.tagBody), func(t *testing.T) {
			r := upstreamtest.New(t)
			r.Fault(upstreamtest.Referrers, upstreamtest.Status(c.list, c.listBody))
			r.Fault(upstreamtest.Manifests, upstreamtest.Status(c.tag, c.tagBody))
			got, err := alone(newClient(t, r)).Referrers(t.Context(), "repo", digest.FromString("x"), "")
			if c.want != nil {
				wantError(t, err, c.want)
			} else if err != nil || len(got.Index.Manifests) != 0 {
				t.Errorf("%v, %v, want none", got, err)
			}
			if n := len(r.Requests()); n != c.requests {
				t.Errorf("asked %q, want %d requests", r.Requests(), c.requests)
			}
		})
	}
}

// A registry that cannot be reached is no registry without referrers.
func TestReferrersWithoutConnection(t *testing.T) {
	r := upstreamtest.New(t)
	c := newClient(t, r)
	r.Close()
	_, err := c.Referrers(t.Context(), "repo", digest.FromString("x"), "")
	wantError(t, err, upstream.ErrUnavailable)
}

// A repository that had a list keeps it through a fault of the registry: for an hour
// only "not found" means that there are no referrers.
func TestReferrersListedBefore(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		r := upstreamtest.New(t, upstreamtest.WithNetwork(n, "up.test"))
		image := r.AddImage("repo", "latest", []byte("layer"))
		r.AddReferrer("repo", image, "example/sbom", []byte("sbom"))
		c := newClient(t, r, on(n))
		must[*oci.Referrers](t)(c.Referrers(t.Context(), "repo", image.Digest, ""))
		for _, refusal := range []struct {
			status int
			body   string
			want   error
		}{
			{403, deniedText, upstream.ErrDenied}, {500, "", upstream.ErrUnavailable}, {200, page, upstream.ErrUnavailable},
			{404, page, upstream.ErrUnavailable}, {404, unknownText, nil},
		} {
			fault := r.Fault(upstreamtest.Referrers, upstreamtest.Status(refusal.status, refusal.body))
			if _, err := c.Referrers(t.Context(), "repo", image.Digest, ""); !errors.Is(err, refusal.want) {
				t.Errorf("%d: %v", refusal.status, err)
			}
			must[*oci.Referrers](t)(c.Referrers(t.Context(), "another", image.Digest, ""))
			fault.Remove()
		}
		time.Sleep(time.Hour)
		r.Fault(upstreamtest.Referrers, upstreamtest.Status(500, ""))
		must[*oci.Referrers](t)(c.Referrers(t.Context(), "repo", image.Digest, ""))
	})
}

// Only an index of referrers counts under the fallback tag.
func TestFallbackTag(t *testing.T) {
	const (
		subject  = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111","size":7}]}`
		child    = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
		ociIndex = ocispec.MediaTypeImageIndex
		list     = "application/vnd.docker.distribution.manifest.list.v2+json"
	)
	dgst := digest.FromString(subject)
	index := func(mediaType string, manifests ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, mediaType, strings.Join(manifests, ","))
	}
	entry := func(dgst, more string) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":7%s}`, dgst, more)
	}
	sbom := entry(child, `,"artifactType":"example/sbom"`)
	for name, c := range map[string]struct {
		body, contentType string
		want              int
	}{
		"a list":                        {index(ociIndex, sbom), ociIndex, 1},
		"a list without artifact types": {index(ociIndex, entry(child, `,"annotations":{}`)), ociIndex, 1},
		"an empty list":                 {emptyListing, ociIndex, 0},
		"null":                          {`{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":null}`, ociIndex, 0},
		"no media type in the index":    {`{"schemaVersion":2,"manifests":[` + sbom + `]}`, ociIndex, 1},
		"no media type at all":          {`{"schemaVersion":2,"manifests":[` + sbom + `]}`, "application/json", 1},
		"an empty platform":             {index(ociIndex, entry(child, `,"platform":{"architecture":"","os":""}`)), ociIndex, 1},
		"a digest that is none":         {index(ociIndex, sbom, entry("sha256:beef", "")), ociIndex, 1},
		"the subject":                   {subject, ociIndex, 0},
		"a list that holds the subject": {index(ociIndex, entry(dgst.String(), ""), sbom), ociIndex, 0},
		"the subject's platforms":       {index(ociIndex, entry(child, `,"platform":{"architecture":"amd64","os":"linux"}`)), ociIndex, 0},
		"platforms and an attestation":  {index(ociIndex, sbom, entry(child, `,"platform":{"architecture":"unknown","os":"unknown"}`)), ociIndex, 0},
		"a Docker list":                 {index(list, sbom), list, 0},
		"a Docker list, by its header":  {`{"schemaVersion":2,"manifests":[` + sbom + `]}`, list, 0},
		"an image":                      {imageText, ocispec.MediaTypeImageManifest, 0},
		"an index and an image at once": {`{"schemaVersion":2,"mediaType":"` + ociIndex + `","layers":[],"manifests":[` + sbom + `]}`, ociIndex, 0},
		"an image that is called index": {`{"schemaVersion":2,"config":{},"layers":[]}`, ociIndex, 0},
		"another JSON":                  {`{"tags":["a"]}`, "application/json", 0},
		"Docker schema 1":               {`{"schemaVersion":1,"manifests":[` + sbom + `]}`, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if !json.Valid([]byte(c.body)) {
				t.Fatalf("no JSON: %s", c.body)
			}
			r := upstreamtest.New(t, upstreamtest.WithoutReferrers())
			path, tag := listAndTag(dgst)
			r.AddManifest("repo", "sha256-"+dgst.Encoded(), c.contentType, []byte(c.body))
			got := must[*oci.Referrers](t)(newClient(t, r).Referrers(t.Context(), "repo", dgst, ""))
			if len(got.Index.Manifests) != c.want {
				t.Errorf("got %v, want %d", got.Index.Manifests, c.want)
			}
			wantAsked(t, r, "GET "+path+" 404", "GET "+tag+" 200")
		})
	}
}

// The tag of a longer digest is cut (distribution-spec, "Referrers Tag Schema").
func TestFallbackTagOfSHA512(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithoutReferrers())
	dgst := digest.SHA512.FromString("subject")
	must[*oci.Referrers](t)(newClient(t, r).Referrers(t.Context(), "repo", dgst, ""))
	wantAsked(t, r, "GET /v2/repo/referrers/"+dgst.String()+" 404", "GET /v2/repo/manifests/sha512-"+dgst.Encoded()[:64]+" 404")
}

// A list that repeats itself ends, and names each manifest once. A page that is empty
// may come before others, since the registry filtered it.
func TestReferrersPages(t *testing.T) {
	entry := func(n int) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"example/%d","digest":"sha256:%064d","size":7}`, n%2, n)
	}
	body := func(entries ...string) string { return `{"manifests":[` + strings.Join(entries, ",") + `]}` }
	for name, c := range map[string]struct {
		pages    []string // the last one again and again
		links    []string
		want     int
		requests int
	}{
		"one page":                     {[]string{body(entry(1))}, []string{""}, 1, 1},
		"three pages":                  {[]string{body(entry(1)), body(entry(2)), body(entry(3))}, []string{"?page=2", "?page=3", ""}, 3, 3},
		"an empty page between":        {[]string{body(entry(1)), body(), body(entry(3))}, []string{"?page=2", "?page=3", ""}, 2, 3},
		"overlapping pages":            {[]string{body(entry(1), entry(2)), body(entry(2), entry(3))}, []string{"?page=2", ""}, 3, 2},
		"the same link again":          {[]string{body(entry(1)), body(entry(2))}, []string{"?page=2", "?page=2"}, 2, 2},
		"a link to the first page":     {[]string{body(entry(1)), body(entry(2)), body(entry(1))}, []string{"?page=2", "?page=1", "?page=2"}, 2, 3},
		"the same page by other links": {[]string{body(entry(1)), body(entry(1))}, []string{"?page=2", "?page=3"}, 1, 2},
		"empty pages without end":      {[]string{body()}, []string{"?page=N"}, 0, 100},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			for i := range 101 {
				n := min(i, len(c.pages)-1)
				link := strings.ReplaceAll(c.links[min(i, len(c.links)-1)], "N", fmt.Sprint(i))
				effects := []upstreamtest.Effect{upstreamtest.Status(200, c.pages[n]), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex)}
				if link != "" {
					effects = append(effects, upstreamtest.Header("Link", "</v2/repo/referrers/x"+link+`>; rel=next`))
				}
				asked := 0
				r.Fault(func(req *http.Request) bool { asked++; return asked == i+1 }, effects...)
			}
			got := must[*oci.Referrers](t)(newClient(t, r).Referrers(t.Context(), "repo", digest.FromString("x"), ""))
			if len(got.Index.Manifests) != c.want || len(r.Requests()) != c.requests {
				t.Errorf("%d manifests after %q, want %d after %d requests", len(got.Index.Manifests), r.Requests(), c.want, c.requests)
			}
		})
	}
}

// All pages of a list together are bounded, in number and in bytes: a registry may add
// pages of a good size without end.
func TestReferrersOfManyPages(t *testing.T) {
	for name, c := range map[string]struct {
		entries, annotation, requests int
	}{
		"number": {4000, 0, 3},
		"bytes":  {3, 1 << 20, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			for i := range 5 {
				var body strings.Builder
				for n := range c.entries {
					fmt.Fprintf(&body, `{"digest":"sha256:%064d","size":7,"annotations":{"a":"%s"}},`, i*c.entries+n, strings.Repeat("x", c.annotation))
				}
				asked := 0
				r.Fault(func(req *http.Request) bool { asked++; return asked == i+1 },
					upstreamtest.Status(200, `{"schemaVersion":2,"manifests":[`+strings.TrimSuffix(body.String(), ",")+`]}`),
					upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex),
					upstreamtest.Header("Link", fmt.Sprintf("</v2/repo/referrers/x?page=%d>; rel=next", i)))
			}
			list, err := newClient(t, r).Referrers(t.Context(), "repo", digest.FromString("x"), "")
			wantError(t, err, upstream.ErrUnavailable)
			if list != nil || len(r.Requests()) != c.requests {
				t.Errorf("%d requests", len(r.Requests()))
			}
		})
	}
}

// A part of a list is not the whole.
func TestReferrersPageMissing(t *testing.T) {
	for status, want := range map[int]error{404: upstream.ErrUnavailable, 403: upstream.ErrDenied, 500: upstream.ErrUnavailable, 429: upstream.ErrRateLimited} {
		r := upstreamtest.New(t)
		image := r.AddImage("repo", "latest", []byte("layer"))
		r.AddReferrer("repo", image, "example/sbom", []byte("sbom"))
		r.Fault(upstreamtest.Referrers, upstreamtest.Header("Link", `<?page=2>; rel=next`)).Times(1)
		r.Fault(func(req *http.Request) bool { return req.URL.Query().Has("page") }, upstreamtest.Status(status, unknownText))
		_, err := newClient(t, r).Referrers(t.Context(), "repo", image.Digest, "")
		wantError(t, err, want)
	}
}
