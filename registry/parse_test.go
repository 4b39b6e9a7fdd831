package registry_test

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/registry"
)

const (
	sha256Hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	sha256Dig = "sha256:" + sha256Hex
)

var sha512Dig = digest.SHA512.FromString("").String()

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 128)
	name255 := strings.Repeat("a/", 127) + "a"
	for _, test := range []struct {
		method, url string
		want        registry.Request
	}{
		{"GET", "/v2", registry.Request{Op: registry.OpPing}},
		{"GET", "/v2/", registry.Request{Op: registry.OpPing}},
		{"HEAD", "/v2/", registry.Request{Op: registry.OpPing}},
		{"GET", "/v2/_catalog", registry.Request{Op: registry.OpCatalog}},
		{"GET", "/v2/_catalog?n=5&last=a%2Fb", registry.Request{Op: registry.OpCatalog, Query: url.Values{"n": {"5"}, "last": {"a/b"}}}},
		{"GET", "/v2/a/manifests/latest", registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByTag("latest")}},
		{"GET", "/v2/a/manifests/" + long, registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByTag(long)}},
		{"GET", "/v2/a/manifests/_A.b-c..d", registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByTag("_A.b-c..d")}},
		{"GET", "/v2/a/manifests/" + sha256Dig, registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByDigest(digest.Digest(sha256Dig)), Digest: digest.Digest(sha256Dig)}},
		{"GET", "/v2/a/manifests/" + sha512Dig, registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByDigest(digest.Digest(sha512Dig)), Digest: digest.Digest(sha512Dig)}},
		{"GET", "/v2/a/manifests/sha256-" + sha256Hex, registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByTag("sha256-" + sha256Hex)}},
		{"HEAD", "/v2/docker.io/library/nginx/manifests/1", registry.Request{Op: registry.OpManifest, Name: "docker.io/library/nginx", Reference: oci.ByTag("1")}},
		{"GET", "/v2/localhost:5000/a__b/c--d/manifests/1", registry.Request{Op: registry.OpManifest, Name: "localhost:5000/a__b/c--d", Reference: oci.ByTag("1")}},
		{"GET", "/v2/" + name255 + "/manifests/1", registry.Request{Op: registry.OpManifest, Name: name255, Reference: oci.ByTag("1")}},
		{"GET", "/v2/a/manifests/b/manifests/c", registry.Request{Op: registry.OpManifest, Name: "a/manifests/b", Reference: oci.ByTag("c")}},
		{"GET", "/v2/manifests/manifests/manifests", registry.Request{Op: registry.OpManifest, Name: "manifests", Reference: oci.ByTag("manifests")}},
		{"GET", "/v2/tags/list/tags/list", registry.Request{Op: registry.OpTags, Name: "tags/list"}},
		{"GET", "/v2/a/blobs/" + sha256Dig + "?ns=docker.io", registry.Request{Op: registry.OpBlob, Name: "a", Digest: digest.Digest(sha256Dig), NS: "docker.io", Query: url.Values{}}},
		{"GET", "/v2/a/blobs/" + sha256Dig + "?ns=../../etc", registry.Request{Op: registry.OpBlob, Name: "a", Digest: digest.Digest(sha256Dig), NS: "../../etc", Query: url.Values{}}},
		{"GET", "/v2/a/manifests/1?ns=quay.io&ns=quay.io", registry.Request{Op: registry.OpManifest, Name: "a", Reference: oci.ByTag("1"), NS: "quay.io", Query: url.Values{}}},
		{"GET", "/v2/a/tags/list?n=1&x=y", registry.Request{Op: registry.OpTags, Name: "a", Query: url.Values{"n": {"1"}}}},
		{"GET", "/v2/a/tags/list?x=1&N=2&last=&n=", registry.Request{Op: registry.OpTags, Name: "a"}},
		{"GET", "/v2/a/tags/list?n=007&n=8&last=b&last=c", registry.Request{Op: registry.OpTags, Name: "a", Query: url.Values{"n": {"7"}, "last": {"b"}}}},
		{"GET", "/v2/a/tags/list?n=999999999", registry.Request{Op: registry.OpTags, Name: "a", Query: url.Values{"n": {"100000"}}}},
		{"GET", "/v2/a/tags/list?n=2&continue=bmV4dF9wYWdlPWElMjZi", registry.Request{Op: registry.OpTags, Name: "a", Query: url.Values{"next_page": {"a&b"}}}},
		{"GET", "/v2/a/referrers/" + sha256Dig + "?x=1&artifactType=a%2Fb&artifactType=c", registry.Request{Op: registry.OpReferrers, Name: "a", Digest: sha256Dig, Query: url.Values{"artifactType": {"a/b"}}}},
		{"GET", "/v2/a/referrers/" + sha256Dig + "?x=1", registry.Request{Op: registry.OpReferrers, Name: "a", Digest: sha256Dig}},
		{"GET", "/v2/a/referrers/" + sha256Dig + "?artifactType=a/b", registry.Request{Op: registry.OpReferrers, Name: "a", Digest: digest.Digest(sha256Dig), Query: url.Values{"artifactType": {"a/b"}}}},
		{"POST", "/v2/a/b/blobs/uploads/", registry.Request{Op: registry.OpWrite, Name: "a/b"}},
		{"PATCH", "/v2/a/blobs/uploads/0b4c", registry.Request{Op: registry.OpWrite, Name: "a"}},
		{"PUT", "/v2/a/manifests/latest", registry.Request{Op: registry.OpWrite, Name: "a"}},
		{"PUT", "/v2/a/blobs/b/manifests/latest", registry.Request{Op: registry.OpWrite, Name: "a/blobs/b"}},
		{"POST", "/v2/a/blobs/blobs/uploads/", registry.Request{Op: registry.OpWrite, Name: "a/blobs"}},
		{"DELETE", "/v2/a/manifests/" + sha256Dig, registry.Request{Op: registry.OpWrite, Name: "a"}},
		{"DELETE", "/v2/a/anything/", registry.Request{Op: registry.OpWrite, Name: "a/anything"}},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := registry.Parse(test.method, u)
		if err != nil {
			t.Errorf("%s %s: %v", test.method, test.url, err)
		} else if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b oci.Reference) bool { return a == b })); diff != "" {
			t.Errorf("%s %s: %s", test.method, test.url, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		url, code string
		status    int
	}{
		{"/v2x/a/manifests/1", "NAME_UNKNOWN", 404},
		{"/v2//", "NAME_UNKNOWN", 404},
		{"/v2/a", "NAME_UNKNOWN", 404},
		{"/v2/manifests/latest", "NAME_UNKNOWN", 404},
		{"/v2/a/manifests", "NAME_UNKNOWN", 404},
		{"/v2/a/manifests/latest/", "NAME_UNKNOWN", 404},
		{"/v2/a/tags/lists", "NAME_UNKNOWN", 404},
		{"/v2/a/uploads/latest", "NAME_UNKNOWN", 404},
		{"/v2//manifests/latest", "NAME_INVALID", 400},
		{"/v2/a//b/manifests/latest", "NAME_INVALID", 400},
		{"/v2//a/manifests/latest", "NAME_INVALID", 400},
		{"/v2/A/manifests/latest", "NAME_INVALID", 400},
		{"/v2/../manifests/latest", "NAME_INVALID", 400},
		{"/v2/a/../b/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a/./b/manifests/latest", "NAME_INVALID", 400},
		{"/v2/%2e%2e/b/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a%2fb/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a%2Fb/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a/manifests%2flatest", "NAME_INVALID", 400},
		{"/v2/a%252fb/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a%00/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a%0a/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a%5cb/manifests/latest", "NAME_INVALID", 400},
		{"/v2/ä/manifests/latest", "NAME_INVALID", 400},
		{"/v2/ａ/manifests/latest", "NAME_INVALID", 400},
		{"/v2/-a/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a-/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a..b/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a-_b/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a___b/manifests/latest", "NAME_INVALID", 400},
		{"/v2/_catalog/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a/b:5000/manifests/latest", "NAME_INVALID", 400},
		{"/v2/" + strings.Repeat("a", 256) + "/manifests/latest", "NAME_INVALID", 400},
		{"/v2/a/manifests/", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/..", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/%2e%2e", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/-a", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/a%00", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/a%0a", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/ä", "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/" + strings.Repeat("a", 129), "MANIFEST_UNKNOWN", 404},
		{"/v2/a/manifests/latest:1", "DIGEST_INVALID", 400},
		{"/v2/a/manifests/" + sha256Dig + "0", "DIGEST_INVALID", 400},
		{"/v2/a/manifests/" + strings.ToUpper(sha256Dig), "DIGEST_INVALID", 400},
		{"/v2/a/blobs/latest", "DIGEST_INVALID", 400},
		{"/v2/a/blobs/" + sha256Dig[:70], "DIGEST_INVALID", 400},
		{"/v2/a/blobs/sha256:" + strings.ToUpper(sha256Hex), "DIGEST_INVALID", 400},
		{"/v2/a/blobs/sha384:" + strings.Repeat("0", 96), "DIGEST_INVALID", 400},
		{"/v2/a/blobs/md5:" + strings.Repeat("0", 32), "DIGEST_INVALID", 400},
		{"/v2/a/blobs/sha512:" + sha256Hex, "DIGEST_INVALID", 400},
		{"/v2/a/blobs/sha256:" + strings.Repeat("..", 32), "DIGEST_INVALID", 400},
		{"/v2/a/referrers/latest", "DIGEST_INVALID", 400},
		{"/v2/a/tags/list?n=-1", "PAGINATION_NUMBER_INVALID", 400},
		{"/v2/a/tags/list?n=many", "PAGINATION_NUMBER_INVALID", 400},
		{"/v2/a/tags/list?last=" + strings.Repeat("a", 5000), "PAGINATION_NUMBER_INVALID", 400},
		{"/v2/a/tags/list?continue=%25", "PAGINATION_NUMBER_INVALID", 400},
		{"/v2/a/tags/list?continue=bnM9b3RoZXI", "PAGINATION_NUMBER_INVALID", 400}, // ns=other
		{"/v2/a/tags/list?continue=" + strings.Repeat("YQ", 5000), "PAGINATION_NUMBER_INVALID", 400},
		{"/v2/a/referrers/" + sha256Dig + "?artifactType=" + strings.Repeat("a", 256), "UNSUPPORTED", 400},
		{"/v2/_catalog?n=1e3", "PAGINATION_NUMBER_INVALID", 400},
		{"/v2/a/manifests/1?ns=quay.io%zz", "UNSUPPORTED", 400},
		{"/v2/a/manifests/1?ns=quay.io;x", "UNSUPPORTED", 400},
		{"/v2/a/manifests/1?x=%&ns=quay.io", "UNSUPPORTED", 400},
		{"/v2/a/blobs/" + sha256Dig + "?%6es=quay.io%", "UNSUPPORTED", 400},
		{"/v2/a/manifests/1?ns=quay.io&ns=ghcr.io", "NAME_INVALID", 400},
		{"/v2/a/tags/list?ns=&ns=ghcr.io", "NAME_INVALID", 400},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := registry.Parse(http.MethodGet, u)
		wire, ok := errors.AsType[*registry.Error](err)
		if !ok || wire.Code != test.code || wire.Status != test.status {
			t.Errorf("%s: %+v, %#v; want %d %s", test.url, got, err, test.status, test.code)
		} else if len(wire.Message) > 1300 || strings.ContainsAny(wire.Message, "\x00\n") {
			t.Errorf("%s: the message is not fit for a log: %q", test.url, wire.Message)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{
		"/v2", "/v2/", "/v2/_catalog?n=1", "/v2/a/manifests/latest", "/v2/a/blobs/" + sha256Dig, "/v2/a/referrers/" + sha512Dig,
		"/v2/a/tags/list?n=1&last=b&ns=docker.io", "/v2/../../etc/passwd", "/v2/%2e%2e/%2e%2e/manifests/x", "/v2/a%2f..%2fb/manifests/x",
		"/v2/a%2Fb/manifests/x", "/v2/a%5c..%5cb/manifests/x", "/v2/a\\b/manifests/x", "/v2/a%00b/manifests/x", "/v2/a/manifests/%00",
		"/v2/A/manifests/x", "/v2//manifests/x", "/v2/a//b/manifests/x", "/v2/manifests/manifests/manifests", "/v2/a/manifests/b/blobs/" + sha256Dig,
		"/v2/ä/manifests/x", "/v2/a/manifests/ä", "/v2/a/blobs/sha384:" + strings.Repeat("0", 96), "/v2/a/blobs/sha256:" + strings.ToUpper(sha256Hex),
		"/v2/a/manifests/" + strings.Repeat("x", 129), "/v2/" + strings.Repeat("a", 300) + "/manifests/x", "/v2/a/manifests/x?ns=../../x", "/v2/a/manifests/x?ns=%00",
		"/v2/a/manifests/x?n=%zz", "/v2/a/manifests/..", "/v2/localhost:5000/a/manifests/x",
	} {
		for _, method := range []string{"GET", "PUT"} {
			f.Add(method, path)
		}
	}
	tag := regexp.MustCompile(`\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\z`)
	segment := regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*\z`)
	host := regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(:[0-9]+)?\z`)
	dgst := regexp.MustCompile(`\A(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\z`)
	f.Fuzz(func(t *testing.T, method, path string) {
		u, err := url.Parse(path)
		if err != nil {
			return
		}
		req, err := registry.Parse(method, u)
		if err != nil {
			if _, ok := errors.AsType[*registry.Error](err); !ok {
				t.Errorf("%q: not an answer: %v", path, err)
			}
			return
		}
		if req.Query.Has("ns") {
			t.Errorf("%q: ns is left in the query", path)
		}
		if req.Name == "" && req.Op != registry.OpPing && req.Op != registry.OpCatalog {
			t.Errorf("%q: %s without a name", path, req.Op)
		}
		if req.Name != "" {
			for i, s := range strings.Split(req.Name, "/") {
				if !segment.MatchString(s) && (i > 0 || !host.MatchString(s)) {
					t.Errorf("%q: name %q", path, req.Name)
				}
			}
		}
		if req.Digest != "" && !dgst.MatchString(req.Digest.String()) {
			t.Errorf("%q: digest %q", path, req.Digest)
		}
		if req.Reference.IsTag() && !tag.MatchString(req.Reference.Tag()) || req.Reference.Digest() != "" && req.Reference.Digest() != req.Digest {
			t.Errorf("%q: reference %q", path, req.Reference)
		}
		for _, s := range []string{req.Name, req.Digest.String()} {
			for _, bad := range []string{"..", "//", "\\", "\x00"} {
				if strings.Contains(s, bad) || strings.HasPrefix(req.Reference.Tag(), ".") {
					t.Errorf("%q: %q of %+v", path, bad, req)
				}
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	u, err := url.Parse("/v2/docker.io/library/nginx/manifests/" + sha256Dig)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := registry.Parse(http.MethodGet, u); err != nil {
			b.Fatal(err)
		}
	}
}
