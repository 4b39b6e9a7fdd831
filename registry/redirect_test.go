package registry_test

import (
	"bytes"
	"cmp"
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// place is a place outside of the mirror that has all content, and counts the questions.
type place struct {
	host  string
	size  int64 // of its content, for Has; 0: the right one
	asked int
}

func (p *place) Link(_ context.Context, dgst digest.Digest, _ int64) *url.URL {
	if p == nil || p.host == "" {
		return nil
	}
	p.asked++
	return &url.URL{Scheme: "https", Host: p.host, Path: "/bucket/" + dgst.Encoded(), RawQuery: "X-Amz-Signature=1"}
}

func (p *place) Has(_ context.Context, _ digest.Digest, size int64) bool {
	if p == nil || p.host == "" {
		return false
	}
	p.asked++
	return p.size == 0 || p.size == size
}

// elsewhere is the place of a mirror, if its test has set one.
type elsewhere struct{ *mirror }

func (e elsewhere) Link(ctx context.Context, dgst digest.Digest, size int64) *url.URL {
	return e.place.Link(ctx, dgst, size)
}

func (e elsewhere) Has(ctx context.Context, dgst digest.Digest, size int64) bool {
	return e.place.Has(ctx, dgst, size)
}

// redirects lets all clients of the place go there but those of one network.
func (m *mirror) redirects(client netip.Addr) bool {
	return m.place != nil && !netip.MustParsePrefix("198.51.100.0/24").Contains(client)
}

// A client is sent elsewhere for a blob that it may have, unless one of many conditions speaks
// against it. Then it is answered here.
func TestRedirect(t *testing.T) {
	r, m := pair(t)
	large, small := bytes.Repeat([]byte("large"), 1<<18), bytes.Repeat([]byte("small"), 1000)
	r.AddImage("app", "v1", large, small)
	path := func(repo string, content []byte) string {
		return "/v2/up.example/" + repo + "/blobs/" + digest.FromBytes(content).String()
	}
	for _, content := range [][]byte{large, small} {
		wantStatus(t, m.do("GET", path("app", content)), 200)
	}
	wantStatus(t, m.do("GET", "/v2/up.example/app/manifests/v1"), 200)
	m.settle()
	ofLarge := digest.FromBytes(large)
	const login, crane = "Bearer token", "crane/0.22.1 go-containerregistry/v0.22.1"
	for name, tc := range map[string]struct {
		method, path, place string
		header              []string
		status              int
	}{
		"a blob":                     {header: nil, status: 307},
		"a range":                    {header: []string{"Range", "bytes=5-9"}, status: 307},
		"an open range":              {header: []string{"Range", "bytes=0-"}, status: 307},
		"a login for another host":   {header: []string{"Authorization", login}, status: 307},
		"a network that is sent":     {header: []string{"X-Forwarded-For", "203.0.113.7"}, status: 307},
		"no login at the same host":  {place: "mirror.example", status: 307},
		"a host above":               {place: "example", header: []string{"Authorization", login}, status: 307},
		"a host with the same end":   {place: "xmirror.example", header: []string{"Authorization", login}, status: 307},
		"a HEAD":                     {method: "HEAD", status: 200},
		"a small blob":               {path: path("app", small), status: 200},
		"a manifest":                 {path: "/v2/up.example/app/manifests/v1", status: 200},
		"several ranges":             {header: []string{"Range", "bytes=0-1,5-9"}, status: 206},
		"several headers of ranges":  {header: []string{"Range", "bytes=0-1, 7-7"}, status: 206},
		"a network that is not sent": {header: []string{"X-Forwarded-For", "198.51.100.7"}, status: 200},
		"the header of Angos":        {header: []string{"X-Angos-No-Redirect", "1"}, status: 200},
		"any value of it":            {header: []string{"X-Angos-No-Redirect", "false"}, status: 200},
		"a cached copy":              {header: []string{"If-None-Match", `"` + ofLarge.String() + `"`}, status: 304},
		"an old copy":                {header: []string{"If-Match", `"x"`}, status: 412},
		"a range of an old copy":     {header: []string{"Range", "bytes=5-9", "If-Range", `"x"`}, status: 200},
		"a login for the same host":  {place: "mirror.example", header: []string{"Authorization", login}, status: 200},
		"another port of it":         {place: "mirror.example:9000", header: []string{"Authorization", login}, status: 200},
		"another spelling of it":     {place: "Mirror.EXAMPLE.", header: []string{"Authorization", login}, status: 200},
		"a host below":               {place: "bucket.mirror.example", header: []string{"Authorization", login}, status: 200},
		"below the host of a proxy":  {place: "s3.outer.example", header: []string{"Authorization", login, "X-Forwarded-Host", "outer.example"}, status: 200},
		"below one of several":       {place: "s3.outer.example", header: []string{"Authorization", login, "X-Forwarded-Host", "outer.example, inner.example"}, status: 200},
		"another address":            {place: "[::1]:9000", header: []string{"Authorization", login}, status: 307},
		"no such place":              {place: "-", status: 200},
		"crane, and a name":          {header: []string{"User-Agent", crane}, status: 307},
		"crane, and a local name":    {place: "minio:9000", header: []string{"User-Agent", crane}, status: 307},
		"crane, a public address":    {place: "8.8.8.8", header: []string{"User-Agent", crane}, status: 307},
		"crane, a private address":   {place: "10.0.0.5:9000", header: []string{"User-Agent", crane}, status: 200},
		"crane, this machine":        {place: "127.0.0.1:9000", header: []string{"User-Agent", crane}, status: 200},
		"crane, a private IPv6":      {place: "[fd00::5]:9000", header: []string{"User-Agent", crane}, status: 200},
		"crane, a link-local one":    {place: "[fe80::5]", header: []string{"User-Agent", crane}, status: 200},
		"its library elsewhere":      {place: "192.168.1.5", header: []string{"User-Agent", "cosign/v2.6.0 (linux; amd64) go-containerregistry/v0.22.1"}, status: 200},
		"docker, a private address":  {place: "10.0.0.5:9000", header: []string{"User-Agent", "docker/20.10.24+dfsg1 go/go1.19.8"}, status: 307},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.method == "" {
				tc.method = "GET"
			}
			if tc.path == "" {
				tc.path = path("app", large)
			}
			m.place = &place{host: "bucket.example"}
			switch tc.place {
			case "":
			case "-":
				m.place.host = ""
			default:
				m.place.host = tc.place
			}
			w := m.do(tc.method, "http://mirror.example:5000"+tc.path, tc.header...)
			wantStatus(t, w, tc.status)
			if tc.status != 307 {
				wantHeader(t, w.Header(), "Location", "")
				return
			}
			wantHeader(t, w.Header(), "Location", "https://"+m.place.host+"/bucket/"+ofLarge.Encoded()+"?X-Amz-Signature=1",
				"Cache-Control", "no-store", "Docker-Content-Digest", ofLarge.String(), "Content-Length", "0", "Cache-Status", "weir; hit", "ETag", "")
			if w.Body.Len() > 0 {
				t.Errorf("the body is %q", w.Body)
			}
		})
	}
}

