package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
)

// origin is why an image is one to ask an upstream for; the later, the better.
type origin int

const (
	none   origin = iota
	public        // it is well known
	cached        // the mirror has got it before
	named         // the operator said so
)

// image is what an upstream is asked for.
type image struct {
	origin                origin
	repository, reference string // below the upstream's URL
	blob                  digest.Digest
}

// String returns the image as people write it, with a digest cut short.
func (i image) String() string {
	if i.origin == none {
		return ""
	}
	if dgst := digest.Digest(i.reference); dgst.Validate() == nil {
		return i.repository + "@" + i.reference[:len(dgst.Algorithm())+1+12]
	}
	return i.repository + ":" + i.reference
}

// better returns the best of several images, the first among equals.
func better(images ...image) (best image) {
	for _, i := range images {
		if i.origin > best.origin {
			best = i
		}
	}
	return best
}

// namedImages returns the images that the operator named, by the keys of their
// repositories.
func namedImages(specs []namespace.Spec, names []string) (map[string]image, error) {
	cache, err := namespace.NewCache(namespace.CacheOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	table, err := namespace.NewTable(cache, specs)
	if err != nil {
		return nil, err
	}
	images := make(map[string]image)
	for _, text := range names {
		parsed, err := oci.ParseImage(text)
		if err != nil {
			return nil, fmt.Errorf("--image: %w", err)
		}
		ns, repository, err := resolve(table, parsed.Name)
		if err != nil {
			return nil, fmt.Errorf("--image %s: %w", text, err)
		}
		if other, twice := images[ns.Key()]; twice {
			return nil, fmt.Errorf("--image %s: repository.%q is asked for %s already; give one image for each", text, ns.Key(), other)
		}
		images[ns.Key()] = image{origin: named, repository: repository, reference: parsed.Reference.String()}
	}
	return images, nil
}

// resolve finds the namespace of a name with or without a host: by its key, as
// in a pull from the mirror by name, else by its host, as where the mirror
// stands in for that.
func resolve(table *namespace.Table, name string) (*namespace.Namespace, string, error) {
	ns, repository, err := table.Resolve("", name)
	if err == nil && strings.HasPrefix(name+"/", ns.Key()+"/") {
		return ns, repository, nil
	}
	host, rest, _ := strings.Cut(name, "/")
	if at, below, hostErr := table.Resolve(host, rest); rest != "" && hostErr == nil && oci.SameHost(at.Host(), host) {
		return at, below, nil
	}
	return ns, repository, err
}

// addCached adds an image that is cached for each repository that has none yet.
func addCached(ctx context.Context, cfg *config.Config, images map[string]image) error {
	if len(images) == len(cfg.Namespaces) {
		return nil
	}
	store, err := disk.Open(cfg.BlobStore.FS.RootDir, disk.Options{Existing: true})
	if errors.Is(err, disk.ErrNoStore) {
		return nil // nothing was cached yet
	}
	if err != nil {
		return err
	}
	defer store.Close()
	catalog := catalog.New(store.Records(), catalog.Options{})
	repositories, err := catalog.Repositories(ctx)
	if err != nil {
		return err
	}
	for _, repo := range repositories {
		if images[repo.Namespace].origin != none {
			continue
		}
		if images[repo.Namespace], err = cachedImage(ctx, catalog, repo); err != nil {
			return err
		}
	}
	return nil
}

// cachedImage returns a manifest of a repository, by a tag if it has one, with a
// blob if there is one. It is none where the repository has only blobs.
func cachedImage(ctx context.Context, catalog *catalog.Catalog, repo storage.RepoID) (image, error) {
	found := image{origin: cached, repository: repo.Name}
	tags, err := catalog.Tags(ctx, repo)
	if err != nil {
		return image{}, err
	}
	if len(tags) > 0 {
		found.reference = tags[0]
	}
	for link, err := range catalog.Links(ctx, repo) {
		switch {
		case err != nil:
			return image{}, err
		case link.MediaType == "":
			found.blob = link.Digest
		case found.reference == "":
			found.reference = link.Digest.String()
		}
		if found.blob != "" && found.reference != "" {
			return found, nil
		}
	}
	if found.reference == "" {
		return image{}, nil
	}
	return found, nil
}

// wellKnown returns a small image that the public registry at the root of an
// upstream has had for years; none for any other upstream.
func wellKnown(u config.Upstream) image {
	target := u.URL.Std()
	if strings.Trim(target.Path, "/") != "" {
		return image{}
	}
	host := strings.ToLower(target.Host)
	if oci.IsDockerHub(host) {
		return image{origin: public, repository: "library/alpine", reference: "latest"}
	}
	switch host {
	case "gcr.io":
		return image{origin: public, repository: "distroless/static", reference: "latest"}
	case "ghcr.io":
		return image{origin: public, repository: "stefanprodan/podinfo", reference: "latest"}
	case "mcr.microsoft.com":
		return image{origin: public, repository: "hello-world", reference: "latest"}
	case "public.ecr.aws":
		return image{origin: public, repository: "docker/library/alpine", reference: "latest"}
	case "quay.io":
		return image{origin: public, repository: "prometheus/busybox", reference: "latest"}
	case "registry.gitlab.com":
		return image{origin: public, repository: "gitlab-org/cloud-native/mirror/images/busybox", reference: "latest"}
	case "registry.k8s.io":
		return image{origin: public, repository: "pause", reference: "3.9"}
	default:
		return image{}
	}
}
