// Package api shows people and programs what a mirror has cached and how it is used, as JSON
// below /api/v1. It reads from small views, and asks an upstream only to refresh a tag.
//
// openapi.json describes it, and is served with it. A test holds the file to the handlers.
//
// The name of a repository is one segment of a path, with its slashes as %2F, since any word
// may be a segment of a name:
//
//	/api/v1/repositories/ghcr.io%2Facme%2Ftags/tags
package api

import (
	"context"
	_ "embed" // openapi.json
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/turns"
	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

// Prefix begins the paths of the API.
const Prefix = "/api/v1/"

const (
	// atOnce is how many requests read the records at once, maxWaiting is how many more wait, and
	// maxOfNetwork is how many of those may be of one network. Networks take turns.
	atOnce       = 4
	maxWaiting   = 64
	maxOfNetwork = 32
	// longest is how long a request waits and reads.
	longest = 30 * time.Second
	// largeAnswer is the size of a large answer, in bytes, and maxLarge is how many of them are sent
	// at once, in all and to one network. They are in memory until their clients have read them,
	// which may take minutes.
	largeAnswer       = 1 << 20
	maxLarge          = 4
	maxLargeOfNetwork = 2
)

// Repository is a cached repository and the name by which clients pull it.
type Repository struct {
	ID    storage.RepoID
	Block string // key of its block
	Name  string // the key of the block and the name below it
}

// Names knows the repositories of the configuration in force that may be told.
type Names interface {
	// All returns the cached repositories in the order of their names.
	All(ctx context.Context) ([]Repository, error)
	// Find returns the repository of a name. It reports false if there can be none.
	Find(name string) (Repository, bool)
	// Of returns the repository with an ID. It reports false if no name leads to it.
	Of(id storage.RepoID) (Repository, bool)
	// Sees reports whether the sender of a request may know of a repository.
	Sees(ctx context.Context, r Repository) bool
	// Permits reports whether the sender of a request, which may know of a repository, may have a
	// part of it.
	Permits(ctx context.Context, r Repository, q Question) bool
}

// Inventory knows the cached content and its use.
type Inventory interface {
	// Repository returns zeros for a repository of which nothing is cached.
	Repository(ctx context.Context, repo storage.RepoID) (inventory.Repository, error)
	// Tags returns the tags in lexical order.
	Tags(ctx context.Context, repo storage.RepoID) ([]string, error)
	// Sizes returns the sizes of the images of tags that are known before the context ends.
	Sizes(ctx context.Context, repo storage.RepoID, tags []string) map[string]int64
	// Tag returns an error that matches storage.ErrNotExist if the tag is not cached.
	Tag(ctx context.Context, repo storage.RepoID, tag string) (inventory.Tag, error)
	// History returns the last manifest first.
	History(ctx context.Context, repo storage.RepoID, tag string) ([]catalog.Named, error)
	// Manifest returns an error that matches storage.ErrNotExist if the repository has no such manifest.
	Manifest(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (inventory.Manifest, error)
}

// Options are the views of a [Handler].
type Options struct {
	Names     Names
	Inventory Inventory
	Downloads Downloads
	Refresher Refresher
	Remover   Remover
	State     State
	Traffic   Traffic
	Recent    Recent
	Pins      Pins
	Warmer    Warmer
	// Address returns the address of the client of a request.
	Address func(*http.Request) netip.Addr
	// Rules returns a context that ends when the rules that have let the client of a request in are
	// replaced. nil: they never are.
	Rules  func(context.Context) context.Context
	Logger *slog.Logger
}

// Handler answers requests below [Prefix]. The caller has asked whether their senders may
// read the API.
type Handler struct {
	opts    Options
	reads   *turns.Queue
	changes *turns.Queue // an upstream may let them wait
	large   *places      // of large answers
	figures *lru.Cache[storage.RepoID, figures]
	mux     *http.ServeMux

	counting counting

	sampler sampler
	streams *places         // of clients that follow events or a page
	closing context.Context // ends with Close
	stop    context.CancelFunc
}

// run runs work for a request when its turn in a queue has come, within the longest time. It returns
// ErrBusy if too many works wait already.
func (h *Handler) run(r *http.Request, queue *turns.Queue, work func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	leave, err := queue.Enter(ctx, h.from(r))
	if errors.Is(err, turns.ErrFull) {
		return ErrBusy
	}
	if err != nil {
		return err
	}
	defer leave()
	return work(ctx)
}

//go:embed openapi.json
var description []byte

// route is a path of the API below [Prefix], its parameters and the document at it.
type route struct {
	method string
	path   string
	query  []string
	answer func(h *Handler, ctx context.Context, r *http.Request) (any, error)
}

// routes are the paths except openapi.json.
var routes = []route{
	{http.MethodGet, "repositories", []string{"block", "q", "sort", "n", "last"}, (*Handler).repositories},
	{http.MethodGet, "repositories/{name}", nil, (*Handler).repository},
	{http.MethodGet, "repositories/{name}/tags", []string{"n", "last", "sizes"}, (*Handler).tags},
	{http.MethodGet, "repositories/{name}/tags/{tag}", nil, (*Handler).tag},
	{http.MethodGet, "repositories/{name}/tags/{tag}/history", nil, (*Handler).history},
	{http.MethodGet, "repositories/{name}/manifests/{digest}", nil, (*Handler).manifest},
	{http.MethodGet, "downloads", nil, (*Handler).downloads},
	{http.MethodGet, "status", nil, (*Handler).status},
	{http.MethodGet, "events", nil, nil},
	{http.MethodGet, "requests", []string{"status", "cache", "client", "q"}, (*Handler).requests},
	{http.MethodPost, "refresh", nil, (*Handler).refresh},
	{http.MethodDelete, "images/{image}", nil, (*Handler).removeImage},
	{http.MethodGet, "pins", nil, (*Handler).pins},
	{http.MethodPut, "pins/{image}", nil, (*Handler).pin},
	{http.MethodDelete, "pins/{image}", nil, (*Handler).unpin},
	{http.MethodPost, "warm", nil, (*Handler).warm},
	{http.MethodGet, "jobs", nil, (*Handler).jobs},
	{http.MethodDelete, "jobs/{id}", nil, (*Handler).cancelJob},
}

// New returns the handler of the API.
func New(opts Options) *Handler {
	known, err := lru.New[storage.RepoID, figures](maxFigures)
	if err != nil {
		panic(err) // cannot be: the size is positive
	}
	limits := turns.Limits{Running: atOnce, Waiting: maxWaiting, WaitingOfNetwork: maxOfNetwork}
	h := &Handler{
		opts: opts, reads: turns.New(limits), changes: turns.New(limits), large: newPlaces(maxLarge, maxLargeOfNetwork),
		streams: newPlaces(maxStreams, maxStreamsOfNetwork), figures: known, mux: http.NewServeMux(),
	}
	h.closing, h.stop = context.WithCancel(context.Background())
	h.mux.HandleFunc(Prefix, noRoute)
	h.mux.HandleFunc("GET "+Prefix+"openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(description) // a client that has left needs no answer
	})
	for path, methods := range methodsOf(routes) {
		h.mux.HandleFunc(Prefix+path, func(w http.ResponseWriter, _ *http.Request) { otherMethod(w, methods) })
	}
	for _, one := range routes {
		if one.answer == nil {
			h.mux.HandleFunc(one.method+" "+Prefix+one.path, h.events)
			continue
		}
		h.mux.HandleFunc(one.method+" "+Prefix+one.path, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, one) })
	}
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// serve answers with the document of a route.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, to route) {
	status, body, err := h.answer(r, to)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	sent, err := h.Sending(r, len(body))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer sent()
	if w.Header().Get("Cache-Control") == "" { // else access is restricted, and no cache keeps it
		w.Header().Set("Cache-Control", "no-cache")
	}
	write(w, status, body)
}

