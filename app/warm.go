package app

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace/keepwarm"
)

// keptWarm returns the images that a namespace keeps in the cache.
func keptWarm(lists []config.Warm) []keepwarm.Image {
	var all []keepwarm.Image
	for _, list := range lists {
		var platforms []ocispec.Platform
		for _, p := range list.Platforms {
			platforms = append(platforms, ocispec.Platform(p))
		}
		for _, image := range list.Images {
			all = append(all, keepwarm.Image{
				Name: image.Name, Reference: image.Reference.String(),
				Every: list.Every.Std(), Platforms: platforms, Referrers: list.Referrers,
			})
		}
	}
	return all
}
