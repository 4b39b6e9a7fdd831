package storage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

// ErrInvalidKey says that a record's key, or a part of one, breaks the rules that
// [Records] states.
var ErrInvalidKey = errors.New("storage: invalid key")

// ErrInvalidRecord says that a value does not make sense as a record, for example a
// descriptor with a negative size.
var ErrInvalidRecord = errors.New("storage: invalid record")

// maxSegment is the longest file name, in bytes, that the usual filesystems
// take.
const maxSegment = 255

// ValidateKey returns an error that matches ErrInvalidKey unless key may name
// a record. Every driver asks it before a key becomes a path, so that a
// hostile one never leaves the store. NUL is refused since no file name can
// hold it; every other byte but the slash is allowed in a segment.
func ValidateKey(key string) error {
	for segment := range strings.SplitSeq(key, "/") {
		switch {
		case segment == "", segment == ".", segment == "..":
			return fmt.Errorf("%w %q: segment %q", ErrInvalidKey, key, segment)
		case len(segment) > maxSegment:
			return fmt.Errorf("%w %q: a segment of %d bytes, at most %d are allowed", ErrInvalidKey, key, len(segment), maxSegment)
		case strings.ContainsRune(segment, 0):
			return fmt.Errorf("%w %q: a NUL byte", ErrInvalidKey, key)
		}
	}
	return nil
}

// ValidateDigest returns an error unless dgst is a well-formed sha256 or
// sha512 digest: go-digest's ErrDigestInvalidFormat, ErrDigestInvalidLength or
// ErrDigestUnsupported. Every driver asks it before a digest becomes a path.
func ValidateDigest(dgst digest.Digest) error {
	// A digest is looked at several times in each pull, and go-digest has regular expressions.
	if _, err := oci.ParseDigest(string(dgst)); err == nil {
		return nil
	}
	if err := dgst.Validate(); err != nil {
		return fmt.Errorf("storage: digest %q: %w", string(dgst), err)
	}
	return fmt.Errorf("storage: digest %q: %w", string(dgst), digest.ErrDigestUnsupported)
}
