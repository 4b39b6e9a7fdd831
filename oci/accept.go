package oci

import (
	"mime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AcceptManifests is the Accept header for all kinds of manifests. It is one line,
// since some registries read only the first line.
const AcceptManifests = ocispec.MediaTypeImageIndex + ", " + ocispec.MediaTypeImageManifest + ", " +
	mediaTypeDockerManifestList + ", " + mediaTypeDockerManifest

// ArtifactManifests are the media types of two drafts of artifact manifests, which some
// registries still hold: that of OCI and that of ORAS.
const ArtifactManifests = "application/vnd.oci.artifact.manifest.v1+json, application/vnd.cncf.oras.artifact.manifest.v1+json"

const (
	// maxMediaRanges bounds how many media ranges of a client are read. Clients send
	// about ten.
	maxMediaRanges = 64
	// maxFurtherTypes and maxFurtherSize, in bytes, bound a client's further types. They
	// go on to the upstream, and are kept with each remembered "not found".
	maxFurtherTypes = 8
	maxFurtherSize  = 512
)

// Accepting returns the reference for a request of a client that sends these values of the
// Accept header (RFC 9110 section 12.5.1). The types of manifests among them that Weir
// does not know become part of the reference: an upstream may answer another manifest, or
// "not found", to a client that does not accept them. Types that are not valid, and those
// beyond a small number, are left out.
func (r Reference) Accepting(accept ...string) Reference {
	var further []string
	size, ranges, wildcard := 0, 0, false
	for mediaRange := range mediaRanges(accept) {
		ranges++
		if mediaRange == "*/*" || mediaRange == "application/*" {
			wildcard = true
		}
		if !isFurtherType(mediaRange) || slices.Contains(further, mediaRange) ||
			len(further) == maxFurtherTypes || size+len(mediaRange) > maxFurtherSize {
			continue
		}
		further = append(further, mediaRange)
		size += len(mediaRange)
	}
	r.further = strings.Clone(strings.Join(further, ", ")) // a single one is a part of the header
	r.limited = ranges > 0 && !wildcard                    // without the header, a client accepts any type
	return r
}

// mediaRanges yields the media ranges of Accept headers in lower case, without their
// parameters, except those that a client does not accept (q=0).
func mediaRanges(accept []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		n := 0
		for _, line := range accept {
			for text := range strings.SplitSeq(line, ",") {
				if n++; n > maxMediaRanges {
					return
				}
				mediaRange := strings.TrimSpace(text)
				if mediaRange == "" {
					continue
				}
				// Most clients send no parameters, which saves the parsing.
				if strings.Contains(mediaRange, ";") {
					parsed, params, err := mime.ParseMediaType(mediaRange)
					if weight, weightErr := strconv.ParseFloat(params["q"], 64); err != nil || weightErr == nil && weight == 0 {
						continue
					}
					mediaRange = parsed
				}
				if !yield(strings.ToLower(mediaRange)) {
					return
				}
			}
		}
	}
}

// isFurtherType reports whether a media type is one of manifests that is asked for only
// if a client accepts it.
func isFurtherType(mediaType string) bool {
	return !isOwnType(mediaType) && isVendors(mediaType) && len(mediaType) > len("application/vnd.+json") && ValidMediaType(mediaType) &&
		!strings.HasPrefix(mediaType, mediaTypeDockerSchema1)
}

// isOwnType reports whether a media type is in [AcceptManifests].
func isOwnType(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, mediaTypeDockerManifestList, mediaTypeDockerManifest:
		return true
	default:
		return false
	}
}

// Accept returns the Accept header of the question for the reference: the types that
// Weir knows, and then the further ones of the client.
func (r Reference) Accept() string {
	if r.further == "" {
		return AcceptManifests
	}
	return AcceptManifests + ", " + r.further
}

// Accepts reports whether the client accepts a manifest of a media type.
func (r Reference) Accepts(mediaType string) bool {
	return !r.limited || isOwnType(mediaType) || slices.Contains(strings.Split(r.further, ", "), mediaType)
}

// Question returns the reference as an upstream is asked for it. The questions of two
// clients are equal if the upstream cannot tell them apart.
func (r Reference) Question() Reference {
	r.limited = false
	return r
}

// WithDigest returns the reference of a digest that is asked for in the same way.
func (r Reference) WithDigest(dgst digest.Digest) Reference {
	r.tag, r.digest = "", dgst
	return r
}
