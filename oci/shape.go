package oci

import (
	"encoding/json"
	"fmt"
	"slices"
)

const (
	// maxDepth bounds how deep the values of a document lie in each other. Manifests and
	// lists have about six levels.
	maxDepth = 64
	// maxValues bounds the values of a document. Decoded, each takes up to 200 bytes: an
	// empty object has two bytes of text, and a descriptor 120 in memory. 10,000
	// descriptors with ten annotations each have 250,000 values.
	maxValues = 300_000
)

// CheckShape returns an error if a JSON document has more values than any manifest or
// list, or values that lie deeper in each other. It allocates nothing, so it comes before
// a decoder, which takes a hundred times the memory of a hostile text. It does not check
// the syntax otherwise.
func CheckShape(text []byte) error { return checkShape(text, maxValues) }

func checkShape(text []byte, values int) error {
	depth, count, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quoted && c == '\\':
			i++ // the next character is no quote
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			count++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			count++
		}
		if depth > maxDepth {
			return fmt.Errorf("the document has values at a depth of more than %d", maxDepth)
		}
		if count > values {
			return fmt.Errorf("the document has more than %d values", values)
		}
	}
	return nil
}

// maxTags bounds the tags of one page. Registries send at most some thousands.
const maxTags = 100_000

// ReadTags reads one page of a repository's tags (distribution-spec, "Listing Tags"). It
// leaves out strings that are no tags, and returns an error if there are more than
// 100,000. Other fields of the document do not matter, such as the manifests that
// Google's registries list.
func ReadTags(body []byte) ([]string, error) {
	fields, err := Fields(TrimMark(body), "tags")
	if err != nil || fields["tags"] == nil {
		return nil, err
	}
	if err := checkShape(fields["tags"], maxTags); err != nil {
		return nil, err
	}
	var tags []string
	if err := json.Unmarshal(fields["tags"], &tags); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(tags, func(tag string) bool { return !tagPattern.MatchString(tag) }), nil
}
