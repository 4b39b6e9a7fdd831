package upstreamtest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// content is the bytes of a blob.
type content interface {
	io.ReaderAt
	Size() int64
}

type manifest struct {
	ocispec.Descriptor
	body    []byte
	subject digest.Digest
}

// AddBlob puts a blob into the given repository and returns its digest.
func (r *Registry) AddBlob(repo string, blob []byte) digest.Digest {
	dgst := digest.FromBytes(blob)
	r.addContent(repo, dgst, bytes.NewReader(blob))
	return dgst
}

// AddBlobAs puts a blob under a digest, whether it is its own or not.
func (r *Registry) AddBlobAs(repo string, dgst digest.Digest, blob []byte) {
	r.addContent(repo, dgst, bytes.NewReader(blob))
}

// AddRandomBlob puts a blob of size bytes, which the seed alone determines, into
// the given repository. It is generated while it is served, so it takes no
// memory.
func (r *Registry) AddRandomBlob(repo string, size int64, seed uint64) digest.Digest {
	digester := digest.Canonical.Digester()
	if _, err := io.Copy(digester.Hash(), RandomBlob(size, seed)); err != nil {
		r.t.Fatalf("upstreamtest: %v", err)
	}
	dgst := digester.Digest()
	r.addContent(repo, dgst, RandomBlob(size, seed))
	return dgst
}

// RandomBlob returns the bytes that [Registry.AddRandomBlob] serves.
func RandomBlob(size int64, seed uint64) *io.SectionReader {
	return io.NewSectionReader(random(seed), 0, size)
}

// random is an endless file: its word number i is SplitMix64 of seed and i.
type random uint64

// ReadAt is most of what some tests do, and shares nothing.
//
//go:norace
func (r random) ReadAt(p []byte, offset int64) (int, error) {
	var word [8]byte
	for n := 0; n < len(p); {
		position := uint64(offset) + uint64(n)
		z := uint64(r) + (position/8+1)*0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		if skip := position % 8; skip == 0 && len(p)-n >= 8 {
			binary.LittleEndian.PutUint64(p[n:], z)
			n += 8
		} else {
			binary.LittleEndian.PutUint64(word[:], z)
			n += copy(p[n:], word[skip:])
		}
	}
	return len(p), nil
}

// AddManifest puts a manifest into a repository under a tag or its digest.
func (r *Registry) AddManifest(repo, ref, mediaType string, body []byte) ocispec.Descriptor {
	var document struct {
		ArtifactType string              `json:"artifactType"`
		Config       *ocispec.Descriptor `json:"config"`
		Subject      *ocispec.Descriptor `json:"subject"`
	}
	_ = json.Unmarshal(body, &document) // a test's manifest may be nonsense
	m := manifest{body: body, Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}}
	m.ArtifactType = document.ArtifactType
	if m.ArtifactType == "" && document.Config != nil && document.Subject != nil {
		m.ArtifactType = document.Config.MediaType
	}
	if document.Subject != nil {
		m.subject = document.Subject.Digest
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	repository := r.repository(repo)
	if named, err := digest.Parse(ref); err == nil {
		repository.manifests[named] = m
	} else {
		repository.manifests[m.Digest] = m
		repository.tags[ref] = m.Digest
	}
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}
}

// AddImage puts an image of layers into a repository under a tag.
func (r *Registry) AddImage(repo, tag string, layers ...[]byte) ocispec.Descriptor {
	image := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, layer := range layers {
		dgst := r.AddBlob(repo, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, dgst)
		image.Layers = append(image.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: dgst, Size: int64(len(layer))})
	}
	body := r.marshal(config)
	image.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: r.AddBlob(repo, body), Size: int64(len(body))}
	return r.AddManifest(repo, tag, image.MediaType, r.marshal(image))
}

// AddIndex puts an index of manifests into a repository under a tag.
func (r *Registry) AddIndex(repo, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	return r.AddManifest(repo, tag, index.MediaType, r.marshal(index))
}

// AddReferrer puts an artifact that refers to subject into a repository, and
// lists it under the fallback tag if the registry has no referrers API.
func (r *Registry) AddReferrer(repo string, subject ocispec.Descriptor, artifactType string, blob []byte) ocispec.Descriptor {
	r.AddBlob(repo, []byte("{}"))
	body := r.marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config:  ocispec.DescriptorEmptyJSON,
		Layers:  []ocispec.Descriptor{{MediaType: "application/octet-stream", Digest: r.AddBlob(repo, blob), Size: int64(len(blob))}},
		Subject: &subject,
	})
	desc := r.AddManifest(repo, digest.FromBytes(body).String(), ocispec.MediaTypeImageManifest, body)
	desc.ArtifactType = artifactType
	if r.config.noReferrers {
		tag := strings.Replace(subject.Digest.String(), ":", "-", 1)
		r.AddIndex(repo, tag, r.referrers(repo, subject.Digest, "")...)
	}
	return desc
}

// Tag lets a tag name a manifest that is already there.
func (r *Registry) Tag(repo, tag string, dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repository(repo).tags[tag] = dgst
}

// Untag removes a tag.
func (r *Registry) Untag(repo, tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repository(repo).tags, tag)
}

// Remove removes a blob or manifest from a repository.
func (r *Registry) Remove(repo string, dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repository(repo).blobs, dgst)
	delete(r.repository(repo).manifests, dgst)
}

func (r *Registry) addContent(repo string, dgst digest.Digest, c content) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repository(repo).blobs[dgst] = c
}

// repository returns a repository, which it creates. It is called with mu held.
func (r *Registry) repository(name string) *repository {
	if r.repositories[name] == nil {
		r.repositories[name] = &repository{
			blobs:     make(map[digest.Digest]content),
			manifests: make(map[digest.Digest]manifest),
			tags:      make(map[string]digest.Digest),
		}
	}
	return r.repositories[name]
}

func (r *Registry) marshal(v any) []byte {
	r.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		r.t.Fatalf("upstreamtest: %v", err)
	}
	return body
}