// Sending returns a function to call when an answer of some bytes to a request has been sent. It returns
// ErrBusy if it is a large one, and too many of these are being sent, or too many to its network.
func (h *Handler) Sending(r *http.Request, bytes int) (sent func(), err error) {
	if bytes < largeAnswer {
		return func() {}, nil
	}
	return h.large.take(h.from(r))
}

// answer returns the document of a route when there is a place to work on it, and its status.
func (h *Handler) answer(r *http.Request, to route) (status int, body []byte, err error) {
	for name := range r.URL.Query() {
		if !slices.Contains(to.query, name) { // a misspelt one would have no effect
			return 0, nil, invalid("the path has no such parameter. " + Prefix + "openapi.json lists its parameters")
		}
	}
	wait := h.Read
	if to.method != http.MethodGet {
		wait = h.Change
	}
	err = wait(r, func(ctx context.Context) error {
		document, err := to.answer(h, ctx, r)
		if err != nil {
			return err
		}
		status, body = http.StatusOK, encode(document)
		if other, ok := document.(interface{ status() int }); ok {
			status = other.status()
		}
		return nil
	})
	return status, body, err
}

// Read runs work for a request that reads by methods of the handler, when its turn has come. The
// number of such works and their time are bounded, and the routes share the places. Work must not
// call Read.
func (h *Handler) Read(r *http.Request, work func(ctx context.Context) error) error {
	return h.run(r, h.reads, work)
}

