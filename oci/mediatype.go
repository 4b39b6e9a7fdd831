package oci

import (
	"mime"
	"regexp"
	"strings"
)

// maxMediaType bounds a media type, in bytes: two names of at most 127 characters
// (RFC 6838 section 4.2).
const maxMediaType = 255

var mediaTypePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}/[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}$`)

// ValidMediaType reports whether a string is a media type without parameters
// (RFC 6838 section 4.2).
func ValidMediaType(s string) bool { return len(s) <= maxMediaType && mediaTypePattern.MatchString(s) }

// IsServed reports whether a media type may be the Content-Type of a manifest: one of
// applications. A browser would show others, such as text/html, as a page of the mirror.
func IsServed(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/") && ValidMediaType(mediaType)
}

// IsManifestType reports whether a media type is one of manifests, also of those that
// are to come: a vendor's JSON, such as application/vnd.oci.artifact.manifest.v1+json.
// Types such as text/html and application/octet-stream are none.
func IsManifestType(mediaType string) bool {
	isVendors := strings.HasPrefix(mediaType, "application/vnd.") && strings.HasSuffix(mediaType, "+json")
	return (isVendors || strings.HasPrefix(mediaType, mediaTypeDockerSchema1)) && ValidMediaType(mediaType)
}

// MediaType returns a Content-Type without its parameters, such as charset.
func MediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		t, _, _ = strings.Cut(contentType, ";") // wrong parameters do not make the type unknown
		t = strings.ToLower(strings.TrimSpace(t))
	}
	return strings.Clone(t) // caches keep it, and not the parameters
}
