package warm

import (
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// matches reports whether a platform is among those wanted. A wanted platform
// without a variant matches every variant: linux/arm matches linux/arm/v6.
func matches(wanted []ocispec.Platform, p ocispec.Platform) bool {
	return slices.ContainsFunc(wanted, func(w ocispec.Platform) bool {
		return w.OS == p.OS && w.Architecture == p.Architecture && (w.Variant == "" || variant(w) == variant(p))
	})
}

// variant returns a platform's variant, or the default variant of its
// architecture if it has none.
func variant(p ocispec.Platform) string {
	switch {
	case p.Variant != "":
		return p.Variant
	case p.Architecture == "arm64":
		return "v8"
	case p.Architecture == "arm":
		return "v7"
	case p.Architecture == "amd64":
		return "v1"
	default:
		return ""
	}
}

// formatPlatforms writes platforms as a sorted list.
func formatPlatforms(platforms []ocispec.Platform) string {
	texts := make([]string, len(platforms))
	for i, p := range platforms {
		texts[i] = oci.FormatPlatform(p)
	}
	return list(texts)
}

// maxListed is how many platforms a message lists. The largest official images
// have about ten.
const maxListed = 20

// list writes texts, each once, sorted.
func list(texts []string) string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if len(texts) > maxListed {
		texts = append(texts[:maxListed], "and others")
	}
	return strings.Join(texts, ", ")
}
