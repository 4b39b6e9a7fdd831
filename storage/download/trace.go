package download

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// A flight outlives the requests that read from it, so it has a trace of its
// own, which begins with the download and ends with the commit. Links lead from
// it to the requests and back.

// trace begins the flight's span if the request that begins the flight is
// traced. What the flight does is below that span.
func (f *Download) trace(request context.Context) {
	tracer, span := f.flights.opts.Tracer, trace.SpanFromContext(request)
	if tracer == nil || !span.IsRecording() {
		return
	}
	f.ctx, f.span = tracer.Start(f.ctx, "download", trace.WithNewRoot(), trace.WithAttributes(
		attribute.String("weir.repository", f.src.Repository.String()),
		attribute.String("weir.reference", f.digest.String()),
	))
	linkSpans(span, f.span)
}

// linkSpans makes two spans refer to each other, where both are recorded.
func linkSpans(a, b trace.Span) {
	if a.IsRecording() && b.IsRecording() {
		a.AddLink(trace.Link{SpanContext: b.SpanContext()})
		b.AddLink(trace.Link{SpanContext: a.SpanContext()})
	}
}

// endSpan ends the span of a flight whose download has ended.
func (f *Download) endSpan() {
	if f.span.IsRecording() {
		_, written := f.progress()
		f.span.SetAttributes(
			attribute.String("weir.upstream", f.origin),
			attribute.Int64("weir.bytes", written),
		)
		if f.err != nil {
			f.span.SetStatus(codes.Error, f.err.Error())
		}
	}
	f.span.End()
}
