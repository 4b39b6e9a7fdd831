package upstream

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// maxNextQuery bounds the target of a link to the next page, in bytes. Its query goes on
// to clients, and the catalog keeps it. Tokens of real registries have some hundred bytes.
const maxNextQuery = 2 << 10

// nextPage returns the query of the Link whose relation is "next" (RFC 8288; of
// several, the first), and nil if there is none or it cannot be read: no link is
// better than one that leads back to the first page. Only the query counts. A link
// to another host must not receive the credentials, so the next page comes from the
// same registry.
func nextPage(header http.Header) url.Values {
	for _, field := range header.Values("Link") {
		p := linkParser{fieldParser{rest: field}}
		for {
			target, relations, ok := p.link()
			if !ok {
				break
			}
			if slices.ContainsFunc(strings.Fields(relations), func(r string) bool { return strings.EqualFold(r, "next") }) {
				return queryOf(target)
			}
		}
	}
	return nil
}

// linkParser consumes a Link field from its front (RFC 8288 section 3 and
// appendix B.2).
type linkParser struct{ fieldParser }

// link reads the next link, and skips garbage before it. It returns false at the end
// of the field.
func (p *linkParser) link() (target, relations string, ok bool) {
	for p.skip(", \t"); p.rest != ""; p.skip(", \t") {
		if p.rest[0] == '<' {
			if target, p.rest, ok = strings.Cut(p.rest[1:], ">"); ok {
				return strings.TrimSpace(target), p.relations(), true
			}
			return "", "", false // a target without an end
		}
		p.skipElement()
	}
	return "", "", false
}

// relations reads the parameters of a link, and returns its relations. Of several
// such parameters the first one counts.
func (p *linkParser) relations() string {
	var relations string
	found := false
	for p.skip(" \t"); strings.HasPrefix(p.rest, ";"); p.skip(" \t") {
		p.skip("; \t")
		name := p.token()
		p.skip(" \t")
		var value string
		if strings.HasPrefix(p.rest, "=") {
			p.rest = p.rest[1:]
			value = p.value()
		}
		if strings.EqualFold(name, "rel") && !found {
			relations, found = value, true
		}
	}
	p.skipElement() // garbage after the parameters
	return relations
}

// value reads the value of a parameter, which ends with the parameter if it is not
// quoted.
func (p *linkParser) value() string {
	p.skip(" \t")
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	return strings.Trim(p.until(";,"), "' \t") // some quote as HTML allows
}

var (
	// escapedAmpersand undoes the escapes of HTML and JSON, which some registries
	// and proxies write into headers. A query has no use for the bare characters.
	escapedAmpersand = strings.NewReplacer("&amp;", "&", "&#38;", "&", "&#038;", "&", "&#x26;", "&", `\u0026`, "&")
	// parameterAfterSemicolon finds a semicolon that separates parameters, as HTML 4
	// advised, by the names of the distribution-spec. In any other place it belongs
	// to a value, such as a token of the registry's own.
	parameterAfterSemicolon = regexp.MustCompile(`;(n|last|artifactType)=`)
)

// queryOf returns the query of a link's target, and nil if there is none or it cannot
// be read.
func queryOf(target string) url.Values {
	if len(target) > maxNextQuery {
		return nil
	}
	_, query, _ := strings.Cut(target, "?")
	// Twice, for a registry and its proxy.
	query = escapedAmpersand.Replace(escapedAmpersand.Replace(query))
	query, _, _ = strings.Cut(query, "#")
	query = parameterAfterSemicolon.ReplaceAllString(query, "&$1=")
	values := make(url.Values)
	// url.ParseQuery drops a parameter with a semicolon.
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, nameErr := url.QueryUnescape(name)
		value, valueErr := url.QueryUnescape(value)
		if nameErr != nil || valueErr != nil {
			return nil
		}
		if name != "" {
			values.Add(name, value)
		}
	}
	if len(values) == 0 {
		return nil
	}
	return values
}
