package main

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/keepwarm"
)

// addWarmings gives a namespace the images that it keeps in the cache.
func addWarmings(spec *namespace.Spec, lists []config.Warm) error {
	for i, list := range lists {
		platforms, err := parsePlatforms(list.Platforms)
		if err != nil {
			return fmt.Errorf("warm[%d]: %w", i, err)
		}
		for _, text := range list.Images {
			image, err := config.ParseImage(text)
			if err != nil {
				return fmt.Errorf("warm[%d]: %w", i, err)
			}
			spec.Warm = append(spec.Warm, keepwarm.Image{
				Name: image.Name, Reference: image.Reference,
				Every: list.Every.Std(), Platforms: platforms, Referrers: list.Referrers,
			})
		}
	}
	return nil
}

func parsePlatforms(texts []string) ([]ocispec.Platform, error) {
	var platforms []ocispec.Platform
	for _, text := range texts {
		p, err := config.ParsePlatform(text)
		if err != nil {
			return nil, err
		}
		platforms = append(platforms, p)
	}
	return platforms, nil
}
