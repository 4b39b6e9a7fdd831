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
	// maxMessage and maxCode bound, in bytes, the untrusted text that reaches
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
// the message of the first error in an error document that has a code, or of the
// first one. A body of another kind is the message if it is plain text, such as a
// proxy's "Bad Gateway"; HTML, XML and compressed bytes are not. Both are cut and cleaned, fit for a log line, a header and a terminal,
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
		told := document.Errors[0]
		for _, e := range document.Errors {
			_ = json.Unmarshal(e.Code, &code) // stays as it is if it is not a string
			if code = cleanCode(code); code != "" {
				told = e
				break
			}
		}
		_ = json.Unmarshal(told.Message, &message) // likewise
		return code, cleanText(message)
	}
	// A page for browsers says nothing that fits in a log line.
	text := string(body)
	if strings.HasPrefix(strings.TrimSpace(text), "<") || isBinary(body) {
		return "", ""
	}
	return "", cleanText(text)
}

// isBinary reports whether a body, which may be cut in the middle of a character, is
// no text in UTF-8.
func isBinary(body []byte) bool {
	for len(body) > 0 {
		r, size := utf8.DecodeRune(body)
		if r == utf8.RuneError && size == 1 {
			return utf8.FullRune(body)
		}
		body = body[size:]
	}
	return false
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
		return strings.Clone(text) // a single word is still a part of the whole body
	}
	cut := maxMessage
	for !utf8.RuneStart(text[cut]) { // never half a character
		cut--
	}
	return text[:cut] + "..."
}

// cleanCode returns code in capitals if it looks like a code of the specification, such
// as MANIFEST_UNKNOWN, and "" otherwise.
func cleanCode(code string) string {
	code = strings.ToUpper(strings.TrimSpace(code))
	if len(code) > maxCode || strings.ContainsFunc(code, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9') }) {
		return ""
	}
	return strings.Clone(code) // else blanks around it stay in memory with it
}
