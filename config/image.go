package config

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// Image is an image to keep in the cache.
type Image struct {
	oci.Image
	Written string // as the operator wrote it: "nginx", where Image has the tag latest
}

// MarshalText returns the image as it was written.
func (i Image) MarshalText() ([]byte, error) { return []byte(i.Written), nil }

// UnmarshalText reads an image; see [oci.ParseImage].
func (i *Image) UnmarshalText(text []byte) error {
	parsed, err := oci.ParseImage(string(text))
	if err == nil {
		*i = Image{parsed, string(text)}
	}
	return err
}

// Platform is a platform such as linux/amd64 or linux/arm/v7.
type Platform ocispec.Platform

// MarshalText returns the form that UnmarshalText reads.
func (p Platform) MarshalText() ([]byte, error) {
	return []byte(oci.FormatPlatform(ocispec.Platform(p))), nil
}

// UnmarshalText reads a platform; see [oci.ParsePlatform].
func (p *Platform) UnmarshalText(text []byte) error {
	parsed, err := oci.ParsePlatform(string(text))
	if err == nil {
		*p = Platform(parsed)
	}
	return err
}
