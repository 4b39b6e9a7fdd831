package oci

import (
	"mime"
	"strings"
)

const (
	// maxRestricted bounds each of the two names of a media type, in bytes (RFC 6838 section 4.2).
	maxRestricted = 127
	maxMediaType  = maxRestricted + len("/") + maxRestricted
)

// ValidMediaType reports whether a string is a media type without parameters
// (RFC 6838 section 4.2).
func ValidMediaType(s string) bool {
	kind, subtype, ok := strings.Cut(s, "/")
	return ok && isRestricted(kind) && isRestricted(subtype)
}

// isRestricted reports whether s is a restricted-name of RFC 6838 section 4.2:
// [a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}
func isRestricted(s string) bool {
	if s == "" || len(s) > maxRestricted {
		return false
	}
	for i := range len(s) {
		c := s[i]
		// Only letters and digits begin a name.
		if !isLower(c) && !isDigit(c) && !isUpper(c) && (i == 0 || strings.IndexByte("!#$&^_.+-", c) < 0) {
			return false
		}
	}
	return true
}

// IsServed reports whether a media type may be the Content-Type of a manifest: one of
// applications. A browser would show others, such as text/html, as a page of the mirror.
func IsServed(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/") && ValidMediaType(mediaType)
}

// IsManifestType reports whether a media type is one of manifests, also of those that
// are to come: a vendor's JSON, such as application/vnd.oci.artifact.manifest.v1+json.
// Types such as text/html and application/octet-stream are none.
func IsManifestType(mediaType string) bool {
	return (isVendors(mediaType) || strings.HasPrefix(mediaType, mediaTypeDockerSchema1)) && ValidMediaType(mediaType)
}

// isVendors reports whether a media type has the form of a vendor's JSON.
func isVendors(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.") && strings.HasSuffix(mediaType, "+json")
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
