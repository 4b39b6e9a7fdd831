package upstream

import (
	"slices"
	"strings"

	"github.com/weirhq/weir/internal/zone"
)

// challenge is one authentication challenge of a WWW-Authenticate field
// (RFC 9110 section 11.6.1).
type challenge struct {
	scheme string            // lower case
	params map[string]string // by lower-case name
	from   zone.Zone         // of the registry that sent it
}

const (
	// maxChallengeSize bounds the parameters of a challenge that are used, in bytes. They
	// go into the URL of a token request, and servers take none of this length.
	maxChallengeSize = 4 << 10
	// maxOffered bounds how many challenges of an answer are read. Real answers have one
	// or two.
	maxOffered = 16
)

// size returns the memory that a challenge takes.
func (c challenge) size() int {
	size := len(c.scheme)
	for name, value := range c.params {
		size += len(name) + len(value)
	}
	return size
}

// parseChallenges reads every challenge of the given WWW-Authenticate field
// values, in their order. A value may hold several challenges, such as
// `Basic realm="a", Bearer realm="https://b/token",service="c"`. Malformed parts
// are skipped, never an error: a later challenge may still be usable. So are challenges
// whose parameters are longer than any token service takes.
func parseChallenges(headers []string) []challenge {
	var challenges []challenge
	for _, header := range headers {
		p := challengeParser{fieldParser{rest: header}}
		challenges = append(challenges, p.challenges()...)
	}
	challenges = challenges[:min(len(challenges), maxOffered)]
	return slices.DeleteFunc(challenges, func(c challenge) bool { return c.size() > maxChallengeSize })
}

// challengeParser consumes one field value from its front.
type challengeParser struct{ fieldParser }

func (p *challengeParser) challenges() []challenge {
	var list []challenge
	for {
		p.skip(", \t")
		if p.rest == "" {
			return list
		}
		name := p.token()
		if name == "" {
			p.skipElement() // garbage: no element begins like this
			continue
		}
		// A comma separates parameters as well as challenges. A name before an
		// equals sign is a parameter, any other name a new scheme.
		spaced := p.skip(" \t")
		if strings.HasPrefix(p.rest, "=") {
			p.rest = p.rest[1:]
			value := p.value()
			if len(list) > 0 { // else the parameter has no challenge
				list[len(list)-1].set(name, value)
			}
			continue
		}
		if p.rest != "" && p.rest[0] != ',' && !spaced {
			p.skipElement() // garbage after the scheme's name
			continue
		}
		list = append(list, challenge{scheme: strings.Clone(strings.ToLower(name))})
		p.skipToken68()
	}
}

// set adds a parameter. The first one of a name counts, since the specification
// allows only one. Only those that are used are kept.
func (c *challenge) set(name, value string) {
	name = strings.ToLower(name)
	if _, ok := c.params[name]; ok || !isUsed(name) {
		return
	}
	if c.params == nil {
		c.params = make(map[string]string)
	}
	c.params[strings.Clone(name)] = strings.Clone(value) // not the whole field, which is longer
}

// isUsed reports whether a parameter matters for answering a challenge. Others, such as
// error, would only take memory.
func isUsed(name string) bool { return name == "realm" || name == "service" || name == "scope" }

// value reads a parameter's value, after the equals sign. Some registries forget
// the quotes around a URL, so an unquoted value reaches to the next comma or
// space.
func (p *challengeParser) value() string {
	p.skip(" \t")
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	return p.until(", \t")
}

// skipToken68 drops the opaque value that some schemes (Negotiate) have in
// place of parameters: one word that reaches to a comma or to the end.
func (p *challengeParser) skipToken68() {
	word := strings.TrimLeft(p.rest, tokenPunctuation68+alphanumeric)
	after := strings.TrimLeft(strings.TrimLeft(word, "="), " \t")
	// Otherwise the word is the name of the first parameter.
	if len(word) < len(p.rest) && (after == "" || after[0] == ',') {
		p.rest = after
	}
}

// tokenPunctuation68 are the characters of such a word (RFC 9110 section 11.2).
const tokenPunctuation68 = "-._~+/"
