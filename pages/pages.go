// Package pages shows people what a mirror has cached, how it is used and how clients reach it:
// web pages without a framework. The pages show the documents of package api.
//
// html/template makes each page. One style sheet and one small script are part of the program. The
// pages load nothing else, and work without the script: a reload shows what is new. A change is a
// form that is posted. An answer to it leads back to a page, so that a reload changes nothing twice.
//
// Names, tags, labels and types come from upstreams and are any text. The templates escape them,
// and the element bdi keeps marks of the direction of text inside them.
package pages

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/oci"
)

// Options are what the pages show.
type Options struct {
	API *api.Handler
	// Name returns the name of the mirror in titles.
	Name func() string
	// Blocks returns the keys of the blocks that the client may know of.
	Blocks func(ctx context.Context) []string
	// MayPull reports whether the client may pull an image, by its name below a block.
	MayPull func(ctx context.Context, block string, image oci.Image) bool
	// MayChange reports whether the sender of a request may change what is cached.
	MayChange func(r *http.Request) bool
	// Address returns the URL at which clients pull, as the sender of a request would reach it.
	Address func(r *http.Request) *url.URL
	// Client returns the files of a client that reaches the mirror at a URL.
	Client func(ctx context.Context, client, url string) (clientconfig.Config, error)
	// Check probes the upstreams of the blocks in force.
	Check func(ctx context.Context) ([]check.Result, error)
	// Configuration returns the configuration in force without secrets; "" if the client may not
	// know of all blocks.
	Configuration func(ctx context.Context) string
	// Registrar makes blocks of the configuration.
	Registrar Registrar
}

// Handler serves the pages. The caller has asked whether their senders may read the API or, with
// POST, change what is cached.
type Handler struct {
	opts    Options
	views   map[string]view
	changes map[string]change
	forms   map[string]form
	report  report
	trials  chan struct{} // has a place for each trial that runs
}

// view makes a page of a GET.
type view func(ctx context.Context, r *http.Request) (page, error)

// change works on a POST, and returns the path of the page that shows its result.
type change func(ctx context.Context, r *http.Request) (to string, err error)

// form works on a POST, and returns the page with its result, or the path of that page.
type form func(ctx context.Context, r *http.Request) (made page, to string, err error)

// page is a template of a page and its values.
type page struct {
	title    string
	template string
	data     any
}

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// templates returns the templates of the pages by their names, each in the common frame. They are
// parsed for the first page, since a mirror without browsers never needs them.
var templates = sync.OnceValue(parse)

func parse() map[string]*template.Template {
	frame := template.Must(template.New("frame.html").Funcs(functions).ParseFS(templateFiles, "templates/frame.html", "templates/parts.html"))
	all := make(map[string]*template.Template)
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, one := range entries {
		name := strings.TrimSuffix(one.Name(), ".html")
		if name != "frame" && name != "parts" {
			all[name] = template.Must(template.Must(frame.Clone()).ParseFS(templateFiles, "templates/"+one.Name()))
		}
	}
	return all
}

// New returns the handler of the pages.
func New(opts Options) *Handler {
	h := &Handler{opts: opts, trials: make(chan struct{}, maxTrials)}
	h.views = map[string]view{
		"/":              h.overview,
		"/repositories":  h.repositories,
		"/repository":    h.repository,
		"/image":         h.image,
		"/pins":          h.pins,
		"/activity":      h.activity,
		"/upstreams":     h.upstreams,
		"/clients":       h.clients,
		"/configuration": h.configuration,
		"/add-registry":  h.addRegistry,
	}
	h.forms = map[string]form{"/add-registry": h.submitRegistry}
	h.changes = map[string]change{
		"/refresh":   h.refresh,
		"/remove":    h.remove,
		"/pin":       h.pin,
		"/unpin":     h.unpin,
		"/warm":      h.warm,
		"/cancel":    h.cancelJob,
		"/upstreams": h.checkUpstreams,

		"/remove-registry": h.removeRegistry,
	}
	return h
}

// Paths returns the paths that the handler serves.
func (h *Handler) Paths() []string {
	paths := []string{"/assets/weir.css", "/assets/weir.js", "/assets/weir.svg"}
	for one := range h.views {
		paths = append(paths, one)
	}
	for one := range h.changes {
		paths = append(paths, one)
	}
	for one := range h.forms {
		paths = append(paths, one)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// policy lets a page load its own style sheet, script and pictures, and nothing else. Its forms
// lead to the mirror, and no page is in a frame.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

const (
	// maxForm bounds the body of a form.
	maxForm = 64 << 10
	// maxRegistryForm bounds the form of a registry, which may have two certificates and a key.
	maxRegistryForm = 5 * maxForm
)

// ServeHTTP answers with a page, with a part of one, or with the way to the page that shows the
// result of a change.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer") // the mirror's name is internal
	if strings.HasPrefix(r.URL.Path, "/assets/") {
		h.asset(w, r)
		return
	}
	if header.Get("Cache-Control") == "" { // else access is restricted, and no cache keeps the page
		header.Set("Cache-Control", "no-cache")
	}
	header.Add("Vary", "Accept") // other clients than browsers read / as text
	show, change := h.views[r.URL.Path], h.formOf(r.URL.Path)
	switch {
	case change != nil && r.Method == http.MethodPost:
		h.submit(w, r, change)
	case show != nil && r.Method == http.MethodGet && r.Header.Get("Accept") == Events && livePages[r.URL.Path]:
		h.follow(w, r, show)
	case show != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		h.show(w, r, show)
	default:
		allow := "GET, HEAD"
		if show == nil {
			allow = http.MethodPost
		} else if change != nil {
			allow += ", " + http.MethodPost
		}
		header.Set("Allow", allow)
		h.fail(w, r, &api.Failure{Status: http.StatusMethodNotAllowed, Message: "This page does not support " + methodOf(r) + "."})
	}
}

// methodOf returns the method of a request if it is a usual one.
func methodOf(r *http.Request) string {
	if slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}, r.Method) {
		return r.Method
	}
	return "this method"
}

