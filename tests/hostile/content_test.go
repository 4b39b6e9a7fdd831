package hostile

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	layersOfImage = 3
	layerSize     = 256 * kib
	// keptImages bounds the memory for images that the honest clients have pulled.
	keptImages = 64
)

// content is everything that an honest registry holds: images without end, each of
// which is a function of its tag ("n17"), and is made when it is asked for.
type content struct {
	name string

	mu     sync.Mutex
	images map[string]*image
	order  []*image // as they were made
	bodies map[digest.Digest][]byte
}

// image is a manifest with its config and its layers.
type image struct {
	tag      string
	manifest digest.Digest
	blobs    []digest.Digest
}

func newContent(name string) *content {
	return &content{name: name, images: make(map[string]*image), bodies: make(map[digest.Digest][]byte)}
}

// image returns the image of a tag, or nil if there is none of that name. Those whose
// tag begins with "w" are kept, as they are pulled again and again.
func (c *content) image(tag string) *image {
	if number, err := strconv.Atoi(strings.TrimLeft(tag, "nw")); err != nil || number < 0 || len(tag) < 2 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[tag] == nil {
		c.make(tag)
	}
	return c.images[tag]
}

// make is called with mu held.
func (c *content) make(tag string) {
	random := rand.NewChaCha8(sha256.Sum256([]byte(c.name + " " + tag)))
	i := &image{tag: tag}
	add := func(mediaType string, body []byte) ocispec.Descriptor {
		dgst := digest.FromBytes(body)
		c.bodies[dgst] = body
		return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(body))}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = add(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{"name":"%s:%s"}}}`, c.name, tag))
	i.blobs = append(i.blobs, m.Config.Digest)
	for range layersOfImage {
		layer := make([]byte, layerSize)
		_, _ = random.Read(layer) // never fails
		m.Layers = append(m.Layers, add(ocispec.MediaTypeImageLayerGzip, layer))
		i.blobs = append(i.blobs, m.Layers[len(m.Layers)-1].Digest)
	}
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // only of a type that cannot be marshalled at all
	}
	i.manifest = add(m.MediaType, body).Digest
	c.images[tag] = i
	if strings.HasPrefix(tag, "w") {
		return
	}
	c.order = append(c.order, i)
	if len(c.order) > keptImages {
		c.forget(c.order[0])
		c.order = c.order[1:]
	}
}

func (c *content) forget(i *image) {
	delete(c.images, i.tag)
	for _, dgst := range append(i.blobs, i.manifest) {
		delete(c.bodies, dgst)
	}
}

// body returns a blob by its digest, or nil.
func (c *content) body(dgst digest.Digest) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bodies[dgst]
}
