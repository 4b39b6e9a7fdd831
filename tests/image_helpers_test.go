package tests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is one that real clients can unpack.
type image struct {
	Manifest []byte
	Config   []byte
	Layers   [][]byte
	Digest   digest.Digest // of the manifest
}

// ID is what docker shows as the image's ID.
func (i *image) ID() string { return digest.FromBytes(i.Config).String() }

// newImage makes an image with layers of random files of the given sizes.
func newImage(t *testing.T, sizes ...int) *image {
	t.Helper()
	img := &image{}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}}
	config.RootFS.Type = "layers"
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for n, size := range sizes {
		layer, diffID := newLayer(t, fmt.Sprintf("file-%d", n), size)
		img.Layers = append(img.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		manifest.Layers = append(manifest.Layers, descriptorOf(ocispec.MediaTypeImageLayerGzip, layer))
	}
	img.Config = marshal(t, config)
	manifest.Config = descriptorOf(ocispec.MediaTypeImageConfig, img.Config)
	img.Manifest = marshal(t, manifest)
	img.Digest = digest.FromBytes(img.Manifest)
	return img
}

func newLayer(t *testing.T, name string, size int) (layer []byte, diffID digest.Digest) {
	t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	var plain, packed bytes.Buffer
	archive := tar.NewWriter(&plain)
	must(t, archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}))
	_, err := archive.Write(content)
	must(t, err)
	must(t, archive.Close())
	compressor := gzip.NewWriter(&packed)
	_, err = compressor.Write(plain.Bytes())
	must(t, err)
	must(t, compressor.Close())
	return packed.Bytes(), digest.FromBytes(plain.Bytes())
}

func descriptorOf(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	body, err := json.Marshal(value)
	must(t, err)
	return body
}

// pusher pushes to a registry (distribution-spec, "Pushing").
type pusher struct {
	client   *http.Client
	base     string // http://host:port
	username string
	password string
}

// pushImage pushes an image under a tag.
func (p *pusher) pushImage(t *testing.T, repo, tag string, img *image) {
	t.Helper()
	for _, blob := range append([][]byte{img.Config}, img.Layers...) {
		p.pushBlob(t, repo, blob)
	}
	p.pushManifest(t, repo, tag, ocispec.MediaTypeImageManifest, img.Manifest)
}

// pushIndex pushes images and an index of them under a tag.
func (p *pusher) pushIndex(t *testing.T, repo, tag string, platforms map[string]*image) (index []byte) {
	t.Helper()
	document := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for architecture, img := range platforms {
		p.pushImage(t, repo, img.Digest.String(), img)
		desc := descriptorOf(ocispec.MediaTypeImageManifest, img.Manifest)
		desc.Platform = &ocispec.Platform{Architecture: architecture, OS: "linux"}
		document.Manifests = append(document.Manifests, desc)
	}
	index = marshal(t, document)
	p.pushManifest(t, repo, tag, ocispec.MediaTypeImageIndex, index)
	return index
}

func (p *pusher) pushBlob(t *testing.T, repo string, blob []byte) {
	t.Helper()
	begun := p.send(t, http.MethodPost, p.base+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
	base, err := url.Parse(p.base)
	must(t, err)
	location, err := base.Parse(begun.Get("Location"))
	must(t, err)
	query := location.Query()
	query.Set("digest", digest.FromBytes(blob).String())
	location.RawQuery = query.Encode()
	p.send(t, http.MethodPut, location.String(), "application/octet-stream", blob, http.StatusCreated)
}

func (p *pusher) pushManifest(t *testing.T, repo, ref, mediaType string, manifest []byte) {
	t.Helper()
	p.send(t, http.MethodPut, p.base+"/v2/"+repo+"/manifests/"+ref, mediaType, manifest, http.StatusCreated)
}

func (p *pusher) send(t *testing.T, method, target, contentType string, body []byte, want int) http.Header {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, bytes.NewReader(body))
	must(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if p.username != "" {
		req.SetBasicAuth(p.username, p.password)
	}
	resp, err := p.client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s, want %d\n%s", method, target, resp.Status, want, answer)
	}
	return resp.Header
}
