package oci

import (
	"encoding/json"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxErrorBody bounds how much of an error's body is read, in bytes. Real
	// documents have a few hundred.
	maxErrorBody = 64 << 10
	// maxMessage and maxCode bound, in bytes, the words of a stranger that reach
	// logs and headers. 300 bytes are about three sentences.
	maxMessage = 300
	maxCode    = 64
)

// ErrorDocument is the body of an answer that is an error (distribution-spec,
// "Error Codes").
type ErrorDocument struct {
	Errors []ErrorItem `json:"errors"`
}

// ErrorItem is one error of a document.
type ErrorItem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  any    `json:"detail,omitempty"`
}

// ReadError reads the body of an answer that is an error. It returns the code and
// the message of the first error in an error document. A body of another kind is
// the message if it is plain text, such as a proxy's "Bad Gateway"; HTML and XML
// are not. Both are cut and cleaned, fit for a log line, a header and a terminal,
// and empty if the body does not say them.
func ReadError(r io.Reader) (code, message string) {
	body, err := io.ReadAll(io.LimitReader(r, maxErrorBody))
	if err != nil {
		return "", "" // the status of the answer says enough
	}
	body = TrimMark(body)
	// Each field is read by itself: some registries write an object for a message.
	var document struct {
		Errors []struct {
			Code    json.RawMessage `json:"code"`
			Message json.RawMessage `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &document) == nil && len(document.Errors) > 0 {
		_ = json.Unmarshal(document.Errors[0].Code, &code) // stays empty if it is no string
		_ = json.Unmarshal(document.Errors[0].Message, &message)
		return cleanCode(code), cleanText(message)
	}
	// A page for browsers says nothing that fits in a log line.
	text := string(body)
	if strings.HasPrefix(strings.TrimSpace(text), "<") {
		return "", ""
	}
	return "", cleanText(text)
}

// cleanText returns text in one line without control characters, cut after
// maxMessage bytes.
func cleanText(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage
	for !utf8.RuneStart(text[cut]) { // never half a character
		cut--
	}
	return text[:cut] + "..."
}

// cleanCode returns code if it looks like a code of the specification, such as
// MANIFEST_UNKNOWN, and "" otherwise.
func cleanCode(code string) string {
	if len(code) > maxCode || strings.ContainsFunc(code, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9') }) {
		return ""
	}
	return code
}
