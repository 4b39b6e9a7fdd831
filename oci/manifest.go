package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	// ErrNoType says that a JSON object is not a manifest that can be served: it lacks the
	// fields of a manifest, or a media type, without which no client could read it.
	ErrNoType = errors.New("it lacks schemaVersion 2, the fields of an image or an index, or a media type")
)

// typeFields returns the fields of a manifest that tell its type.
func typeFields() []string {
	return []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests"}
}

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
// ErrSchema1 for a Docker schema 1 manifest and another error if the body is not a manifest
// at all, or nothing says its type.
//
// A manifest has schemaVersion 2, and the fields of an image or an index or a mediaType
// of manifests (image-spec, "Image Manifest", "Image Index"). Artifact manifests, a draft
// of the image-spec, have no schemaVersion. Other JSON objects are not manifests, whatever
// the header says: the answer of another kind of service must not reach clients.
func ManifestType(body []byte, contentType string) (string, error) {
	fields, err := Fields(TrimMark(body), typeFields()...)
	if err != nil {
		return "", err
	}
	return manifestType(fields, contentType)
}

// manifestType is ManifestType of some fields of a manifest. Of a list or an object, the
// bracket is enough.
func manifestType(fields map[string]json.RawMessage, contentType string) (string, error) {
	// Fields of another type count as missing, and so does a media type that cannot be
	// served, such as text/html.
	own := textOf(fields["mediaType"])
	if !IsServed(own) {
		own = ""
	}
	mediaType := own
	if mediaType == "" {
		if mediaType = MediaType(contentType); !IsManifestType(mediaType) {
			mediaType = "" // a type such as text/plain, which says nothing about a manifest
		}
	}
	if isVersion(fields["schemaVersion"], 1) || strings.HasPrefix(mediaType, mediaTypeDockerSchema1) {
		return "", ErrSchema1
	}
	hasFields := isObject(fields["config"]) || isList(fields["layers"]) || isList(fields["manifests"]) || IsManifestType(own)
	isArtifact := IsManifestType(mediaType) && (isList(fields["blobs"]) || textOf(fields["artifactType"]) != "")
	isTwo := isVersion(fields["schemaVersion"], 2)
	switch {
	case !(isTwo && hasFields) && !(isArtifact && (isTwo || isNull(fields["schemaVersion"]))):
		return "", ErrNoType
	case mediaType == "":
		return typeOfShape(fields)
	default:
		return mediaType, nil
	}
}

// typeOfShape returns the media type of a manifest that nothing names: an index lists
// manifests, and an image has a config and layers. A document that is both could be
// read in two ways, so it is neither.
func typeOfShape(fields map[string]json.RawMessage) (string, error) {
	isIndex := isList(fields["manifests"])
	isImage := isList(fields["layers"]) && isObject(fields["config"])
	switch {
	case isIndex && !isImage && !isList(fields["layers"]):
		return ocispec.MediaTypeImageIndex, nil
	case isImage && !isIndex:
		return ocispec.MediaTypeImageManifest, nil
	default:
		return "", ErrNoType
	}
}

func isList(value json.RawMessage) bool   { return len(value) > 0 && value[0] == '[' }
func isObject(value json.RawMessage) bool { return len(value) > 0 && value[0] == '{' }
func isNull(value json.RawMessage) bool   { return len(value) == 0 || string(value) == "null" }

// textOf returns the text of a string, and "" for any other value.
func textOf(value json.RawMessage) (text string) {
	_ = json.Unmarshal(value, &text) // stays empty
	return text
}

// isVersion reports whether a schemaVersion is this one, as a number or as a string.
func isVersion(version json.RawMessage, want float64) bool {
	number, err := strconv.ParseFloat(strings.TrimSpace(strings.Trim(string(version), `"`)), 64)
	return err == nil && number == want
}

// TrimMark returns JSON without the byte order mark that Windows tools write before
// it, and that a decoder refuses.
func TrimMark(body []byte) []byte { return bytes.TrimPrefix(body, []byte(byteOrderMark)) }

// byteOrderMark is U+FEFF in UTF-8.
const byteOrderMark = "\ufeff"
