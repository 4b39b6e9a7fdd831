package registry

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/felixge/httpsnoop"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/namespace"
)

// entry collects the facts about a request for the log and the metrics.
type entry struct {
	op         Operation
	ns         *namespace.Namespace // that answers; nil if none does
	namespace  string               // its key
	repository string               // canonical: the namespace's key and the name below it
	reference  string
	outcome    namespace.Outcome
	err        error
}

type entryKey struct{}

func entryOf(ctx context.Context) *entry { return ctx.Value(entryKey{}).(*entry) }

// ServeHTTP serves a request, writes its line to the log and counts it. A panic
// is logged with its stack and answered with 500, or aborts an answer that has
// begun.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	e := &entry{}
	var m httpsnoop.Metrics // Code stays 0 until a handler has set a status
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// No handler reads a body. Unless the connection is given up, the
		// server would wait for it before it sends the answer.
		w.Header().Set("Connection", "close")
	}
	defer func() {
		failure := recover()
		if failure != nil && failure != http.ErrAbortHandler {
			h.opts.Logger.Error("a handler panicked; this is a bug of the mirror, please report it with this stack",
				"method", r.Method, "path", r.URL.Path, "panic", failure, "stack", string(debug.Stack()))
			// Nothing was sent yet, so the client can still get a proper answer.
			if m.Code == 0 && m.Written == 0 {
				m.Code = http.StatusInternalServerError
				errInternal.write(w)
				failure = nil
			}
		}
		if m.Code == 0 && failure == nil {
			m.Code = http.StatusOK // which net/http sends if no handler sets a status
		}
		s := served{
			status: m.Code, bytes: m.Written, took: time.Since(start),
			aborted: failure != nil && r.Context().Err() == nil,
		}
		h.logAndCount(r, e, s)
		e.annotateSpan(trace.SpanFromContext(r.Context()), r.Method, s)
		if failure != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	m.CaptureMetrics(w, func(w http.ResponseWriter) {
		h.api(w, r.WithContext(context.WithValue(r.Context(), entryKey{}, e)))
	})
}

// logAndCount logs and counts a request that has ended.
func (h *Handler) logAndCount(r *http.Request, e *entry, s served) {
	h.opts.Metrics.request(e, s)
	level := slog.LevelInfo
	if s.status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	// Collecting the attributes of a line that is dropped would cost each pull.
	if !h.opts.Logger.Enabled(r.Context(), level) {
		return
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method),
		slog.String("repository", e.repository),
		slog.String("reference", e.reference),
		slog.Int("status", s.status),
		slog.Int64("bytes", s.bytes),
		slog.Duration("duration", s.took),
		slog.String("cache", cacheLabel(e.outcome.Cache)),
		slog.String("client", client),
	}
	// A request without a repository is named by its path.
	if e.repository == "" {
		attrs[1] = slog.String("path", r.URL.Path)
		attrs = append(attrs[:2], attrs[3:]...)
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
	h.opts.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}
