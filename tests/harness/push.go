package harness

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pusher pushes to a registry (distribution-spec, "Pushing").
type Pusher struct {
	Client   *http.Client
	Base     string // http://host:port
	Username string
	Password string
}

// PushImage pushes an image under a tag.
func (p *Pusher) PushImage(t *testing.T, repo, tag string, img *Image) {
	t.Helper()
	for _, blob := range append([][]byte{img.Config}, img.Layers...) {
		p.PushBlob(t, repo, blob)
	}
	p.PushManifest(t, repo, tag, ocispec.MediaTypeImageManifest, img.Manifest)
}

// PushIndex pushes images and an index of them under a tag.
func (p *Pusher) PushIndex(t *testing.T, repo, tag string, platforms map[string]*Image) (index []byte) {
	t.Helper()
	document := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for architecture, img := range platforms {
		p.PushImage(t, repo, img.Digest.String(), img)
		desc := DescriptorOf(ocispec.MediaTypeImageManifest, img.Manifest)
		desc.Platform = &ocispec.Platform{Architecture: architecture, OS: "linux"}
		document.Manifests = append(document.Manifests, desc)
	}
	index = Marshal(t, document)
	p.PushManifest(t, repo, tag, ocispec.MediaTypeImageIndex, index)
	return index
}

// PushBlob pushes a blob in one piece.
func (p *Pusher) PushBlob(t *testing.T, repo string, blob []byte) {
	t.Helper()
	begun := p.send(t, http.MethodPost, p.Base+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
	base, err := url.Parse(p.Base)
	Must(t, err)
	location, err := base.Parse(begun.Get("Location"))
	Must(t, err)
	query := location.Query()
	query.Set("digest", digest.FromBytes(blob).String())
	location.RawQuery = query.Encode()
	p.send(t, http.MethodPut, location.String(), "application/octet-stream", blob, http.StatusCreated)
}

// PushManifest pushes a manifest under a tag or its digest.
func (p *Pusher) PushManifest(t *testing.T, repo, ref, mediaType string, manifest []byte) {
	t.Helper()
	p.send(t, http.MethodPut, p.Base+"/v2/"+repo+"/manifests/"+ref, mediaType, manifest, http.StatusCreated)
}

func (p *Pusher) send(t *testing.T, method, target, contentType string, body []byte, want int) http.Header {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, bytes.NewReader(body))
	Must(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if p.Username != "" {
		req.SetBasicAuth(p.Username, p.Password)
	}
	resp, err := p.Client.Do(req)
	Must(t, err)
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s, want %d\n%s", method, target, resp.Status, want, answer)
	}
	return resp.Header
}
