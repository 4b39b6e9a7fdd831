// Package registry is the HTTP edge: it serves the pull part of the OCI
// distribution API from namespaces.
//
// A request takes one way through the package. [Handler] measures and logs it
// and survives its panics (access.go); [Parse] turns its method and URL into a
// typed [Request], purely; the table in force resolves its name; a handler of
// one operation (pull.go, list.go) writes the answer, or returns an error that
// one table (errors.go) maps to a status and an OCI error code.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// Options are what a handler serves from.
type Options struct {
	Tables *namespace.Live
	Cache  *namespace.Cache
	// Ready reports why the mirror cannot do its work at the moment.
	Ready func(context.Context) error
	// Content is the health of the store. A mirror that cannot store serves all
	// the same, so it is ready, and says so. It may be nil.
	Content  *storage.Health
	Metrics  *Metrics
	Gatherer prometheus.Gatherer // of /metrics
	Logger   *slog.Logger
}

// Handler serves all paths of the mirror.
type Handler struct {
	opts   Options
	router *mux.Router
}

// New returns a handler.
func New(opts Options) *Handler {
	h := &Handler{opts: opts}
	// Paths are taken as they come: a cleaned one would not be what the
	// client asked for, and Parse refuses what is not canonical.
	h.router = mux.NewRouter().SkipClean(true)
	h.router.Path("/healthz").HandlerFunc(h.health)
	h.router.Path("/readyz").HandlerFunc(h.ready)
	h.router.Path("/metrics").Handler(promhttp.HandlerFor(opts.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	h.router.Path("/v2").HandlerFunc(h.api)
	h.router.PathPrefix("/v2/").HandlerFunc(h.api)
	h.router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		toWire(&entry{}, notFound(r.URL.Path)).write(w)
	})
	return h
}

func (h *Handler) health(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte("ok\n"))
}

func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	if err := h.opts.Ready(r.Context()); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err := h.opts.Content.Err(); err != nil {
		fmt.Fprintf(w, "ready, but content is served without being stored: %v\n", err)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

// api serves everything below /v2/.
func (h *Handler) api(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	entry := entryOf(r.Context())
	err := h.serve(w, r, entry)
	switch {
	case err == nil:
		return
	case r.Context().Err() != nil:
		errClientGone.write(w)
	default:
		toWire(entry, err).write(w)
	}
	entry.err = err
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		entry.outcome.Upstream = failed.Host
	}
}

// serve parses a request, resolves its name and hands it to its operation.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, e *entry) error {
	req, err := Parse(r.Method, r.URL)
	e.op = req.Op
	if err != nil {
		return err
	}
	table := h.opts.Tables.Load()
	switch req.Op {
	case OpPing:
		writeJSON(w, http.StatusOK, "application/json", struct{}{})
		return nil
	case OpCatalog:
		return h.catalog(w, r, req, table)
	}
	e.reference = req.Reference.String()
	if e.reference == "" {
		e.reference = req.Digest.String()
	}
	ns, repo, err := table.Resolve(req.NS, req.Name)
	if err != nil {
		e.repository = req.Name
		return err
	}
	e.ns, e.namespace = ns, ns.Key()
	e.repository = ns.Key() + "/" + repo
	if req.NS != "" && oci.SameHost(req.NS, ns.Host()) {
		w.Header().Set("OCI-Namespace", req.NS)
	}
	p := &pull{w: w, r: r, req: req, ns: ns, repo: repo, entry: e}
	switch req.Op {
	case OpManifest:
		return p.manifest()
	case OpBlob:
		return p.blob()
	case OpTags:
		return p.tags()
	case OpReferrers:
		return p.referrers()
	default:
		return p.refuse()
	}
}

// refuse answers a write.
func (p *pull) refuse() error {
	return &Error{
		Status: http.StatusUnauthorized, Code: "UNAUTHORIZED",
		Message: p.req.Name + " is a read-only mirror of " + p.ns.FirstUpstream(),
	}
}
