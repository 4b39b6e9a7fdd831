package warm

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// matches reports whether a platform is one of those wanted. A wanted one that
// names no variant takes all of them.
func matches(wanted []ocispec.Platform, p ocispec.Platform) bool {
	return slices.ContainsFunc(wanted, func(w ocispec.Platform) bool {
		return w.OS == p.OS && w.Architecture == p.Architecture && (w.Variant == "" || variant(w) == variant(p))
	})
}

// variant returns a platform's variant, and where it names none, the one that
// is then meant.
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

// name writes a platform as --platform takes it.
func name(p ocispec.Platform) string {
	parts := []string{p.OS, p.Architecture}
	if p.Variant != "" {
		parts = append(parts, p.Variant)
	}
	joined := strings.Join(parts, "/")
	if strings.ContainsFunc(joined, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.QuoteToASCII(joined) // fit for a terminal
	}
	return joined
}

func names(platforms []ocispec.Platform) string {
	texts := make([]string, len(platforms))
	for i, p := range platforms {
		texts[i] = name(p)
	}
	return list(texts)
}

// maxNames is how many platforms a message lists.
const maxNames = 20

// list writes names, each once, in order.
func list(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > maxNames {
		names = append(names[:maxNames], "and others")
	}
	return strings.Join(names, ", ")
}