// A URL is for those only that would get the blob. It costs no question at the place otherwise.
func TestRedirectNeedsRight(t *testing.T) {
	r, m := pair(t)
	large := bytes.Repeat([]byte("large"), 1<<18)
	r.AddImage("app", "v1", large)
	r.AddImage("other", "v1", []byte("another layer"))
	blob := "/blobs/" + digest.FromBytes(large).String()
	wantStatus(t, m.do("GET", "/v2/up.example/app"+blob), 200)
	m.settle()
	m.place = &place{host: "bucket.example"}
	// Another repository does not have it.
	wantStatus(t, m.do("GET", "/v2/up.example/other"+blob), 404)
	// A client that is refused.
	m.rules(access.Options{})
	wantStatus(t, m.do("GET", "/v2/up.example/app"+blob), 401)
	if m.place.asked != 0 {
		t.Errorf("the place was asked %d times", m.place.asked)
	}
	m.rules(access.Options{Anonymous: true})
	wantStatus(t, m.do("GET", "/v2/up.example/app"+blob), 307)
}

// A right that has to be shown again is shown before the URL is given, and a withdrawn one
// gives none.
func TestRedirectRechecks(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) { s.RecheckPossession = time.Nanosecond })
	large := bytes.Repeat([]byte("large"), 1<<18)
	r.AddImage("app", "v1", large)
	path := "/v2/up.example/app/blobs/" + digest.FromBytes(large).String()
	wantStatus(t, m.do("GET", path), 200)
	m.settle()
	m.place = &place{host: "bucket.example"}
	r.ResetRequests()
	w := m.do("GET", path)
	wantStatus(t, w, 307)
	wantHeader(t, w.Header(), "Cache-Status", "weir; hit; detail=revalidated")
	if got := r.Requests(); len(got) != 1 {
		t.Errorf("the upstream was asked %q", got)
	}
	r.Fault(upstreamtest.Any, upstreamtest.Status(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`))
	w = m.do("GET", path)
	wantStatus(t, w, 404)
	wantHeader(t, w.Header(), "Location", "")
}

// Where each client has rights of its own, a URL is for those that the upstream lets have the
// blob. The others cost the place no question.
func TestRedirectOnBehalf(t *testing.T) {
	r, m := rights(t)
	large := bytes.Repeat([]byte("large"), 1<<18)
	r.AddImage("app", "v2", large)
	path := "/v2/up.example/app/blobs/" + digest.FromBytes(large).String()
	if w := (account{t, m, asBasic(reader)}).do("GET", path); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	m.settle()
	m.place = &place{host: "bucket.example"}
	for _, sender := range []string{asBasic(outsider), asBasic(guesser), ""} {
		if w := (account{t, m, sender}).do("GET", path); w.Code == 307 || w.Code == 200 || w.Header().Get("Location") != "" || m.place.asked != 0 {
			t.Errorf("%q: %d, and the place was asked %d times", sender, w.Code, m.place.asked)
		}
	}
	if w := (account{t, m, asBasic(reader)}).do("GET", path); w.Code != 307 {
		t.Errorf("the reader: %d", w.Code)
	}
}

// A HEAD of a blob that is elsewhere only is answered without the upstream, unless the right has
// to be shown. Without a right the place is not asked.
func TestHeadElsewhere(t *testing.T) {
	const head = "HEAD /v2/app/blobs/"
	large := bytes.Repeat([]byte("large"), 1<<18)
	dgst := digest.FromBytes(large).String()
	for name, tc := range map[string]struct {
		change func(*namespace.Spec)
		open   func(*mirror, *upstreamtest.Registry)
		repo   string
		place  place
		status int
		cache  string
		asked  int      // the place
		want   []string // requests upstream
	}{
		"there":                 {place: place{host: "bucket.example"}, status: 200, cache: "weir; hit", asked: 1},
		"of a small size":       {place: place{host: "bucket.example", size: 1}, status: 200, cache: "weir; fwd=uri-miss", asked: 1, want: []string{head + dgst + " 200"}},
		"of a great size":       {place: place{host: "bucket.example", size: int64(len(large)) + 1}, status: 200, cache: "weir; fwd=uri-miss", asked: 1, want: []string{head + dgst + " 200"}},
		"not there":             {status: 200, cache: "weir; fwd=uri-miss", want: []string{head + dgst + " 200"}},
		"of another repository": {repo: "other", place: place{host: "bucket.example"}, status: 404, want: []string{"HEAD /v2/other/blobs/" + dgst + " 404", "GET /v2/other/blobs/" + dgst + " bytes=0-0 404"}},
		"of a refused client":   {open: func(m *mirror, _ *upstreamtest.Registry) { m.rules(access.Options{}) }, place: place{host: "bucket.example"}, status: 401},
		"whose right is shown again": {change: func(s *namespace.Spec) { s.RecheckPossession = time.Nanosecond },
			place: place{host: "bucket.example"}, status: 200, cache: "weir; hit; detail=revalidated", asked: 1, want: []string{head + dgst + " 200"}},
		"whose right has gone": {change: func(s *namespace.Spec) { s.RecheckPossession = time.Nanosecond },
			open: func(_ *mirror, r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Any, upstreamtest.Status(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`))
			}, place: place{host: "bucket.example"}, status: 404, asked: 1, want: []string{head + dgst + " 404", "GET /v2/app/blobs/" + dgst + " bytes=0-0 404"}},
		"while the upstream is away": {open: func(_ *mirror, r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(503, "")) },
			place: place{host: "bucket.example"}, status: 200, cache: "weir; hit", asked: 1},
		"of an offline block": {open: func(m *mirror, r *upstreamtest.Registry) {
			m.serve(block(m.t, r, func(s *namespace.Spec) { s.Offline = true }))
		}, place: place{host: "bucket.example"}, status: 200, cache: "weir; hit", asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var change []func(*namespace.Spec)
			if tc.change != nil {
				change = append(change, tc.change)
			}
			r, m := pair(t, change...)
			r.AddImage("app", "v1", large)
			r.AddImage("other", "v1", []byte("another layer"))
			wantStatus(t, m.do("GET", "/v2/up.example/app/blobs/"+dgst), 200)
			m.settle()
			if err := m.store.Delete(t.Context(), digest.Digest(dgst)); err != nil {
				t.Fatal(err)
			}
			m.place = &tc.place
			if tc.open != nil {
				tc.open(m, r)
			}
			r.ResetRequests()
			w := m.do("HEAD", "/v2/up.example/"+cmp.Or(tc.repo, "app")+"/blobs/"+dgst)
			wantStatus(t, w, tc.status)
			if tc.status == 200 {
				wantHeader(t, w.Header(), "Content-Length", strconv.Itoa(len(large)), "Docker-Content-Digest", dgst, "Cache-Status", tc.cache)
			}
			if got := r.Requests(); !slices.Equal(got, tc.want) {
				t.Errorf("the upstream was asked %q, want %q", got, tc.want)
			}
			if m.place.asked != tc.asked {
				t.Errorf("the place was asked %d times, want %d", m.place.asked, tc.asked)
			}
		})
	}
}
