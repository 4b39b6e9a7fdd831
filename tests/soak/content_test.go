package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	repositories   = 4
	imagesOfEach   = 3
	smallestLayer  = 2 * kib
	largestLayer   = 8 * mib
	layersOfImage  = 4
	tagOfTheIndex  = "multi"
	contentVersion = 2 // schemaVersion
)

// content is everything that the upstreams hold: the truth that each answer is
// compared with. It is a function of its seed.
type content struct {
	random *rand.ChaCha8
	bodies map[digest.Digest][]byte
	types  map[digest.Digest]string
	refers map[digest.Digest][]digest.Digest // the blobs that a manifest or an index names
	blobs  map[string][]digest.Digest        // of a repository
	tags   map[string]map[string]digest.Digest
	images []image
}

// image is a tag and its digest, which is that of an index or of a manifest.
type image struct {
	repo, tag string
	digest    digest.Digest
}

// newContent makes images that share a base layer in each repository, and an
// index of two of them.
func newContent(seed uint64) *content {
	c := &content{
		random: rand.NewChaCha8(seedOf(seed, "content")),
		bodies: make(map[digest.Digest][]byte),
		types:  make(map[digest.Digest]string),
		refers: make(map[digest.Digest][]digest.Digest),
		blobs:  make(map[string][]digest.Digest),
		tags:   make(map[string]map[string]digest.Digest),
	}
	for i := range repositories {
		repo := fmt.Sprintf("soak/app%d", i)
		c.tags[repo] = make(map[string]digest.Digest)
		base := c.layer(repo, largestLayer/2)
		var platforms []ocispec.Descriptor
		for j := range imagesOfEach {
			platforms = append(platforms, c.image(repo, fmt.Sprintf("v%d", j), base))
		}
		c.index(repo, platforms[:2])
	}
	return c
}

// size is the number of bytes of all content.
func (c *content) size() (sum int64) {
	for _, body := range c.bodies {
		sum += int64(len(body))
	}
	return sum
}

func (c *content) add(mediaType string, body []byte) ocispec.Descriptor {
	dgst := digest.FromBytes(body)
	c.bodies[dgst], c.types[dgst] = body, mediaType
	return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(body))}
}

func (c *content) blob(repo, mediaType string, body []byte) ocispec.Descriptor {
	desc := c.add(mediaType, body)
	c.blobs[repo] = append(c.blobs[repo], desc.Digest)
	return desc
}

func (c *content) layer(repo string, size int) ocispec.Descriptor {
	body := make([]byte, size)
	_, _ = c.random.Read(body) // never fails
	return c.blob(repo, ocispec.MediaTypeImageLayerGzip, body)
}

// image makes an image of the base, a large layer and some of any size, most of
// them small.
func (c *content) image(repo, tag string, base ocispec.Descriptor) ocispec.Descriptor {
	random := rand.New(c.random)
	layers := []ocispec.Descriptor{base, c.layer(repo, largestLayer/2+random.IntN(largestLayer/2))}
	for len(layers) < layersOfImage {
		layers = append(layers, c.layer(repo, smallestLayer<<random.IntN(11)+random.IntN(smallestLayer)))
	}
	config := c.blob(repo, ocispec.MediaTypeImageConfig,
		fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{"name":"%s:%s"}}}`, repo, tag))
	return c.manifest(repo, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: contentVersion},
		MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers,
	}, append(layers, config))
}

func (c *content) index(repo string, platforms []ocispec.Descriptor) {
	c.manifest(repo, tagOfTheIndex, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: contentVersion},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: platforms,
	}, platforms)
}

func (c *content) manifest(repo, tag, mediaType string, document any, refers []ocispec.Descriptor) ocispec.Descriptor {
	body, err := json.Marshal(document)
	if err != nil {
		panic(err) // only of a type that cannot be marshalled at all
	}
	desc := c.add(mediaType, body)
	for _, child := range refers {
		c.refers[desc.Digest] = append(c.refers[desc.Digest], child.Digest)
	}
	c.tags[repo][tag] = desc.Digest
	c.images = append(c.images, image{repo, tag, desc.Digest})
	return desc
}

// isIndex reports whether a digest is an index's.
func (c *content) isIndex(dgst digest.Digest) bool {
	return c.types[dgst] == ocispec.MediaTypeImageIndex
}

// seedOf makes the seed of one purpose from the soak's, so that each purpose
// has random numbers of its own.
func seedOf(seed uint64, purpose string) (key [32]byte) {
	copy(key[:], digest.FromString(fmt.Sprint(seed, " ", purpose)).Encoded())
	return key
}
