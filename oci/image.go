package oci

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Image is an image as people write it. Images are comparable.
type Image struct {
	Name      string // as it is written: nginx, or ghcr.io/org/app
	Reference Reference
}

// ParseImage reads an image as clients write it: a name with a tag, a digest or
// both. The digest counts if there are both ("app:1.2@sha256:..."). The tag is
// "latest" if there is neither. The name is not expanded: "nginx" stays "nginx".
func ParseImage(text string) (Image, error) {
	name, dgst, digested := strings.Cut(text, "@")
	image := Image{Name: name, Reference: ByTag("latest")}
	// A colon before a slash belongs to the port of a host.
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		image.Name, image.Reference = name[:at], ByTag(name[at+1:])
	}
	switch {
	case image.Name == "" && digested:
		return Image{}, fmt.Errorf(`%q has a digest but no name; write one like "org/app@sha256:..."`, text)
	case !ValidName(image.Name):
		return Image{}, fmt.Errorf(`%q is not an image, such as "org/app:1.2": its name may have lower-case letters, digits, and . _ - between them`, text)
	case !isTag(image.Reference.Tag()):
		return Image{}, fmt.Errorf(`%q is not an image, such as "org/app:1.2": its tag may have up to 128 letters, digits, and . _ -`, text)
	case digested && !isDigest(dgst) && (strings.HasPrefix(dgst, "sha256:") || strings.HasPrefix(dgst, "sha512:")):
		return Image{}, fmt.Errorf(`%q is not an image, such as "org/app:1.2": the digest after sha256: has 64 hexadecimal digits, that after sha512: 128`, text)
	case digested && !isDigest(dgst):
		return Image{}, fmt.Errorf(`%q is not an image, such as "org/app:1.2": its digest is neither sha256 nor sha512`, text)
	case digested:
		image.Reference = ByDigest(digest.Digest(dgst))
	}
	return image, nil
}

// String returns the image as [ParseImage] reads it.
func (i Image) String() string { return i.Reference.Join(i.Name) }
