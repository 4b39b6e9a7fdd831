package oci

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Lists are decoded while they are read. At no time is more of the text in memory than
// one element, and a bound ends the reading.

// maxTags bounds the tags of one page. Registries send at most some thousands.
const maxTags = 100_000

// ReadTags reads one page of a repository's tags (distribution-spec, "Listing Tags"). It
// leaves out strings that are not tags, and returns an error if there are more than
// 100,000. Other fields of the document do not matter, such as the manifests that
// Google's registries list.
func ReadTags(r io.Reader) ([]string, error) {
	var tags []string
	var tag string
	text := newListReader(r, math.MaxInt) // their number has a bound of its own
	err := text.members(func(name string) error {
		if name != "tags" {
			_, err := text.skip()
			return err
		}
		tags = nil // of two members with one name the last one counts
		_, err := text.elements(maxTags, "tags", func() error {
			tag = "" // null leaves it as it is
			err := text.decoder.Decode(&tag)
			if err == nil && isTag(tag) {
				tags = append(tags, tag)
			}
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return tags, nil
}

// ErrNoIndex says that a text is not an index, but for example a web page or an image.
var ErrNoIndex = errors.New("the answer is not an index")

// ReadIndex reads an index, such as a list of referrers (distribution-spec, "Listing
// Referrers"). It returns its manifests without those that are not valid, as
// [References] does, and its media type as [ManifestType] does, or "" if nothing says
// it. It returns an error that matches ErrNoIndex if the text is something else. An
// index that is broken off, or has more than 10,000 manifests, is a failure of another
// kind.
func ReadIndex(r io.Reader, contentType string) (manifests []ocispec.Descriptor, mediaType string, err error) {
	var links Links
	var isIndex bool
	text := newListReader(r, maxValues)
	fields := make(map[string]json.RawMessage, len(typeFields()))
	err = text.members(func(name string) (err error) {
		switch {
		case name == "manifests":
			manifests = nil // as above
			isIndex, err = text.elements(maxLinks, "descriptors", func() error {
				var desc ocispec.Descriptor
				err := text.decoder.Decode(&desc)
				if err == nil {
					manifests = append(manifests, links.valid("manifest", descriptors{desc})...)
				}
				return err
			})
			if fields[name] = nil; isIndex {
				fields[name] = json.RawMessage("[")
			}
		case slices.Contains(typeFields(), name):
			fields[name], err = text.skip()
		default:
			_, err = text.skip()
		}
		return err
	})
	switch {
	case errors.Is(err, errNotObject), isType(err):
		return nil, "", fmt.Errorf("%w: %w", ErrNoIndex, err)
	case err != nil:
		return nil, "", err
	}
	mediaType, err = manifestType(fields, contentType)
	isImage := !isNull(fields["config"]) || !isNull(fields["layers"]) || !isNull(fields["blobs"])
	// An index without manifests may have null for them, or nothing.
	if !isImage && (isIndex || err == nil && mediaType == ocispec.MediaTypeImageIndex) {
		return manifests, mediaType, nil
	}
	return nil, "", ErrNoIndex
}

// isType reports whether a value has another type than that of its field.
func isType(err error) bool {
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok
}

// listReader decodes the members of a JSON object from a stream.
type listReader struct {
	text    *bufio.Reader
	decoder *json.Decoder
}

// newListReader returns a reader of an object of at most that many values.
func newListReader(r io.Reader, values int) *listReader {
	text := bufio.NewReader(r)
	return &listReader{text, json.NewDecoder(&shapeReader{r: text, shape: shape{values: values, element: maxElement, blanks: maxBlanks}})}
}

// members calls read with the name of each member, exactly as it is spelt. Read has to
// read the value. It returns an error that matches errNotObject if the text is no JSON at
// all, and a type error if it is neither an object nor null.
func (l *listReader) members(read func(name string) error) error {
	// A text that is shorter, or cannot be read, has no mark. The next read fails as well.
	if mark, _ := l.text.Peek(len(byteOrderMark)); string(mark) == byteOrderMark {
		_, _ = l.text.Discard(len(byteOrderMark)) // it has been peeked at, so it is there
	}
	token, err := l.decoder.Token()
	err = unexpected(err)
	_, noJSON := errors.AsType[*json.SyntaxError](err)
	switch {
	case noJSON:
		return fmt.Errorf("%w: %w", errNotObject, err)
	case err != nil:
		return err
	case token == json.Delim('{'):
		if err := l.inside(read); err != nil {
			return err
		}
	case token != nil:
		return &json.UnmarshalTypeError{Value: "list, text or number", Type: reflect.TypeFor[struct{}]()}
	}
	switch _, err := l.decoder.Token(); {
	case err == nil:
		return errors.New("there is data after the object")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// inside reads the members up to the bracket after them.
func (l *listReader) inside(read func(name string) error) error {
	for l.decoder.More() {
		name, err := l.decoder.Token()
		if err == nil {
			err = read(name.(string)) // the decoder accepts nothing else in this place
		}
		if err != nil {
			return unexpected(err)
		}
	}
	_, err := l.decoder.Token()
	return unexpected(err)
}

// elements calls read for each element of a list, which it has to read, and returns an
// error if there are more than that many. It reports false for null, which is not a list.
func (l *listReader) elements(most int, kind string, read func() error) (isList bool, err error) {
	switch token, err := l.decoder.Token(); {
	case err != nil, token == nil:
		return false, err
	case token != json.Delim('['):
		return false, &json.UnmarshalTypeError{Value: "a value that is not a list", Type: reflect.TypeFor[[]struct{}]()}
	}
	for n := 0; l.decoder.More(); n++ {
		if n == most {
			return true, fmt.Errorf("a list has more than %d %s", most, kind)
		}
		if err := read(); err != nil {
			return true, err
		}
	}
	_, err = l.decoder.Token() // the bracket
	return true, err
}

// skip skips a value. It returns the value, or the bracket that a longer one begins with.
func (l *listReader) skip() (json.RawMessage, error) {
	token, err := l.decoder.Token()
	if err != nil {
		return nil, err
	}
	bracket, long := token.(json.Delim)
	if !long {
		return json.Marshal(token)
	}
	for l.decoder.More() {
		if bracket == '{' {
			if _, err := l.decoder.Token(); err != nil { // the name
				return nil, err
			}
		}
		if err := l.decoder.Decode(new(ignored)); err != nil {
			return nil, err
		}
	}
	_, err = l.decoder.Token()
	return json.RawMessage(bracket.String()), err
}

// ignored is a value that is not decoded.
type ignored struct{}

// UnmarshalJSON accepts any value.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// unexpected returns the error of a text that ends too early, as [json.Unmarshal] does. The
// decoder returns io.EOF for it, and that of a reader that broke off is another one.
func unexpected(err error) error {
	if err == io.EOF {
		return json.Unmarshal(nil, new(any))
	}
	return err
}
