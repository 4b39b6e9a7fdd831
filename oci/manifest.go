package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultMaxManifest is how large a manifest may be, in bytes, unless the operator
// allows more. The distribution-spec asks registries to take at least 4 MB, and
// few images come near that.
const DefaultMaxManifest = 5 << 20

// Media types of Docker, the predecessors of the OCI types.
const (
	mediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"

	mediaTypeDockerSchema1 = "application/vnd.docker.distribution.manifest.v1+" // json or prettyjws
)

var (
	// ErrManifestTooLarge says that a manifest is larger than the limit.
	ErrManifestTooLarge = errors.New("manifest too large")
	// ErrSchema1 says that a manifest is one of Docker schema 1, whose layers are
	// not addressed as OCI does it.
	ErrSchema1 = errors.New("manifests of Docker schema 1 are not served")
	// ErrNoType says that a JSON object is no manifest that can be served: without a media
	// type no client could read it.
	ErrNoType = errors.New("it has no media type, and neither an index nor an image has its fields")
)

// ReadManifest reads a manifest of at most limit bytes. It returns an error that
// matches ErrManifestTooLarge if there are more.
func ReadManifest(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1)) // one byte more shows that there are too many
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrManifestTooLarge, limit)
	}
	return body, nil
}

// ManifestType returns the media type of a manifest. The manifest's own mediaType
// counts. If it has none, then contentType does, the header that came with it, if that
// is a type of manifests; otherwise the fields of the manifest decide. It returns
// ErrSchema1 for a Docker schema 1 manifest and another error if the body is not a JSON
// object, or nothing tells its type.
func ManifestType(body []byte, contentType string) (string, error) {
	// Fields of another type count as missing, for example "schemaVersion": "2".
	var document struct {
		SchemaVersion json.RawMessage `json:"schemaVersion"`
		MediaType     json.RawMessage `json:"mediaType"`
	}
	if err := json.Unmarshal(TrimMark(body), &document); err != nil {
		return "", err
	}
	var mediaType string
	if json.Unmarshal(document.MediaType, &mediaType) != nil || mediaType == "" {
		if mediaType = MediaType(contentType); !IsManifestType(mediaType) {
			mediaType = "" // a type such as text/plain, which says nothing about a manifest
		}
	}
	if isSchema1(document.SchemaVersion) || strings.HasPrefix(mediaType, mediaTypeDockerSchema1) {
		return "", ErrSchema1
	}
	if mediaType == "" {
		return typeOfShape(body)
	}
	return mediaType, nil
}

// typeOfShape returns the media type of a manifest that nothing names: an index lists
// manifests, and an image has a config and layers. A document that is both could be
// read in two ways, so it is neither.
func typeOfShape(body []byte) (string, error) {
	var document struct {
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(TrimMark(body), &document); err != nil {
		return "", err
	}
	isList := func(value json.RawMessage) bool { return len(value) > 0 && value[0] == '[' }
	isIndex := isList(document.Manifests)
	isImage := isList(document.Layers) && len(document.Config) > 0 && document.Config[0] == '{'
	switch {
	case isIndex && !isImage && !isList(document.Layers):
		return ocispec.MediaTypeImageIndex, nil
	case isImage && !isIndex:
		return ocispec.MediaTypeImageManifest, nil
	default:
		return "", ErrNoType
	}
}

// IsManifestType reports whether a media type is one of manifests, also of those that
// are to come: a vendor's JSON, such as application/vnd.oci.artifact.manifest.v1+json.
// Types such as text/html and application/octet-stream are none.
func IsManifestType(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.") && strings.HasSuffix(mediaType, "+json") ||
		strings.HasPrefix(mediaType, mediaTypeDockerSchema1)
}

// isSchema1 reports whether a schemaVersion is 1, as a number or as a string.
func isSchema1(version json.RawMessage) bool {
	number, err := strconv.ParseFloat(strings.TrimSpace(strings.Trim(string(version), `"`)), 64)
	return err == nil && number == 1
}

// TrimMark returns JSON without the byte order mark that Windows tools write before
// it, and that a decoder refuses.
func TrimMark(body []byte) []byte { return bytes.TrimPrefix(body, []byte(byteOrderMark)) }

// byteOrderMark is U+FEFF in UTF-8.
const byteOrderMark = "\ufeff"

// MediaType returns a Content-Type without its parameters, such as charset.
func MediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		t, _, _ = strings.Cut(contentType, ";") // wrong parameters do not make the type unknown
		t = strings.ToLower(strings.TrimSpace(t))
	}
	return strings.Clone(t) // caches keep it, and not the parameters
}
