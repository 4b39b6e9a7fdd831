package oci

import (
	"fmt"

	"github.com/distribution/reference"
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
	parsed, err := reference.Parse(text)
	if err != nil {
		return Image{}, fmt.Errorf(`%q is not an image, such as "org/app:1.2": %w`, text, err)
	}
	named, ok := parsed.(reference.Named)
	if !ok { // a digest alone
		return Image{}, fmt.Errorf(`%q has a digest and no name; write one like "org/app@sha256:..."`, text)
	}
	image := Image{Name: named.Name(), Reference: ByTag("latest")}
	// The library also takes names that only it knows, such as bracketed IPv6
	// hosts and upper-case ones.
	if !ValidName(image.Name) {
		return Image{}, fmt.Errorf("%q is not the name of an image: it takes lower-case letters, digits, and . _ - between them", image.Name)
	}
	if tagged, ok := parsed.(reference.Tagged); ok {
		image.Reference = ByTag(tagged.Tag())
	}
	if digested, ok := parsed.(reference.Digested); ok {
		dgst, err := ParseDigest(digested.Digest().String())
		if err != nil { // sha384, which go-digest knows and no registry uses
			return Image{}, fmt.Errorf("%q cannot be pulled: %w", text, err)
		}
		image.Reference = ByDigest(dgst)
	}
	return image, nil
}

// String returns the image as [ParseImage] reads it.
func (i Image) String() string { return i.Reference.Join(i.Name) }
