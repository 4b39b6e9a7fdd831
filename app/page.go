package app

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	htmltemplate "html/template"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"
)

const (
	// maxListed bounds the list of names, in bytes with listedMarkup around each, so
	// that the page has less than 4 KiB. A usual configuration has ten names.
	maxListed    = 2500
	listedMarkup = len("<li><code>/</code></li>\n")

	pageStyle = `:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}`

	pageHTML = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Weir</title>
<style>` + pageStyle + `</style>
</head>
<body>
<h1>Weir</h1>
<p>This is a pull-through mirror of container registries. Container clients pull images from it.</p>
{{- if .Keys}}
<p>It serves images whose names begin with</p>
<ul>
{{- range .Keys}}
<li><code>{{.}}/</code></li>
{{- end}}
{{- if .More}}
<li>and {{.More}} more</li>
{{- end}}
</ul>
{{- end}}
<p>To point a client at it: <code>weir client-config CLIENT --url URL</code>, where URL is the address of this page.
<a href="https://github.com/weirhq/weir/tree/main/docs/clients">Clients</a> has more.</p>
<p>For operators: <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a></p>
</body>
</html>
`
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

// page answers GET / for people who open the mirror's address in a browser, and in
// plain text for other clients. It states no version, which would tell a scanner the
// known faults of this mirror.
//
// The page lists the mirrored names that the client may pull, of which /v2/_catalog
// shows more.
type page struct {
	keys   func() []string // of the namespaces in force
	html   executor
	text   executor
	policy string // Content-Security-Policy
}

// executor is a template of either package: names in plain text are not escaped.
type executor interface {
	Execute(w io.Writer, data any) error
}

func newPage(keys func() []string) *page {
	style := sha256.Sum256([]byte(pageStyle))
	return &page{
		keys: keys,
		html: htmltemplate.Must(htmltemplate.New("html").Parse(pageHTML)),
		text: texttemplate.Must(texttemplate.New("text").Parse(pageText)),
		policy: fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			base64.StdEncoding.EncodeToString(style[:])),
	}
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "this page can only be read", http.StatusMethodNotAllowed)
		return
	}
	chosen, contentType := p.text, "text/plain; charset=utf-8"
	if acceptsHTML(r.Header.Values("Accept")) {
		chosen, contentType = p.html, "text/html; charset=utf-8"
	}
	var body bytes.Buffer
	keys := p.keys()
	keys = slices.DeleteFunc(keys, func(key string) bool { return !sees(r.Context(), key, "") })
	if err := chosen.Execute(&body, shorten(keys)); err != nil {
		panic(err) // the templates take any strings
	}
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	header.Set("Content-Security-Policy", p.policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer") // the mirror's name is internal
	if header.Get("Cache-Control") == "" {       // else access is restricted, and no cache keeps the page
		header.Set("Cache-Control", "no-cache") // a reload changes the names
	}
	header.Set("Vary", "Accept")
	_, _ = w.Write(body.Bytes()) // a browser that has left needs no page
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
