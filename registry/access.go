package registry

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/reply"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/pulls"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage"
)

// entry collects the facts about a request for the log and the metrics.
type entry struct {
	op         Operation
	ns         *namespace.Namespace // that answers; nil if none does
	namespace  string               // its key
	repository string               // canonical: the namespace's key and the name below it
	id         storage.RepoID       // of the repository; zero if no namespace answers
	reference  string
	visitor    visitor
	outcome    namespace.Outcome
	err        error
	holder     string // of the token that was issued
}

// found notes which repository of a namespace a request is for.
func (e *entry) found(ns *namespace.Namespace, repo string) {
	e.ns, e.namespace = ns, ns.Key()
	e.repository, e.id = ns.Key()+"/"+repo, ns.Repository(repo)
}

// transaction is a request and its answer, of which each has one allocation.
type transaction struct {
	entry entry
	reply reply.Writer
	pull  pull
}

// ServeHTTP serves a request, writes its line to the log and counts it. A panic
// is logged with its stack and answered with 500, or aborts an answer that has
// begun.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &transaction{reply: reply.Writer{ResponseWriter: w}}
	e, answer := &x.entry, &x.reply
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// No handler reads a body. Unless the connection is abandoned, the
		// server would wait for it before it sends the answer.
		w.Header().Set("Connection", "close")
	}
	defer func() {
		failure := recover()
		if failure != nil && failure != http.ErrAbortHandler {
			h.opts.Logger.Error("a handler panicked. This is a bug in the mirror. Please report it with this stack",
				"method", printable.Method(r), "path", printable.Path(r), "panic", failure, "stack", string(debug.Stack()))
			// Nothing was sent yet, so the client can still get a proper answer.
			if answer.Status == 0 && answer.Written == 0 {
				answer.Status = http.StatusInternalServerError
				errInternal.write(w, e.locked())
				failure = nil
			}
		}
		if answer.Status == 0 && failure == nil {
			answer.Status = http.StatusOK // which net/http sends if no handler sets a status
		}
		s := served{
			status: answer.Status, bytes: answer.Written, took: time.Since(start),
			aborted: failure != nil && r.Context().Err() == nil,
		}
		h.logAndCount(r, e, s)
		h.countPull(r, x, s)
		e.annotateSpan(trace.SpanFromContext(r.Context()), r.Method, s)
		if failure != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	h.api(answer, r, x)
}

// warmAgent begins the User-Agent of weir warm, which is not a client that wants an image.
const warmAgent = "weir-warm/"

// countPull counts a request that got a whole manifest.
func (h *Handler) countPull(r *http.Request, x *transaction, s served) {
	p := &x.pull
	whole := p.manifestOf != "" && s.status == http.StatusOK && !s.aborted && r.Method == http.MethodGet
	if h.opts.Pulls == nil || !whole || strings.HasPrefix(r.UserAgent(), warmAgent) {
		return
	}
	by := pulls.Client{User: x.entry.visitor.who()}
	if by.User == (access.Name{}) {
		by.Address = h.opts.Proxies.Load().Address(r)
	}
	h.opts.Pulls.Count(p.ns.Repository(p.repo), p.req.Reference.Tag(), p.manifestOf, by)
}

// logAndCount logs and counts a request that has ended.
func (h *Handler) logAndCount(r *http.Request, e *entry, s served) {
	h.opts.Metrics.request(e, s)
	if e.outcome.Cache != namespace.None {
		h.opts.Traffic.Answered(s.bytes, e.outcome.Cache.Cached())
	}
	h.remember(r, e, s)
	level := slog.LevelInfo
	denied, _ := errors.AsType[*access.DeniedError](e.err)
	switch {
	// A rule that cannot be evaluated, or a webhook that is unavailable, refuses requests that
	// the operator may have meant to permit.
	case s.status >= http.StatusInternalServerError, denied != nil && denied.Cause != nil:
		level = slog.LevelWarn
	case e.op == OpPing:
		level = slog.LevelDebug // clients and load balancers ask all the time, and get no content
	}
	// Collecting the attributes of a line that is dropped would cost each pull.
	if h.opts.Logger.Enabled(r.Context(), level) {
		var room [16]slog.Attr // for the attributes of any line
		h.opts.Logger.LogAttrs(r.Context(), level, "request", h.describe(room[:0], r, e, s)...)
	}
}

// remember keeps a request for the list of the last ones. Pings are frequent and get no content.
func (h *Handler) remember(r *http.Request, e *entry, s served) {
	if h.opts.Recent == nil || e.op == OpPing {
		return
	}
	h.opts.Recent.Add(traffic.Request{
		Time: time.Now(), Method: r.Method, Operation: e.op.logged(), Repository: e.repository, ID: e.id, Reference: e.reference,
		Status: s.status, Bytes: s.bytes, Took: s.took, Cache: cacheLabel(e.outcome.Cache),
		User: e.visitor.who(), Address: h.opts.Proxies.Load().Address(r), Upstream: e.outcome.Upstream,
	})
}

// describe appends the attributes of a request's line.
func (h *Handler) describe(attrs []slog.Attr, r *http.Request, e *entry, s served) []slog.Attr {
	attrs = append(attrs, slog.String("method", printable.Method(r)), slog.String("operation", e.op.logged()))
	// A request without a repository is named by its path.
	if e.repository == "" {
		attrs = append(attrs, slog.String("path", printable.Path(r)))
	} else {
		attrs = append(attrs, slog.String("repository", e.repository), slog.String("reference", e.reference))
	}
	attrs = append(attrs,
		slog.Int("status", s.status),
		slog.Int64("bytes", s.bytes),
		slog.Duration("duration", s.took),
		slog.String("cache", cacheLabel(e.outcome.Cache)),
	)
	if e.outcome.Overdue > 0 {
		attrs = append(attrs, slog.Duration("overdue", e.outcome.Overdue))
	}
	attrs = h.opts.Proxies.Load().AppendAttrs(attrs, r)
	if user := cmp.Or(e.visitor.user(), e.holder); user != "" {
		attrs = append(attrs, slog.String("user", user))
	}
	if e.outcome.Upstream != "" {
		attrs = append(attrs, slog.String("upstream", e.outcome.Upstream))
	}
	if e.err != nil {
		attrs = append(attrs, slog.Any("error", e.err))
	}
	// The ID of a trace that was not sampled leads nowhere, unless the client
	// began the trace and has it.
	if span := trace.SpanContextFromContext(r.Context()); span.IsSampled() || span.IsValid() && r.Header.Get("Traceparent") != "" {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()))
	}
	return attrs
}
