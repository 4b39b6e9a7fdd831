package oci

import (
	"fmt"
	"io"
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

const (
	// maxElement bounds an element of a list or another text that is decoded at once, in
	// bytes. A descriptor has some hundred, but may repeat the annotations of its manifest.
	maxElement = DefaultMaxManifest
	// maxBlanks bounds the blanks between two values, in bytes. A decoder reads those that it
	// has again with each part of the text, and writers indent by some.
	maxBlanks = 64 << 10
	// elementDepth is the depth at which the elements of a list of manifests or tags lie.
	elementDepth = 2
)

// CheckShape returns an error if a JSON document has more values than any manifest or
// list, or values that lie deeper in each other. It allocates nothing, so it comes before
// a decoder, which takes a hundred times the memory of a hostile text. It does not check
// the syntax otherwise.
func CheckShape(text []byte) error {
	return (&shape{values: maxValues, element: len(text), blanks: len(text)}).add(text)
}

// shape counts the values of a JSON document, part by part.
type shape struct {
	values  int // the most
	element int // the longest element of a list, in bytes
	blanks  int // the most between two values

	depth, count    int
	length, blank   int  // of the element and the blanks so far
	quoted, escaped bool // the next character is in a string, and no quote
}

// add counts the next part of the text.
func (s *shape) add(text []byte) error {
	depth, count, length, blank, quoted, escaped := s.depth, s.count, s.length, s.blank, s.quoted, s.escaped
	for _, c := range text {
		length++
		blank++
		if quoted || !isSpace(c) {
			blank = 0
		}
		switch {
		case escaped:
			escaped = false
		case c == '"':
			quoted = !quoted
		case quoted:
			escaped = c == '\\'
		case c == '{' || c == '[':
			depth++
			count++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			count++
		}
		switch {
		case depth <= elementDepth && !quoted && (c == ',' || c == ':' || c == '{' || c == '['):
			length = 0 // the next element
		case length > s.element:
			return fmt.Errorf("the document has an element of more than %d bytes", s.element)
		case blank > s.blanks:
			return fmt.Errorf("the document has more than %d blanks in a row", s.blanks)
		case depth > maxDepth:
			return fmt.Errorf("the document has values at a depth of more than %d", maxDepth)
		case count > s.values:
			return fmt.Errorf("the document has more than %d values", s.values)
		}
	}
	s.depth, s.count, s.length, s.blank, s.quoted, s.escaped = depth, count, length, blank, quoted, escaped
	return nil
}

// shapeReader reads a JSON document up to the first part that exceeds a bound of its shape.
type shapeReader struct {
	r     io.Reader
	shape shape
	err   error // of the shape
}

// Read returns the text only after it was counted.
func (s *shapeReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if s.err = s.shape.add(p[:n]); s.err != nil {
		return 0, s.err
	}
	return n, err
}
