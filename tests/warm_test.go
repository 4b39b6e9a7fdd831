package tests

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// warm runs weir warm on a running mirror.
func warm(t *testing.T, w *harness.Weir, args ...string) result {
	t.Helper()
	return command(t, t.TempDir(), append([]string{"warm", "--url", w.URL}, args...)...)
}

// published is an image for two platforms, with a signature of its index and
// one of its arm64 manifest.
type published struct {
	index, amd64, arm64                 ocispec.Descriptor
	signature, armSignature             ocispec.Descriptor
	contents                            []digest.Digest // all of it, each once
	amd64Layer, arm64Layer, sharedLayer digest.Digest
}

func publish(t *testing.T, upstream *upstreamtest.Registry, repo, tag string, size int64) published {
	t.Helper()
	one, two, shared := random(t, size, 1), random(t, size, 2), random(t, size, 3)
	p := published{
		amd64: upstream.AddImage(repo, tag+"-amd64", shared, one), arm64: upstream.AddImage(repo, tag+"-arm64", shared, two),
		amd64Layer: digest.FromBytes(one), arm64Layer: digest.FromBytes(two), sharedLayer: digest.FromBytes(shared),
	}
	p.amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	p.arm64.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	p.index = upstream.AddIndex(repo, tag, p.amd64, p.arm64)
	p.signature = upstream.AddReferrer(repo, p.index, "example/signature", []byte("signs the index"))
	p.armSignature = upstream.AddReferrer(repo, p.arm64, "example/signature", []byte("signs arm64"))
	return p
}

// without returns requests in order, those that hold a text left out.
func without(requests []string, text string) []string {
	requests = slices.DeleteFunc(requests, func(r string) bool { return strings.Contains(r, text) })
	slices.Sort(requests)
	return requests
}

// A cold image costs its upstream what a pull of all of it costs, each content
// once; a warm one a HEAD, and the question who refers to it.
func TestWarmOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", 40*kib)
	w := harness.StartWeir(t, block("mirror", upstream))

	got := warm(t, w, "mirror/org/app:v1")
	t.Logf("%+v", got)
	cold := without(upstream.Requests(), "/referrers/")
	for _, r := range cold {
		t.Log(r)
	}
	_ = image
	_ = fmt.Sprint
	_ = http.MethodGet
	_ = filepath.Join
	got = warm(t, w, "mirror/org/app:v1")
	t.Logf("%+v", got)
}
