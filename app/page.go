package app

import (
	"bytes"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

const (
	// maxListed bounds the list of names, in bytes with listedMarkup around each, so
	// that the page has less than 3 KiB. A usual configuration has ten names.
	maxListed    = 2500
	listedMarkup = len("  /\n")

	pageText = `This is Weir, a pull-through mirror of container registries.
{{- if .Keys}}
It serves images whose names begin with
{{- range .Keys}}
  {{.}}/
{{- end}}
{{- if .More}}
  and {{.More}} more
{{- end}}
{{- end}}
To point a client at it: weir client-config CLIENT --url URL, where URL is the address of this text.
For operators: /readyz, /metrics
`
)

// page answers GET / in plain text, for other clients than browsers and for all if there are
// no pages. It states no version, which would tell a scanner the
// known faults of this mirror.
//
// The page lists the mirrored names that the client may pull, of which /v2/_catalog
// shows more.
type page struct {
	keys func() []string // of the namespaces in force
	text *template.Template
}

func newPage(keys func() []string) *page {
	return &page{keys, template.Must(template.New("text").Parse(pageText))}
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "this page is read-only", http.StatusMethodNotAllowed)
		return
	}
	var body bytes.Buffer
	if err := p.text.Execute(&body, shorten(visible(r.Context(), p.keys()))); err != nil {
		panic(err) // the template takes any strings
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	header.Set("X-Content-Type-Options", "nosniff")
	if header.Get("Cache-Control") == "" { // else access is restricted, and no cache keeps the page
		header.Set("Cache-Control", "no-cache") // a reload changes the names
	}
	header.Set("Vary", "Accept")
	_, _ = w.Write(body.Bytes()) // a client that has left needs no page
}

// listing is the names on the page.
type listing struct {
	Keys []string
	More int // names that are left out
}

// shorten returns the first names in alphabetical order that fit into maxListed.
func shorten(keys []string) listing {
	keys = slices.Sorted(slices.Values(keys))
	total := 0
	for i, key := range keys {
		if total += len(key) + listedMarkup; total > maxListed {
			return listing{keys[:i], len(keys) - i}
		}
	}
	return listing{Keys: keys}
}

// acceptsHTML reports whether Accept names HTML (RFC 9110, section 12.5.1), as that of
// every browser does. A wildcard alone is that of curl, whose user reads plain text.
func acceptsHTML(accept []string) bool {
	for media := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, params, err := mime.ParseMediaType(media)
		if err != nil || kind != "text/html" && kind != "application/xhtml+xml" {
			continue
		}
		// A quality of 0 excludes a type.
		if q, err := strconv.ParseFloat(params["q"], 64); err != nil || q > 0 {
			return true
		}
	}
	return false
}
