package oci

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// platformPart is an operating system, an architecture or a variant, as Go and
// the image-spec name them.
var platformPart = regexp.MustCompile(`^[a-z0-9]+$`)

// ParsePlatform reads a platform such as linux/amd64 or linux/arm/v7.
func ParsePlatform(text string) (ocispec.Platform, error) {
	parts := strings.Split(text, "/")
	for _, part := range parts {
		if !platformPart.MatchString(part) {
			parts = nil // one wrong part is enough
		}
	}
	if len(parts) != 2 && len(parts) != 3 {
		return ocispec.Platform{}, fmt.Errorf(`%q is not a platform; write one like "linux/amd64" or "linux/arm/v7"`, text)
	}
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 { // most architectures have no variant
		p.Variant = parts[2]
	}
	return p, nil
}

// FormatPlatform writes a platform as [ParsePlatform] reads it. A platform comes
// from an index, which anyone may have written: the text is quoted if it holds
// characters that are not fit for a terminal.
func FormatPlatform(p ocispec.Platform) string {
	parts := []string{p.OS, p.Architecture}
	if p.Variant != "" {
		parts = append(parts, p.Variant)
	}
	joined := strings.Join(parts, "/")
	if strings.ContainsFunc(joined, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.QuoteToASCII(joined)
	}
	return joined
}
