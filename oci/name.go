package oci

import "strings"

// maxName bounds a repository name in bytes. Clients refuse longer names too,
// since many registries do (distribution-spec, "Pulling manifests").
const maxName = 255

// ValidName reports whether name is a repository name (distribution-spec, "Pulling
// manifests"), or the first segments of one: at most 255 bytes of lower-case letters and
// digits, with single separators between them. The specification has no port; here the
// first segment may end in one, since a mirror's names begin with the host of a registry,
// such as localhost:5000/team/app.
func ValidName(name string) bool {
	if len(name) > maxName {
		return false
	}
	first, rest, more := strings.Cut(name, "/")
	if host, port, ok := strings.Cut(first, ":"); ok {
		if !isPort(port) {
			return false
		}
		first = host
	}
	for segment := first; isSegment(segment); segment, rest, more = strings.Cut(rest, "/") {
		if !more {
			return true
		}
	}
	return false
}

// isPort reports whether s has one to five digits.
func isPort(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= len("65535")
}

// isSegment reports whether s is one segment of a name:
// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
func isSegment(s string) bool {
	for {
		letters := 0
		for letters < len(s) && (isLower(s[letters]) || isDigit(s[letters])) {
			letters++
		}
		if letters == 0 || letters == len(s) {
			return letters > 0
		}
		switch s = s[letters:]; {
		case s[0] == '.':
			s = s[1:]
		case strings.HasPrefix(s, "__"):
			s = s[2:]
		case s[0] == '_':
			s = s[1:]
		case s[0] == '-':
			s = strings.TrimLeft(s, "-")
		default:
			return false
		}
	}
}

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
