package check

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/route"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// origin says where a probe's image came from, in increasing preference.
type origin int

const (
	unknown origin = iota
	public         // a well-known image of a public registry
	cached         // the mirror has pulled it before
	named          // the operator named it
)

// image is the image that a probe asks an upstream for. The zero value is not an image.
type image struct {
	origin     origin
	repository string // below the upstream's URL
	reference  oci.Reference
	blob       digest.Digest // "": none is known
}

// String returns the image as people write it, with a digest cut short.
func (i image) String() string {
	if i.origin == unknown {
		return ""
	}
	if i.reference.IsTag() {
		return i.reference.Join(i.repository)
	}
	dgst := i.reference.Digest()
	return i.repository + "@" + dgst.String()[:len(dgst.Algorithm())+1+12]
}

// bestImage returns the image of the most preferred origin, the first among
// equals.
func bestImage(images ...image) (best image) {
	for _, i := range images {
		if i.origin > best.origin {
			best = i
		}
	}
	return best
}

// Images are the images that upstreams are asked for, at most one for each
// namespace.
type Images struct {
	table *route.Table[route.Rule]
	byKey map[string]image
}

// NewImages returns no images yet, of these namespaces.
func NewImages(specs []namespace.Spec) (*Images, error) {
	entries := make([]route.Entry[route.Rule], len(specs))
	for i, spec := range specs {
		entries[i] = route.Entry[route.Rule]{Rule: spec.Rule(), Value: spec.Rule()}
	}
	table, err := route.New(entries...)
	if err != nil {
		return nil, err
	}
	return &Images{table: table, byKey: make(map[string]image)}, nil
}

// Add adds an image as a client names it. It returns an error if no namespace
// answers the name, or if its namespace has an image already.
func (s *Images) Add(i oci.Image) error {
	block, repository, err := s.resolve(i.Name)
	if err != nil {
		return err
	}
	// The report has one line for each upstream, and so room for one image.
	if other, taken := s.byKey[block.Key]; taken {
		return fmt.Errorf("%s is in the block %q, for which %s is already given. Name one image for each block", i.Name, block.Key, other)
	}
	s.byKey[block.Key] = image{origin: named, repository: repository, reference: ofType(i.Reference, "")}
	return nil
}

// resolve finds the namespace of a name. A name with a namespace's key is one
// that clients pull from the mirror by. Any other name may begin with the host of
// a registry that the mirror stands in for, such as docker.io.
func (s *Images) resolve(name string) (route.Rule, string, error) {
	block, repository, err := s.table.Resolve("", name)
	if err == nil && oci.Below(name, block.Key) {
		return block, repository, nil
	}
	host, rest, _ := strings.Cut(name, "/")
	if rest != "" && s.table.ByHost(host, rest) {
		return s.table.Resolve(host, rest)
	}
	return block, repository, err // that of the default namespace, such as nginx
}

// AddCached adds an image from the mirror's records for each namespace that has
// no image yet.
func (s *Images) AddCached(ctx context.Context, catalog *catalog.Catalog) error {
	repositories, err := catalog.Repositories(ctx)
	if err != nil {
		return err
	}
	for _, repo := range repositories {
		// An image that the operator named, or the first cached one, is enough.
		if s.byKey[repo.Namespace].origin != unknown {
			continue
		}
		if s.byKey[repo.Namespace], err = cachedImage(ctx, catalog, repo); err != nil {
			return err
		}
	}
	return nil
}

// cachedImage returns a manifest of a repository, by a tag if there is one, and a
// blob if there is one. It returns no image if the repository has only blobs.
func cachedImage(ctx context.Context, catalog *catalog.Catalog, repo storage.RepoID) (image, error) {
	found := image{origin: cached, repository: repo.Name}
	tags, err := catalog.Tags(ctx, repo)
	if err != nil {
		return image{}, err
	}
	if len(tags) > 0 {
		tag, err := catalog.Tag(ctx, repo, tags[0])
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return image{}, err
		}
		found.reference = ofType(oci.ByTag(tags[0]), tag.Descriptor.MediaType)
	}
	for link, err := range catalog.Links(ctx, repo) {
		switch {
		case err != nil:
			return image{}, err
		case link.MediaType == "": // only manifests have one
			found.blob = link.Digest
		case found.reference == (oci.Reference{}):
			found.reference = ofType(oci.ByDigest(link.Digest), link.MediaType)
		}
		if found.blob != "" && found.reference != (oci.Reference{}) {
			return found, nil
		}
	}
	// A probe begins with a manifest. A blob alone is of no use to it.
	if found.reference == (oci.Reference{}) {
		return image{}, nil
	}
	return found, nil
}

// ofType returns a reference that accepts a media type of manifests, "" if it is not
// known, and those of artifacts: a registry may answer "not found" to a probe that
// does not.
func ofType(ref oci.Reference, mediaType string) oci.Reference {
	return ref.Accepting(mediaType, oci.ArtifactManifests)
}

// wellKnown returns a small image that the public registry at target has had for
// years. It returns no image if target is any other registry, or a path below the
// root of one.
func wellKnown(target *url.URL) image {
	if strings.Trim(target.Path, "/") != "" {
		return image{}
	}
	host := strings.ToLower(target.Host)
	if oci.IsDockerHub(host) {
		return image{origin: public, repository: "library/alpine", reference: oci.ByTag("latest")}
	}
	switch host {
	case "gcr.io":
		return image{origin: public, repository: "distroless/static", reference: oci.ByTag("latest")}
	case "ghcr.io":
		return image{origin: public, repository: "stefanprodan/podinfo", reference: oci.ByTag("latest")}
	case "mcr.microsoft.com":
		return image{origin: public, repository: "hello-world", reference: oci.ByTag("latest")}
	case "public.ecr.aws":
		return image{origin: public, repository: "docker/library/alpine", reference: oci.ByTag("latest")}
	case "quay.io":
		return image{origin: public, repository: "prometheus/busybox", reference: oci.ByTag("latest")}
	case "registry.gitlab.com":
		return image{origin: public, repository: "gitlab-org/cloud-native/mirror/images/busybox", reference: oci.ByTag("latest")}
	case "registry.k8s.io":
		return image{origin: public, repository: "pause", reference: oci.ByTag("3.9")}
	default:
		return image{}
	}
}
