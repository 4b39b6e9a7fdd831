package warm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// memory is a repository in memory, with a cache that starts empty.
type memory struct {
	manifests map[string][]byte // by tag and by digest
}

func (m memory) Manifest(_ context.Context, ref oci.Reference) (warm.Manifest, error) {
	body, ok := m.manifests[ref.String()]
	if !ok {
		return warm.Manifest{}, errors.New("not found")
	}
	return warm.Manifest{Body: body}, nil
}

func (m memory) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}

func (m memory) Blob(_ context.Context, blob ocispec.Descriptor, _ bool, arrived func(int64)) (there bool, err error) {
	fmt.Println("blob of", blob.Size, "bytes")
	arrived(blob.Size)
	return false, nil
}

// add adds a manifest and returns its descriptor.
func (m memory) add(document any, platform string) ocispec.Descriptor {
	body, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(body), Size: int64(len(body))}
	if platform != "" {
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: platform}
	}
	m.manifests[desc.Digest.String()] = body
	return desc
}

// An index has images of two platforms, and one of them is wanted.
func ExampleImage() {
	layer := func(content string) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
	}
	repository := memory{manifests: map[string][]byte{}}
	amd64 := repository.add(ocispec.Manifest{Config: layer("{}"), Layers: []ocispec.Descriptor{layer("layer for amd64")}}, "amd64")
	arm64 := repository.add(ocispec.Manifest{Config: layer("{}"), Layers: []ocispec.Descriptor{layer("a layer for arm64")}}, "arm64")
	index := repository.add(ocispec.Index{Manifests: []ocispec.Descriptor{amd64, arm64}}, "")
	repository.manifests["1.27"] = repository.manifests[index.Digest.String()]

	result := warm.Image(context.Background(), repository, oci.ByTag("1.27"), warm.Options{
		Platforms: []ocispec.Platform{{OS: "linux", Architecture: "arm64"}},
	})
	fmt.Println(result.New.Objects, "objects are new,", result.There.Objects, "were there, failures:", len(result.Failed))
	// Output:
	// blob of 2 bytes
	// blob of 17 bytes
	// 4 objects are new, 0 were there, failures: 0
}
