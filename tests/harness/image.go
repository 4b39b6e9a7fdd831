package harness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one that real clients can unpack.
type Image struct {
	Manifest []byte
	Config   []byte
	Layers   [][]byte
	Digest   digest.Digest // of the manifest
}

// ID is the image's ID as docker shows it.
func (i *Image) ID() string { return digest.FromBytes(i.Config).String() }

// NewImage makes an image with layers of random files of the given sizes.
func NewImage(t *testing.T, sizes ...int) *Image {
	t.Helper()
	img := &Image{}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}}
	config.RootFS.Type = "layers"
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for n, size := range sizes {
		layer, diffID := newLayer(t, fmt.Sprintf("file-%d", n), size)
		img.Layers = append(img.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		manifest.Layers = append(manifest.Layers, DescriptorOf(ocispec.MediaTypeImageLayerGzip, layer))
	}
	img.Config = Marshal(t, config)
	manifest.Config = DescriptorOf(ocispec.MediaTypeImageConfig, img.Config)
	img.Manifest = Marshal(t, manifest)
	img.Digest = digest.FromBytes(img.Manifest)
	return img
}

func newLayer(t *testing.T, name string, size int) (layer []byte, diffID digest.Digest) {
	t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	var plain, packed bytes.Buffer
	archive := tar.NewWriter(&plain)
	Must(t, archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}))
	_, err := archive.Write(content)
	Must(t, err)
	Must(t, archive.Close())
	compressor := gzip.NewWriter(&packed)
	_, err = compressor.Write(plain.Bytes())
	Must(t, err)
	Must(t, compressor.Close())
	return packed.Bytes(), digest.FromBytes(plain.Bytes())
}

// DescriptorOf describes content.
func DescriptorOf(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// Marshal is JSON.
func Marshal(t *testing.T, value any) []byte {
	t.Helper()
	body, err := json.Marshal(value)
	Must(t, err)
	return body
}
