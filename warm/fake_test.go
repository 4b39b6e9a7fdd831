package warm_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		panic(err)
	}
	os.Exit(code)
}

var errAbsent = warm.NotFound(errors.New("404: no such content"))

// fake is a repository and the cache before it.
type fake struct {
	t *testing.T

	mu        sync.Mutex
	manifests map[string][]byte // by tag and by digest
	blobs     map[digest.Digest]int64
	referrers map[digest.Digest][]ocispec.Descriptor
	cached    map[string]bool
	stale     string
	failures  map[string]error // by reference or digest
	gate      chan struct{}    // blobs wait for it, if it is set

	asked           []string // manifests, blobs and "referrers DIGEST"
	likely          map[digest.Digest]bool
	running, atOnce int
}

func newFake(t *testing.T) *fake {
	return &fake{
		t: t, manifests: make(map[string][]byte), blobs: make(map[digest.Digest]int64),
		referrers: make(map[digest.Digest][]ocispec.Descriptor), cached: make(map[string]bool),
		failures: make(map[string]error), likely: make(map[digest.Digest]bool),
	}
}

// blob adds a blob, which is as large as its text is long.
func (f *fake) blob(text string) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(text), Size: int64(len(text))}
	f.blobs[desc.Digest] = desc.Size
	return desc
}

func (f *fake) manifest(document any) ocispec.Descriptor {
	f.t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.raw(body)
}

func (f *fake) raw(body []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(body), Size: int64(len(body))}
	f.manifests[desc.Digest.String()] = body
	return desc
}

// image adds an image with a configuration of its own.
func (f *fake) image(name string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	config := f.blob("config of " + name)
	return f.manifest(ocispec.Manifest{Config: config, Layers: layers})
}

func (f *fake) index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	return f.manifest(map[string]any{"manifests": manifests})
}

// refer lets an artifact refer to a manifest.
func (f *fake) refer(to ocispec.Descriptor, name string) ocispec.Descriptor {
	desc := f.image(name, f.blob("content of "+name))
	f.referrers[to.Digest] = append(f.referrers[to.Digest], desc)
	return desc
}

func (f *fake) tag(tag string, desc ocispec.Descriptor) {
	f.manifests[tag] = f.manifests[desc.Digest.String()]
}

func (f *fake) ask(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, name)
	return f.failures[name]
}

func (f *fake) Manifest(_ context.Context, named oci.Reference) (warm.Manifest, error) {
	ref := named.String()
	if err := f.ask(ref); err != nil {
		return warm.Manifest{}, err
	}
	body, ok := f.manifests[ref]
	if !ok {
		return warm.Manifest{}, errAbsent
	}
	return warm.Manifest{Body: body, There: f.cached[ref], Stale: f.stale}, nil
}

func (f *fake) Referrers(_ context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	return f.referrers[subject], f.ask("referrers " + subject.String())
}

func (f *fake) Blob(ctx context.Context, desc ocispec.Descriptor, likely bool, arrived func(int64)) (bool, error) {
	if err := f.ask(desc.Digest.String()); err != nil {
		return false, err
	}
	f.mu.Lock()
	f.likely[desc.Digest] = likely
	f.running++
	f.atOnce = max(f.atOnce, f.running)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	}()
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	if f.blobs[desc.Digest] != desc.Size {
		return false, errAbsent
	}
	arrived(desc.Size / 2)
	return f.cached[desc.Digest.String()], nil
}

func on(desc ocispec.Descriptor, os, architecture, variant string) ocispec.Descriptor {
	desc.Platform = &ocispec.Platform{OS: os, Architecture: architecture, Variant: variant}
	return desc
}
