package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shortestEvery is how often an image may be warmed at most.
const shortestEvery = Duration(time.Minute)

// platformPart is an operating system, an architecture or a variant, as Go and
// the OCI image-spec name them.
var platformPart = regexp.MustCompile(`^[a-z0-9]+$`)

// Image is an image as it is written.
type Image struct {
	Name      string // nginx, or ghcr.io/org/app
	Reference string // a tag or a digest
}

// ParseImage reads an image as clients write it: a name, and a tag, a digest or
// both, of which the digest counts. Without either the tag is latest.
func ParseImage(text string) (Image, error) {
	parsed, err := reference.Parse(text)
	if err != nil {
		return Image{}, fmt.Errorf(`%q is not an image, such as "org/app:1.2": %w`, text, err)
	}
	named, ok := parsed.(reference.Named)
	if !ok {
		return Image{}, fmt.Errorf(`%q has a digest and no name; write one like "org/app@sha256:..."`, text)
	}
	image := Image{Name: named.Name(), Reference: "latest"}
	if !repositoryName.MatchString(image.Name) {
		return Image{}, fmt.Errorf("%q is not the name of an image: it takes lower-case letters, digits, and . _ - between them", image.Name)
	}
	if tagged, ok := parsed.(reference.Tagged); ok {
		image.Reference = tagged.Tag()
	}
	if digested, ok := parsed.(reference.Digested); ok {
		image.Reference = digested.Digest().String()
	}
	return image, nil
}

// ParsePlatform reads a platform such as linux/amd64 or linux/arm/v7.
func ParsePlatform(text string) (ocispec.Platform, error) {
	parts := strings.Split(text, "/")
	for _, part := range parts {
		if !platformPart.MatchString(part) {
			parts = nil
		}
	}
	if len(parts) != 2 && len(parts) != 3 {
		return ocispec.Platform{}, fmt.Errorf(`%q is not a platform; write one like "linux/amd64" or "linux/arm/v7"`, text)
	}
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// warm checks a list of images to keep in the cache.
func (v *check) warm(at, key string, w Warm) {
	if len(w.Images) == 0 {
		v.fail(at+".images", `is missing; name images such as "org/app:1.2"`)
	}
	for i, text := range w.Images {
		image, err := ParseImage(text)
		if err == nil {
			err = v.served(key, image.Name)
		}
		v.failed(elementOf(at+".images", i), err)
	}
	if w.Every < shortestEvery {
		v.fail(at+".every", "must be at least %s", shortestEvery)
	}
	for i, text := range w.Platforms {
		_, err := ParsePlatform(text)
		v.failed(elementOf(at+".platforms", i), err)
	}
}

// served returns an error unless an image's name is one that a block serves.
func (v *check) served(key, name string) error {
	if !below(name, key) {
		host, _, _ := strings.Cut(name, "/")
		if name != host && defaultNamespace(host) != "" {
			return fmt.Errorf("%s is not below %s; move it to the block of %s, or put %[2]s/ before it if that is how the upstream calls it", name, key, host)
		}
		name = key + "/" + name
	}
	for _, other := range v.config.Repositories {
		if len(other.Key) > len(key) && below(name, other.Key) {
			return fmt.Errorf("%s is served by %s (%s); move it there", name, keyIn("repository", other.Key), v.config.where(keyIn("repository", other.Key)))
		}
	}
	return nil
}

// below reports whether a name begins with the segments of a key.
func below(name, key string) bool {
	rest, ok := strings.CutPrefix(name, key)
	return ok && (rest == "" || rest[0] == '/')
}
