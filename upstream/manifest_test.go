package upstream_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestManifest(t *testing.T) {
	r := upstreamtest.New(t)
	c := newClient(t, r)
	image := r.AddImage("library/nginx", "latest", []byte("layer"))
	for _, ref := range []oci.Reference{oci.ByTag("latest"), oci.ByDigest(image.Digest)} {
		m := must[*oci.Manifest](t)(c.Manifest(t.Context(), "library/nginx", ref))
		if diff := cmp.Diff(image, m.Descriptor); diff != "" || m.Upstream != r.Host || digest.FromBytes(m.Body) != image.Digest {
			t.Errorf("%s from %s: %s", ref, m.Upstream, diff)
		}
	}
	want := []string{"GET /v2/library/nginx/manifests/latest 200", "GET /v2/library/nginx/manifests/" + image.Digest.String() + " 200"}
	if diff := cmp.Diff(want, r.Requests()); diff != "" {
		t.Error(diff)
	}
	header := r.Log()[0].Header
	for _, mediaType := range []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"} {
		if !strings.Contains(header.Get("Accept"), mediaType) {
			t.Errorf("Accept %q lacks %s", header.Get("Accept"), mediaType)
		}
	}
	if len(header.Values("Accept")) != 1 || header.Get("Accept-Encoding") != "identity" || header.Get("User-Agent") != "weir/test" {
		t.Errorf("headers are %v", header)
	}
}

func TestManifestDescriptor(t *testing.T) {
	const shaped = `{"schemaVersion":2,"config":{},"layers":[]}`
	const typed = `{"schemaVersion":2,"layers":[]}`
	sha512 := digest.SHA512.FromString(typed).String()
	tests := map[string]struct {
		body, contentType, ref string
		want                   ocispec.Descriptor
		wantErr                error
	}{
		"type of the body":         {`{"schemaVersion":2,"mediaType":"application/b","layers":[]}`, "application/vnd.c.d+json", "t", ocispec.Descriptor{MediaType: "application/b"}, nil},
		"type of the header":       {typed, "application/vnd.c.d+json; charset=utf-8", "t", ocispec.Descriptor{MediaType: "application/vnd.c.d+json"}, nil},
		"sha512":                   {typed, "application/vnd.c.d+json", sha512, ocispec.Descriptor{MediaType: "application/vnd.c.d+json", Digest: digest.Digest(sha512)}, nil},
		"type of the shape":        {shaped, "", "t", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, nil},
		"type of the shape, text":  {shaped, "text/plain", "t", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, nil},
		"type of the shape, bytes": {shaped, "application/octet-stream", digest.FromString(shaped).String(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, nil},
		"no type at all":           {`{"schemaVersion":2}`, "application/json", "t", ocispec.Descriptor{}, upstream.ErrUnavailable},
		"no manifest":              {`{"Code":"Success","Token":"x"}`, "application/vnd.c.d+json", "t", ocispec.Descriptor{}, oci.ErrNoType},
		"mismatch":                 {`{"a":1}`, "application/vnd.c.d+json", digest.FromString("{}").String(), ocispec.Descriptor{}, upstream.ErrDigestMismatch},
		"too large":                {`{"a":"` + strings.Repeat("x", 1000) + `"}`, "application/vnd.c.d+json", "t", ocispec.Descriptor{}, oci.ErrManifestTooLarge},
		"schema 1 by number":       {`{"schemaVersion":1}`, "application/json", "t", ocispec.Descriptor{}, oci.ErrSchema1},
		"schema 1 by type":         {`{}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", "t", ocispec.Descriptor{}, oci.ErrSchema1},
		"a captive portal's page":  {`<html>`, "text/html", "t", ocispec.Descriptor{}, upstream.ErrUnavailable},
		"cut off within its bytes": {`{"mediaType":"a/`, "application/vnd.c.d+json", "t", ocispec.Descriptor{}, upstream.ErrUnavailable},
	}
	for name, test := range tests {
		for _, chunked := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := upstreamtest.New(t)
				c := newClient(t, r, func(o *upstream.Options) { o.MaxManifestSize = 1000 })
				r.AddManifest("repo", test.ref, test.contentType, []byte(test.body))
				if chunked {
					r.Fault(upstreamtest.Manifests, upstreamtest.Chunked())
				}
				m, err := c.Manifest(t.Context(), "repo", must[oci.Reference](t)(oci.ParseReference(test.ref)))
				if test.wantErr != nil {
					wantError(t, err, test.wantErr)
					wantError(t, err, upstream.ErrUnavailable)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if test.want.Digest == "" {
					test.want.Digest = digest.FromString(test.body)
				}
				test.want.Size = int64(len(test.body))
				if diff := cmp.Diff(test.want, m.Descriptor); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestPathOfURLGoesBeforeName(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{OmitScope: true}))
	r.AddImage("team/x", "latest", []byte("layer"))
	c := newClient(t, r, func(o *upstream.Options) { o.URL = r.URL.JoinPath("team/") })
	must[*oci.Manifest](t)(c.Manifest(t.Context(), "x", oci.ByTag("latest")))
	if got := r.TokenRequests(); len(got) != 1 || !strings.Contains(got[0], "scope=repository%3Ateam%2Fx%3Apull") {
		t.Errorf("token requests are %v", got)
	}
}

func TestClientGone(t *testing.T) {
	r := upstreamtest.New(t)
	r.AddImage("repo", "latest", []byte("layer"))
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
	a, b := newClient(t, r), newClient(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		gate.Arrived(t.Context(), 1)
		cancel()
	}()
	_, err := upstream.NewChain(upstream.ChainOptions{}, a, b).Manifest(ctx, "repo", oci.ByTag("latest"))
	if !errors.Is(err, context.Canceled) || errors.Is(err, upstream.ErrUnavailable) || len(r.Requests()) != 1 {
		t.Errorf("got %v after %v", err, r.Requests())
	}
}
