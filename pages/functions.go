package pages

import (
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/units"
)

// functions are those of the templates.
var functions = template.FuncMap{
	"bytes":        units.IEC,
	"count":        count,
	"percent":      percent,
	"relative":     func(t time.Time) string { return humanize.Time(t) },
	"exact":        func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") },
	"machine":      func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"short":        short,
	"link":         link,
	"platform":     platformOf,
	"cut":          cut,
	"plural":       plural,
	"seconds":      seconds,
	"digested":     digested,
	"milliseconds": func(ms *float64) string { return seconds(*ms / 1000) },
	"rows":         func(label string, all any) rows { return rows{label, all} },
	"days":         pullsPerDay,
	"sentence":     sentence,
	"pair":         func(path, target, text string) item { return item{path, target, text} },
	"options":      options,
	"value":        func(n *int64) int64 { return *n },
	"amounts":      func(period string, a api.Amounts) amounts { return amounts{period, a} },
	"jobs":         func(rows []jobRow, mayChange bool) jobTable { return jobTable{rows, mayChange} },
	"less":         func(a, b int) int { return a - b },
	"join":         strings.Join,

	"field": func(name, label, value, kind string, longest int, example, hint, problem string, required bool) field {
		return field{name, label, value, kind, longest, example, hint, problem, required}
	},
	// The text of an area is for one trial. No answer has it.
	"area": func(name, label, example, hint, problem string, required bool) field {
		return field{Name: name, Label: label, Longest: maxArea, Example: example, Hint: hint, Problem: problem, Required: required}
	},
}

// maxArea bounds the text of an area, in characters. Certificates and keys have ASCII characters only.
const maxArea = 64 << 10

// field is a labelled field of a form, with its hint and the problem of its value.
type field struct {
	Name, Label, Value, Type string
	Longest                  int // of the value, in bytes
	Example, Hint, Problem   string
	Required                 bool
}

// jobTable are jobs, with buttons for clients that may change the cache.
type jobTable struct {
	Jobs      []jobRow
	MayChange bool
}

// item is a link of the navigation on the page with a path.
type item struct{ Path, Target, Text string }

// option is a choice of a form.
type option struct{ Value, Text string }

// options returns the choices of values and their texts, in turn.
func options(texts ...string) (all []option) {
	for i := 0; i+1 < len(texts); i += 2 {
		all = append(all, option{texts[i], texts[i+1]})
	}
	return all
}

// rows are those of a table with a label.
type rows struct {
	Label string
	Rows  any
}

// amounts are the answers of a period, as a row of a table.
type amounts struct {
	Period string
	api.Amounts
}

func count(n any) string { return humanize.Comma(toInt(n)) }

func percent(ratio float64) string { return fmt.Sprintf("%.1f %%", ratio*100) }

func toInt(n any) int64 {
	switch n := n.(type) {
	case int:
		return int64(n)
	case int64:
		return n
	}
	return 0
}

// short returns the first twelve digits of a digest.
func short(dgst fmt.Stringer) string {
	algorithm, digits, found := strings.Cut(dgst.String(), ":")
	if !found {
		return algorithm
	}
	return digits[:min(12, len(digits))]
}

// digested returns the digest that a reference is, or "" for a tag.
func digested(reference string) digest.Digest {
	dgst, err := digest.Parse(reference)
	if err != nil {
		return ""
	}
	return dgst
}

// seconds returns a length of time with two or three digits that say something.
func seconds(s float64) string {
	switch {
	case s < 0.01:
		return fmt.Sprintf("%.1f ms", s*1000)
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1000)
	case s < 60:
		return fmt.Sprintf("%.1f s", s)
	}
	return units.Duration(time.Duration(s) * time.Second)
}

// link returns a path with parameters, such as link "/image" "name" .Name "tag" .Tag.
func link(path string, pairs ...any) string {
	query := make(url.Values)
	for i := 0; i+1 < len(pairs); i += 2 {
		if value := fmt.Sprint(pairs[i+1]); value != "" {
			query.Set(fmt.Sprint(pairs[i]), value)
		}
	}
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}

// platformOf returns the text of a platform, or of a pointer to one.
func platformOf(value any) string {
	p, isPointer := value.(*ocispec.Platform)
	if one, ok := value.(ocispec.Platform); ok {
		p, isPointer = &one, true
	}
	if !isPointer || p == nil || p.OS == "" {
		return ""
	}
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	if p.OSVersion != "" {
		text += " " + p.OSVersion
	}
	return text
}

// maxShown is how many bytes of untrusted text are shown.
const maxShown = 2000

// directions shows characters that change the direction of text: an isolate that a text leaves open
// reaches beyond the element of the text (Unicode Standard Annex 9, section 3.3.2).
var directions = strings.NewReplacer("\u202a", `\u202a`, "\u202b", `\u202b`, "\u202c", `\u202c`, "\u202d", `\u202d`, "\u202e", `\u202e`,
	"\u2066", `\u2066`, "\u2067", `\u2067`, "\u2068", `\u2068`, "\u2069", `\u2069`)

// cut returns the first bytes of a long text of a stranger.
func cut(text string) string {
	if len(text) <= maxShown {
		return directions.Replace(text)
	}
	end := maxShown
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return directions.Replace(text[:end]) + fmt.Sprintf(" … (%s in all)", units.IEC(int64(len(text))))
}

// plural returns a number with its noun: 1 tag, 2 tags.
func plural(n any, one, many string) string {
	if toInt(n) == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
