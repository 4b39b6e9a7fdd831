package upstream_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A header of 60 KiB is read, and one of more than 64 KiB is a failure of the upstream:
// over HTTP/1.1 and HTTP/2, of the registry, and of the host that it redirects to.
func TestHugeHeadersAreRefused(t *testing.T) {
	for name, options := range map[string][]upstreamtest.Option{"HTTP/1.1": nil, "HTTP/2": {upstreamtest.WithTLS()}} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t, options...)
			other := upstreamtest.New(t, append(options, upstreamtest.WithRedirect(r))...)
			image := r.AddImage("app", "v1", []byte("a layer"))
			for label, asked := range map[string]*upstreamtest.Registry{"registry": r, "redirect": other} {
				if label == "redirect" && name == "HTTP/2" {
					continue // the certificates of the two registries have different authorities
				}
				c := newClient(t, asked, func(o *upstream.Options) {
					if name == "HTTP/2" {
						o.RootCAs = r.RootCAs()
					}
				})
				large := r.Fault(upstreamtest.Any, upstreamtest.Header("X-Large", strings.Repeat("x", 60<<10)))
				if m, err := c.Manifest(t.Context(), "app", oci.ByTag("v1")); err != nil || m.Descriptor.Digest != image.Digest {
					t.Errorf("%s: 60 KiB: %v", label, err)
				}
				large.Remove()
				huge := r.Fault(upstreamtest.Any, upstreamtest.Header("X-Large", strings.Repeat("x", 80<<10)))
				_, err := c.Manifest(t.Context(), "app", oci.ByTag("v1"))
				wantError(t, err, upstream.ErrUnavailable)
				huge.Remove()
			}
		})
	}
}
