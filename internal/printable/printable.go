// Package printable makes untrusted text harmless in logs and on terminals.
package printable

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns text in one line of about limit bytes. Control characters, format
// characters (Unicode Cf, such as those that change the direction of text) and invalid
// UTF-8 become escapes such as \u202e. Longer text is cut and ends with "...".
func Line(text string, limit int) string { return escape(text, limit, "") }

// Lines is [Line] for text that may have several lines: line breaks and tabs stay.
func Lines(text string, limit int) string { return escape(text, limit, "\n\t") }

func escape(text string, limit int, allowed string) string {
	if len(text) <= limit && isASCII(text) { // nearly all text
		return text
	}
	plain := func(r rune) bool { return unicode.IsPrint(r) || strings.ContainsRune(allowed, r) }
	// Clean text is returned without a copy.
	if len(text) <= limit && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		piece := text[i : i+size]
		if r == utf8.RuneError && size == 1 || !plain(r) {
			piece = strconv.Quote(piece)
			piece = piece[1 : len(piece)-1]
		}
		// An escape is longer than its character, so the limit is that of the result.
		if b.Len()+len(piece) > limit {
			return b.String() + "..."
		}
		b.WriteString(piece)
		i += size
	}
	return b.String()
}

// isASCII reports whether text has characters of ASCII alone, without control characters.
func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
