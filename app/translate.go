package app

import (
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// translated is a block of the configuration in the terms of package namespace.
type translated struct {
	spec    namespace.Spec
	clients []*upstream.Client // of its upstreams, in order
}

// translate turns all blocks of a validated configuration into namespaces, in its
// order. It takes the clients of unchanged upstreams from clients, and adds the
// clients of all upstreams to next, also if it fails.
func translate(cfg *config.Config, clients *clients, next clientSet) ([]translated, error) {
	all := make([]translated, len(cfg.Namespaces))
	limits := contentLimits{manifest: int64(cfg.Global.MaxManifestSize), blob: int64(cfg.Global.MaxBlobSize)}
	for i, block := range cfg.Namespaces {
		var err error
		if all[i], err = translateBlock(block, limits, clients, next); err != nil {
			return nil, fmt.Errorf("repository.%q: %w", block.Key, err)
		}
	}
	return all, nil
}

func translateBlock(block config.Namespace, limits contentLimits, clients *clients, next clientSet) (t translated, err error) {
	t.spec = namespace.Spec{
		Key: block.Key, Host: block.Host, Default: block.Default, Added: block.Added, Offline: block.Offline,
		DockerHub:               oci.IsDockerHub(block.Host),
		ImmutableTags:           block.ImmutableTags,
		ImmutableTagsExclusions: block.ImmutableTagsExclusions,
		TagTTL:                  block.TagTTL.Std(),
		TagSWR:                  block.TagSWR.Std(),
		NegativeTTL:             block.NegativeTTL.Std(),
		MaxStale:                block.MaxStale.Std(),
		RecheckPossession:       block.RecheckPossession.Std(),
		Unshared:                !block.Shared,
		Prefetch:                block.Prefetch,
		OnBehalf:                block.OnBehalf(),
		AuthCheckTTL:            block.AuthCheckTTL.Std(),
		AuthStaleGrace:          block.AuthStaleGrace.Std(),
		MaxManifest:             limits.manifest,
		Warm:                    translateWarm(block.Warm),
	}
	if t.spec.ServeStaleOn, err = translateClasses("serve_stale_on", block.ServeStaleOn); err != nil {
		return t, err
	}
	fallbackOn, err := translateClasses("fallback_on", block.FallbackOn)
	if err != nil {
		return t, err
	}
	var members []upstream.Member
	for i, u := range block.Upstreams {
		client, err := clients.get(next, u, limits)
		if err != nil {
			return t, fmt.Errorf("upstream[%d]: %w", i, err)
		}
		t.clients, members = append(t.clients, client), append(members, client)
		t.spec.UpstreamHosts = append(t.spec.UpstreamHosts, u.URL.Host)
		// A namespace that stands for Docker Hub or has it as an upstream expands
		// "nginx" to "library/nginx".
		t.spec.DockerHub = t.spec.DockerHub || oci.IsDockerHub(u.URL.Std().Hostname())
	}
	if t.spec.OnBehalf {
		t.spec.Grant, t.spec.Place = t.clients[0].Grant, t.clients[0].Place() // it is the only one
	}
	t.spec.MayLeadToMirror = func() bool { return slices.ContainsFunc(t.clients, (*upstream.Client).MayBeMirror) }
	t.spec.Upstreams = upstream.NewChain(upstream.ChainOptions{Logger: clients.logger, Block: block.Key, FallbackOn: fallbackOn}, members...)
	return t, nil
}

// translateClasses returns the classes of failures that a key of the configuration names,
// never nil. It returns an error for a class that no configuration file can have.
func translateClasses(key string, names []config.Class) ([]upstream.Class, error) {
	classes := make([]upstream.Class, len(names))
	for i, name := range names {
		switch name {
		case config.ClassNotFound:
			classes[i] = upstream.ClassNotFound
		case config.ClassDenied:
			classes[i] = upstream.ClassDenied
		case config.ClassRateLimited:
			classes[i] = upstream.ClassRateLimited
		case config.ClassUnavailable:
			classes[i] = upstream.ClassUnavailable
		default:
			return nil, fmt.Errorf("%s: no class of failures is called %q", key, name)
		}
	}
	return classes, nil
}

// translateWarm returns the images that a namespace keeps in the cache.
func translateWarm(lists []config.Warm) []keepwarm.Image {
	var all []keepwarm.Image
	for _, list := range lists {
		var platforms []ocispec.Platform
		for _, p := range list.Platforms {
			platforms = append(platforms, ocispec.Platform(p))
		}
		for _, image := range list.Images {
			all = append(all, keepwarm.Image{
				Name: image.Name, Reference: image.Reference,
				Every: list.Every.Std(), Platforms: platforms, Referrers: list.Referrers,
			})
		}
	}
	return all
}
