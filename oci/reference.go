package oci

import (
	"crypto/sha256" // go-digest knows the algorithms that are linked
	"crypto/sha512"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Reference names a manifest within a repository: by a tag or by a digest. It may also
// tell which media types the client accepts, see [Reference.Accepting]. The zero
// Reference names nothing. References are comparable.
type Reference struct {
	tag    string
	digest digest.Digest

	further string // media types of manifests beyond AcceptManifests
	limited bool   // the client accepts no others
}

// ParseReference reads a tag or a digest (distribution-spec, "Pulling
// manifests"). It returns an error if s is neither, or a digest of another
// algorithm than sha256 and sha512.
func ParseReference(s string) (Reference, error) {
	if isTag(s) {
		return Reference{tag: s}, nil
	}
	dgst, err := ParseDigest(s)
	if err != nil {
		return Reference{}, fmt.Errorf("neither a tag nor a digest: %q", s)
	}
	return ByDigest(dgst), nil
}

// ByTag returns the reference of a tag, which the caller has validated.
func ByTag(tag string) Reference { return Reference{tag: tag} }

// ByDigest returns the reference of a digest, which the caller has validated.
func ByDigest(dgst digest.Digest) Reference { return Reference{digest: dgst} }

// Clone returns the reference with strings of its own, not parts of longer ones.
func (r Reference) Clone() Reference {
	r.tag, r.digest = strings.Clone(r.tag), digest.Digest(strings.Clone(string(r.digest)))
	return r
}

// Size returns the memory of the strings of the reference, in bytes.
func (r Reference) Size() int { return len(r.tag) + len(r.digest) + len(r.further) }

// Tag returns the tag, or "" if the reference is a digest.
func (r Reference) Tag() string { return r.tag }

// Digest returns the digest, or "" if the reference is a tag.
func (r Reference) Digest() digest.Digest { return r.digest }

// IsTag reports whether the reference is a tag.
func (r Reference) IsTag() bool { return r.tag != "" }

// String returns the tag or the digest.
func (r Reference) String() string {
	if r.tag != "" {
		return r.tag
	}
	return r.digest.String()
}

// Join returns the name of an image: repo:tag or repo@digest.
func (r Reference) Join(repo string) string {
	if r.tag != "" {
		return repo + ":" + r.tag
	}
	return repo + "@" + r.digest.String()
}

// ParseDigest reads a digest of one of the two algorithms that Weir serves,
// sha256 and sha512 (image-spec, "Registered algorithms").
func ParseDigest(s string) (digest.Digest, error) {
	if !isDigest(s) {
		return "", fmt.Errorf("not a sha256 or sha512 digest: %q", s)
	}
	return digest.Digest(s), nil
}

// maxTag bounds a tag in bytes (distribution-spec, "Pulling manifests").
const maxTag = 128

// isTag reports whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}. Each request has a
// reference, and a regular expression would cost it half a microsecond.
func isTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && !isUpper(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// isDigest reports whether s is a sha256 or sha512 digest: (sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}).
func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	size := sha256.Size
	if !ok {
		hex, ok = strings.CutPrefix(s, "sha512:")
		size = sha512.Size
	}
	if !ok || len(hex) != 2*size {
		return false
	}
	for i := range len(hex) {
		if c := hex[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
