package oci

import (
	"regexp"
	"strings"
)

// maxName bounds a repository name in bytes. Clients refuse longer names too,
// since many registries do (distribution-spec, "Pulling manifests").
const maxName = 255

const nameSegment = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`

// namePattern is <name> of the distribution-spec. The specification has no port;
// here the first segment may end in one, since a mirror's names begin with the
// host of a registry, such as localhost:5000/team/app.
var namePattern = regexp.MustCompile(`^` + nameSegment + `(?::[0-9]{1,5})?(?:/` + nameSegment + `)*$`)

// ValidName reports whether name is a repository name, or the first segments of
// one: at most 255 bytes of lower-case letters and digits, with single separators
// between them. The first segment may end in a port.
func ValidName(name string) bool { return len(name) <= maxName && namePattern.MatchString(name) }

// IsHost reports whether clients take the first segment of an image's name for the
// host of a registry, and not for a user of Docker Hub: it has a dot or a port, or
// it is localhost.
func IsHost(segment string) bool {
	return strings.ContainsAny(segment, ".:") || segment == "localhost"
}

// CutKey removes key from the front of name if name begins with it, segment by
// segment: "ghcr.io/acme" is a key of "ghcr.io/acme/app" and of "ghcr.io/acme",
// and not of "ghcr.io/acmeapp". The rest has no leading slash and may be empty.
func CutKey(name, key string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(name, key)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

// Below reports whether key is name or its first segments; see [CutKey].
func Below(name, key string) bool {
	_, ok := CutKey(name, key)
	return ok
}
