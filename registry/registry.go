// Package registry is the HTTP edge: it serves the pull part of the OCI
// distribution API, /v2, from namespaces.
//
// A request takes one way through the package. [Handler] measures and logs it and
// survives its panics (access.go). The parser (parse.go) turns its method and URL
// into a typed [Request], purely. The sender is identified, the table in force
// resolves the name, and the rules in force decide whether the sender may go on
// (visitor.go). The handler of the operation (pull.go,
// list.go) writes the answer, or returns an error that one table (errors.go) maps
// to a status and an OCI error code.
package registry

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/forwarded"
	"github.com/weirhq/weir/internal/reply"
	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/pulls"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/upstream"
)

// Options are the parts that a handler serves from.
type Options struct {
	Tables *namespace.Current
	Cache  *namespace.Cache
	// Access holds the rules in force. They are asked once for each request, after the
	// name is resolved and before anything is looked up, so that a refusal shows nothing
	// of the stored content. Nil: everything is open.
	Access *access.Current
	// Explain returns the sentence that a client is told about a failure. The
	// namespace is nil if the name belongs to none. A nil Explain returns the
	// error's text.
	Explain func(ns *namespace.Namespace, err error) string
	// ID is this process's in requests to upstreams. A request that carries it has
	// come back. With an empty ID no loop is noticed.
	ID via.ID
	// Proxies are those whose X-Forwarded-For names the client.
	Proxies *forwarded.Current
	// Redirects reports whether a client may be sent to the Links of Cache. Nil: none is.
	Redirects func(client netip.Addr) bool
	// Tokens answers requests for tokens of the mirror's own accounts. It returns the name of
	// the holder, and the reason of a refusal, for the log. Nil: there are none.
	Tokens func(http.ResponseWriter, *http.Request) (holder string, refused error)
	// Grants seals the credentials of clients whose own rights decide.
	Grants  *access.Grants
	Pulls   *pulls.Counter   // of manifests; nil counts nothing
	Traffic *traffic.Counter // of answers; nil counts nothing
	Recent  *traffic.Recent  // remembers the last answers; may be nil
	Metrics *Metrics
	Logger  *slog.Logger
}

// Handler serves the distribution API below /v2. Other paths are answered with 404.
type Handler struct {
	opts   Options
	names  catalogNames
	always http.Header // of each answer

	exchanges exchanges
	copier    reply.Copier // of content that is being downloaded
}

func New(opts Options) *Handler {
	if opts.Access == nil {
		opts.Access = access.Unrestricted()
	}
	if opts.Tokens == nil {
		opts.Tokens = func(w http.ResponseWriter, r *http.Request) (string, error) {
			http.NotFound(w, r)
			return "", nil
		}
	}
	if opts.Explain == nil {
		opts.Explain = func(_ *namespace.Namespace, err error) string { return err.Error() }
	}
	always := http.Header{"Docker-Distribution-Api-Version": {"registry/2.0"}}
	opts.ID.Name(always)
	return &Handler{opts: opts, always: always, exchanges: newExchanges()}
}

// api serves one request and records in its entry how it went.
func (h *Handler) api(w http.ResponseWriter, r *http.Request, x *transaction) {
	maps.Copy(w.Header(), h.always)
	entry := &x.entry
	err := h.serve(w, r, x)
	switch {
	case err == nil:
		return
	// The client has left, so the error is most likely its own cancellation. It
	// is logged as such, and not as a failure of the mirror.
	case r.Context().Err() != nil:
		errClientGone.write(w, entry.locked())
	default:
		h.toWire(entry, err).write(w, entry.locked())
	}
	entry.err = err
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		entry.outcome.Upstream = failed.Host
	}
}

// serve parses a request, resolves its name, has it authorized and hands it to its
// operation.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, x *transaction) error {
	e := &x.entry
	if r.URL.Path == tokenPath {
		return h.token(w, r, e)
	}
	req, err := parse(r.Method, r.URL)
	e.op = req.Op
	if err != nil {
		return err
	}
	table := h.opts.Tables.Load()
	trail := via.Read(r.Header)
	if err := h.endLoop(trail, r.Host, req, table); err != nil {
		return err
	}
	if len(trail) > 0 { // a client's request has none, and its context stays as it is
		r = r.WithContext(via.With(r.Context(), trail))
	}
	if req.Op == OpPing || req.Op == OpCatalog {
		return h.nameless(w, r, e, req, table)
	}
	// The log shows the reference before anything can fail.
	e.reference = req.Reference.String()
	if e.reference == "" {
		e.reference = req.Digest.String()
	}
	ns, repo, err := table.Resolve(req.NS, req.Name)
	if err := h.identify(r, req, e, ns); err != nil {
		return err
	}
	if err != nil {
		e.repository = req.Name
		// The answer names the configured blocks, which are not everyone's business.
		if denied := e.visitor.permit(r.Context(), access.Question{Action: access.GetVersion}); denied != nil {
			return denied
		}
		return e.visitor.unknown(r.Context(), err)
	}
	e.found(ns, repo)
	// The header shows the client that its parameter decided, and not the name.
	if req.NS != "" && table.ByHost(req.NS, req.Name) {
		w.Header().Set("OCI-Namespace", req.NS)
	}
	if ns.OnBehalf() {
		return h.answerOnBehalf(w, r, req, x, ns, repo)
	}
	if err := e.visitor.permit(r.Context(), questionOf(req, ns, repo, e.repository)); err != nil {
		return err
	}
	x.pull = pull{ctx: r.Context(), w: w, r: r, req: req, ns: ns, repo: repo, entry: e, opts: &h.opts, copier: &h.copier}
	return x.pull.answer()
}

// nameless answers a request without a name to resolve, which may need permission all the
// same: for the version of the API, or for the catalog.
func (h *Handler) nameless(w http.ResponseWriter, r *http.Request, e *entry, req Request, table *namespace.Table) error {
	login := req.Op == OpPing && len(onBehalfOf(table)) > 0
	if !login || !h.hasGrant(r) {
		if err := h.identify(r, req, e, nil); err != nil {
			return err
		}
		if err := e.visitor.permit(r.Context(), questionOf(req, nil, "", "")); err != nil {
			return err
		}
	}
	e.keepPrivate(w)
	if req.Op == OpCatalog {
		return h.catalog(w, r, req, table, e.visitor)
	}
	// The mirror's own rules identify the client. Without any, upstreams do.
	if login && e.visitor.rules == nil {
		if err := h.ping(r, table); err != nil {
			return h.challenged(r, req, nil, err)
		}
	}
	writeJSON(w, http.StatusOK, "application/json", struct{}{})
	return nil
}

func (p *pull) answer() error {
	switch p.req.Op {
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
