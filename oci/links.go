package oci

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxLinks bounds how many descriptors one list of a manifest has. Images have some
	// hundred layers, and indexes some hundred manifests.
	maxLinks = 10_000
	// maxInvalid bounds how many of the invalid descriptors are reported.
	maxInvalid = 10
)

// Kind is the kind of document that a manifest is.
type Kind uint8

const (
	Neither       Kind = iota // no manifest: for example an image's configuration
	ImageManifest             // it has a config, layers or blobs
	Index                     // it has manifests
	Both                      // clients disagree about such a document, so most refuse it
)

// Links are the descriptors that a manifest holds. All digests are valid, no size is
// negative, and types and platforms have at most 255 bytes. Those of manifests are media
// types or empty.
type Links struct {
	Kind      Kind
	Config    *ocispec.Descriptor // nil: none
	Layers    []ocispec.Descriptor
	Blobs     []ocispec.Descriptor // of artifact manifests, a draft of the image-spec
	Manifests []ocispec.Descriptor
	Subject   *ocispec.Descriptor // nil: none
	// Invalid says which descriptors were left out because they are not valid. A subject is left out silently.
	Invalid []error
}

// Content returns all descriptors that a client may pull after the manifest:
// config, layers, blobs and manifests. The subject is not among them: a signature
// is pulled after its subject, not before.
func (l Links) Content() []ocispec.Descriptor {
	all := slices.Concat(l.Layers, l.Blobs, l.Manifests)
	if l.Config != nil {
		all = append(all, *l.Config)
	}
	return all
}

var errNotObject = errors.New("not a JSON object")

// ReadReferences is [References] of content that may or may not be a manifest. It
// reads no further than the first byte of most other content, such as a layer, and
// returns an error that matches ErrManifestTooLarge after limit bytes.
func ReadReferences(r io.Reader, limit int64) (Links, error) {
	buffered := bufio.NewReaderSize(io.LimitReader(r, limit+1), 512)
	skipped := int64(0)
	// A text that is shorter, or cannot be read, has no mark. The next Peek fails as well.
	if mark, _ := buffered.Peek(len(byteOrderMark)); string(mark) == byteOrderMark {
		n, _ := buffered.Discard(len(byteOrderMark)) // it has been peeked at, so it is there
		skipped = int64(n)
	}
	for ; ; skipped++ {
		first, err := buffered.Peek(1)
		switch {
		case errors.Is(err, io.EOF): // nothing but blanks
			return Links{}, errNotObject
		case err != nil:
			return Links{}, err
		case isSpace(first[0]):
			_, _ = buffered.Discard(1) // it has been peeked at, so it is there
			continue
		case first[0] != '{':
			return Links{}, errNotObject
		}
		body, err := ReadManifest(buffered, limit-skipped)
		if err != nil {
			return Links{}, err
		}
		return References(body)
	}
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }

// References returns the descriptors that a manifest holds. It returns an error if the body is
// not JSON, has another shape than manifests and indexes, or has more descriptors
// than any manifest has. Other JSON objects are of kind Neither or have no valid
// descriptor.
func References(body []byte) (Links, error) {
	var document struct {
		Config    *ocispec.Descriptor `json:"config"`
		Layers    descriptors         `json:"layers"`
		Blobs     descriptors         `json:"blobs"`
		Manifests descriptors         `json:"manifests"`
		Subject   *ocispec.Descriptor `json:"subject"`
	}
	if err := CheckShape(body); err != nil {
		return Links{}, err
	}
	if err := json.Unmarshal(TrimMark(body), &document); err != nil {
		return Links{}, err
	}
	// A list that is there and empty counts: an index may have no manifests.
	var l Links
	image := document.Config != nil || document.Layers != nil || document.Blobs != nil
	switch {
	case image && document.Manifests != nil:
		l.Kind = Both
	case image:
		l.Kind = ImageManifest
	case document.Manifests != nil:
		l.Kind = Index
	}
	if c := document.Config; c != nil {
		if configs := l.valid("blob", descriptors{*c}); len(configs) > 0 {
			l.Config = c
		}
	}
	l.Layers = l.valid("blob", document.Layers)
	l.Blobs = l.valid("blob", document.Blobs)
	l.Manifests = l.valid("manifest", document.Manifests)
	if s := document.Subject; s != nil && validDigest(s) == nil {
		l.Subject = s
	}
	return l, nil
}

// valid returns the descriptors whose digests are valid, and reports the others.
func (l *Links) valid(kind string, all descriptors) []ocispec.Descriptor {
	return slices.DeleteFunc([]ocispec.Descriptor(all), func(desc ocispec.Descriptor) bool {
		err := validDescriptor(&desc)
		// Layers have any type that a publisher likes, such as "text/plain; charset=utf-8".
		if err == nil && kind == "manifest" && desc.MediaType != "" && !ValidMediaType(desc.MediaType) {
			err = errors.New("its media type is not valid")
		}
		if err != nil && len(l.Invalid) < maxInvalid {
			l.Invalid = append(l.Invalid, fmt.Errorf("%s %q: %w", kind, desc.Digest, err))
		}
		return err != nil
	})
}

// validDescriptor returns an error if a descriptor cannot be one of real content
// (image-spec, "OCI Content Descriptors").
func validDescriptor(desc *ocispec.Descriptor) error {
	if err := validDigest(desc); err != nil {
		return err
	}
	texts := []string{desc.MediaType, desc.ArtifactType}
	if p := desc.Platform; p != nil {
		texts = append(append(texts, p.OS, p.Architecture, p.Variant, p.OSVersion), p.OSFeatures...)
	}
	long := slices.ContainsFunc(texts, func(s string) bool { return len(s) > maxMediaType })
	switch {
	case desc.Size < 0:
		return fmt.Errorf("cannot have %d bytes", desc.Size)
	case long:
		return fmt.Errorf("its type or platform has more than %d bytes", maxMediaType)
	case len(texts) > maxFeatures:
		return errors.New("its platform has too many features")
	default:
		return nil
	}
}

// maxFeatures bounds the texts of a type and a platform. Windows has one or two features.
const maxFeatures = 64

func validDigest(desc *ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return err
	}
	_, err := ParseDigest(desc.Digest.String())
	return err
}

// descriptors is a list that refuses to become longer than maxLinks: a decoder
// would otherwise turn a few megabytes of "{},{}," into hundreds in memory.
type descriptors []ocispec.Descriptor

// UnmarshalJSON reads a list of descriptors, or null.
func (d *descriptors) UnmarshalJSON(text []byte) error {
	*d = nil // of two keys with one name the last one counts
	if text[0] != '[' {
		// Null leaves the list as it is; all else fails with the usual words.
		return json.Unmarshal(text, (*[]ocispec.Descriptor)(d))
	}
	list := descriptors{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil { // the bracket
		return err
	}
	for decoder.More() {
		if len(list) == maxLinks {
			return fmt.Errorf("a list has more than %d descriptors", maxLinks)
		}
		var desc ocispec.Descriptor
		if err := decoder.Decode(&desc); err != nil {
			return err
		}
		list = append(list, desc)
	}
	*d = list
	return nil
}