// Change is Read for work that changes the cache.
func (h *Handler) Change(r *http.Request, work func(ctx context.Context) error) error {
	return h.run(r, h.changes, work)
}

// Failure is an error that the client is told.
type Failure struct {
	Status  int    // of HTTP
	Code    string // of the specification
	Message string
}

func (f *Failure) Error() string { return f.Message }

// ErrBusy says that too many requests wait.
var ErrBusy = errors.New("api: too many requests wait")

func invalid(message string) error {
	return &Failure{http.StatusBadRequest, "UNSUPPORTED", message}
}

// Explain returns what the client of a request is told about an error of a method; nil if the
// client has left. It logs failures of the store, and tells the client no more than that.
func (h *Handler) Explain(r *http.Request, err error) *Failure {
	told, ok := errors.AsType[*Failure](err)
	switch {
	case ok:
		return told
	case r.Context().Err() != nil:
		return nil
	case errors.Is(err, ErrBusy):
		return &Failure{http.StatusServiceUnavailable, "UNAVAILABLE", "too many requests to the API are waiting. Try again later"}
	case errors.Is(err, context.DeadlineExceeded):
		return &Failure{http.StatusServiceUnavailable, "UNAVAILABLE", "the mirror could not answer in time. Request a smaller page, or try again later"}
	}
	h.opts.Logger.Warn("the API cannot read records or content. Check that the store is readable", "path", printable.Path(r), "error", err)
	return &Failure{http.StatusInternalServerError, "UNKNOWN", "the records cannot be read. The log of the mirror has the reason"}
}

// fail answers with an error document.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	told := h.Explain(r, err)
	if told == nil {
		return
	}
	if told.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	tell(w, told)
}

// methodsOf returns the methods of each path.
func methodsOf(routes []route) map[string][]string {
	methods := map[string][]string{"openapi.json": {http.MethodGet, http.MethodHead}}
	for _, one := range routes {
		methods[one.path] = append(methods[one.path], one.method)
		if one.method == http.MethodGet {
			methods[one.path] = append(methods[one.path], http.MethodHead)
		}
	}
	return methods
}

// noRoute answers requests for paths that the API does not have.
func noRoute(w http.ResponseWriter, _ *http.Request) {
	tell(w, &Failure{http.StatusNotFound, "NAME_UNKNOWN", "the API has no such path. " + Prefix + "openapi.json lists its paths"})
}

// otherMethod answers requests for a path with a method that it does not have.
func otherMethod(w http.ResponseWriter, methods []string) {
	w.Header().Set("Allow", strings.Join(methods, ", "))
	tell(w, &Failure{http.StatusMethodNotAllowed, "UNSUPPORTED", "the path does not support this method. " + Prefix + "openapi.json lists its methods"})
}

// tell answers with an error document.
func tell(w http.ResponseWriter, f *Failure) {
	write(w, f.Status, encode(oci.ErrorDocument{Errors: []oci.ErrorItem{{Code: f.Code, Message: f.Message}}}))
}

func encode(document any) []byte {
	body, err := json.Marshal(document)
	if err != nil {
		panic(err) // the documents are plain values
	}
	return body
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left needs no answer
}