func (h *Handler) show(w http.ResponseWriter, r *http.Request, show view) {
	var body []byte
	err := h.opts.API.Read(r, func(ctx context.Context) error {
		made, err := show(ctx, r)
		if err == nil {
			body = h.execute(r, made)
		}
		return err
	})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.send(w, r, http.StatusOK, body)
}

// formOf returns what works on a POST to a path; nil if nothing does.
func (h *Handler) formOf(path string) form {
	if change := h.changes[path]; change != nil {
		return func(ctx context.Context, r *http.Request) (page, string, error) {
			to, err := change(ctx, r)
			return page{}, to, err
		}
	}
	return h.forms[path]
}

func (h *Handler) submit(w http.ResponseWriter, r *http.Request, form form) {
	longest := int64(maxForm)
	if r.URL.Path == "/add-registry" {
		longest = maxRegistryForm
	}
	r.Body = http.MaxBytesReader(w, r.Body, longest)
	if err := r.ParseForm(); err != nil {
		h.fail(w, r, &api.Failure{Status: http.StatusBadRequest, Message: "The form cannot be read. Load its page again."})
		return
	}
	var made page
	var to string
	err := h.opts.API.Change(r, func(ctx context.Context) (err error) {
		made, to, err = form(ctx, r)
		return err
	})
	switch {
	case err != nil:
		h.fail(w, r, err)
	case to != "":
		http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // the path is one of the handler's own
	default:
		w.Header().Set("Cache-Control", "no-store")
		h.render(w, r, http.StatusOK, made)
	}
}

// fail answers with a page that says what failed.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	told := h.opts.API.Explain(r, err)
	if told == nil {
		return // the client has left
	}
	if told.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	h.render(w, r, told.Status, page{title: http.StatusText(told.Status), template: "failure", data: told.Message})
}

// frame has the values of the common frame.
type frame struct {
	Name      string
	Title     string
	Path      string
	Self      string // path and query, which a form leads back to
	Notice    string
	MayChange bool
	Data      any
}

func (h *Handler) render(w http.ResponseWriter, r *http.Request, status int, made page) {
	h.send(w, r, status, h.execute(r, made))
}

func (h *Handler) send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	sent, err := h.opts.API.Sending(r, len(body))
	if err != nil {
		h.fail(w, r, err) // with a small page
		return
	}
	defer sent()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a browser that has left needs no page
}

// execute returns the HTML of a page.
func (h *Handler) execute(r *http.Request, made page) []byte {
	var body bytes.Buffer
	values := frame{
		Name: h.opts.Name(), Title: made.title, Path: r.URL.Path, Self: r.URL.RequestURI(), Notice: notices[r.URL.Query().Get("done")],
		MayChange: h.opts.MayChange(r), Data: made.data,
	}
	if err := templates()[made.template].ExecuteTemplate(&body, "frame.html", values); err != nil {
		panic(err) // a template does not match its values
	}
	return body.Bytes()
}

// started is the time of the assets: they change with the program only.
var started = time.Now()

func (h *Handler) asset(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this file is read-only", http.StatusMethodNotAllowed)
		return
	}
	content, err := assetFiles.ReadFile(strings.TrimPrefix(path.Clean(r.URL.Path), "/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-cache") // a new version of the program has another one
	}
	http.ServeContent(w, r, r.URL.Path, started, bytes.NewReader(content))
}

// notices are the results of changes by the parameter done.
var notices = map[string]string{
	"removed":    "The image was removed from the cache. The next pull fetches it again.",
	"unchanged":  "The upstream has the same image for this tag.",
	"moved":      "The tag has moved at the upstream. The next pull fetches what is missing of the new image.",
	"fetched":    "The tag was fetched.",
	"pinned":     "The image is pinned.",
	"unpinned":   "The image is no longer pinned.",
	"warming":    "A job brings the image into the cache. It is listed below.",
	"cancelled":  "The job was cancelled. Content that has arrived stays in the cache.",
	"not stored": "The upstream has the tag, but it could not be stored.",
}
