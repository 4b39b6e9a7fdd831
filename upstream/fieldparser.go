package upstream

import "strings"

// fieldParser consumes the value of a structured header field from its front
// (RFC 9110 section 5.6).
type fieldParser struct{ rest string }

// skip drops all leading characters that are in chars, and reports whether there
// were any.
func (p *fieldParser) skip(chars string) bool {
	before := len(p.rest)
	p.rest = strings.TrimLeft(p.rest, chars)
	return len(p.rest) < before
}

// skipElement drops everything up to the next comma that is outside quotes.
func (p *fieldParser) skipElement() {
	for p.rest != "" && p.rest[0] != ',' {
		if p.rest[0] == '"' {
			p.quoted() // a comma in quotes ends no element
			continue
		}
		p.rest = p.rest[1:]
	}
}

func (p *fieldParser) token() string {
	n := 0
	for n < len(p.rest) && isTokenChar(p.rest[n]) {
		n++
	}
	token := p.rest[:n]
	p.rest = p.rest[n:]
	return token
}

// until reads up to the next of some characters, or to the end of the field.
func (p *fieldParser) until(ends string) string {
	n := strings.IndexAny(p.rest, ends)
	if n < 0 {
		n = len(p.rest)
	}
	text := p.rest[:n]
	p.rest = p.rest[n:]
	return text
}

// quoted reads a quoted-string. Without a closing quote it reaches to the end of
// the field.
func (p *fieldParser) quoted() string {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++ // a quoted-pair stands for its second character
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return b.String()
}

const (
	alphanumeric     = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	tokenPunctuation = "!#$%&'*+-.^_`|~" // RFC 9110 section 5.6.2
)

func isTokenChar(c byte) bool {
	return strings.IndexByte(alphanumeric, c) >= 0 || strings.IndexByte(tokenPunctuation, c) >= 0
}
