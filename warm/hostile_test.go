package warm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// The walk does not trust a registry's manifests, and bounds their number.
func TestHostileManifests(t *testing.T) {
	const lie = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for name, c := range map[string]struct {
		body string
		want string // part of the one failure
	}{
		"no JSON":              {"<html>", "manifest v1: is not a manifest: invalid character"},
		"schema 1":             {`{"schemaVersion":1,"fsLayers":[]}`, "manifest v1: is neither an index nor an image"},
		"both":                 {`{"manifests":[],"layers":[]}`, "manifest v1: is an index and an image at once"},
		"no digest":            {`{"layers":[{"digest":"../../etc/passwd"}]}`, `blob "../../etc/passwd": invalid checksum digest format`},
		"negative size":        {`{"layers":[{"digest":"` + lie + `","size":-1}]}`, "cannot have -1 bytes"},
		"size beyond all use":  {`{"layers":[{"digest":"` + lie + `","size":9223372036854775807}]}`, "cannot have 9223372036854775807 bytes"},
		"large manifest":       {`{"manifests":[{"digest":"` + lie + `","size":1000000000}]}`, "cannot have 1000000000 bytes"},
		"no digest of a child": {`{"manifests":[{}]}`, `manifest ""`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.manifests["v1"] = []byte(c.body)
			result := warm.Image(t.Context(), f, oci.ByTag("v1"), warm.Options{})
			if len(result.Failed) != 1 || !strings.Contains(result.Failed[0].Error(), c.want) {
				t.Errorf("%v, want %q", result.Failed, c.want)
			}
			if len(f.asked) != 1 {
				t.Errorf("asked for %q", f.asked)
			}
		})
	}
}

func TestWrongManifests(t *testing.T) {
	f := newFake(t)
	named := digest.FromString("something else")
	f.manifests[named.String()] = []byte(`{"layers":[]}`)
	wantFailed(t, warm.Image(t.Context(), f, oci.ByDigest(named), all),
		"manifest "+named.String()+": the 13 bytes that arrived have digest "+digest.FromString(`{"layers":[]}`).String())

	image := f.image("image")
	size := image.Size
	image.Size++
	f.tag("v1", f.index(image))
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v1"), all),
		fmt.Sprintf("manifest %s: has %d bytes, but its descriptor says %d", image.Digest, size, size+1))
}

// Two manifests that refer to each other are each read once.
func TestCycle(t *testing.T) {
	f := newFake(t)
	one, two := f.image("one"), f.image("two")
	f.referrers[one.Digest], f.referrers[two.Digest] = []ocispec.Descriptor{two}, []ocispec.Descriptor{one}
	f.tag("v1", one)
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v1"), all))
	f.wantAsked("v1", two, digest.FromString("config of one"), digest.FromString("config of two"))
}

func TestBounds(t *testing.T) {
	f := newFake(t)
	nested := f.image("image")
	for range 4 {
		nested = f.index(nested)
	}
	f.tag("deep", nested)
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("deep"), all))
	f.tag("too-deep", f.index(nested))
	if got := warm.Image(t.Context(), f, oci.ByTag("too-deep"), all).Failed; len(got) != 1 || !strings.Contains(got[0].Error(), "is nested in more than 4 indexes") {
		t.Errorf("%v", got)
	}

	var many []ocispec.Descriptor
	for i := range 1010 {
		many = append(many, f.manifest(map[string]any{"layers": []any{}, "i": i}))
	}
	f.tag("wide", f.index(many...))
	f.asked = nil
	if got := warm.Image(t.Context(), f, oci.ByTag("wide"), warm.Options{}).Failed; len(got) != 1 || len(f.asked) != 1000 || !strings.Contains(got[0].Error(), "more than 1000") {
		t.Errorf("asked %d times: %v", len(f.asked), got)
	}

	var layers []ocispec.Descriptor
	for i := range 10100 {
		layers = append(layers, f.blob(fmt.Sprint(i)))
	}
	f.tag("heavy", f.image("heavy", layers...))
	f.asked = nil
	if got := warm.Image(t.Context(), f, oci.ByTag("heavy"), warm.Options{}).Failed; len(f.asked) > 10001 || !strings.Contains(got[0].Error(), "more than 10000") {
		t.Errorf("asked %d times: %v", len(f.asked), got)
	}

	small := f.image("small")
	f.tag("limited", f.index(small))
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("limited"), warm.Options{MaxManifest: small.Size}))
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("limited"), warm.Options{MaxManifest: small.Size - 1}),
		fmt.Sprintf("manifest %s: cannot have %d bytes", small.Digest, small.Size))
}
