package download

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// A download outlives the requests that read from it, so it has a trace of its
// own, which begins with the download and ends with the commit. Links lead from
// it to the requests and back.

// trace begins the download's span if the request that started the download is
// traced. The download's own requests are below that span. A tracer runs code of
// its exporter, so the download's goroutine calls it, without a lock.
func (d *Download) trace(request trace.Span) {
	tracer := d.group.opts.Tracer
	if tracer == nil || !request.IsRecording() {
		return
	}
	d.ctx, d.span = tracer.Start(d.ctx, "download", trace.WithNewRoot(), trace.WithAttributes(
		attribute.String("weir.repository", d.src.Repository.String()),
		attribute.String("weir.reference", d.digest.String()),
	))
	linkSpans(request, d.span)
}

// linkSpans makes two spans refer to each other, if both are recorded.
func linkSpans(a, b trace.Span) {
	if a.IsRecording() && b.IsRecording() {
		a.AddLink(trace.Link{SpanContext: b.SpanContext()})
		b.AddLink(trace.Link{SpanContext: a.SpanContext()})
	}
}

// endSpan ends the span of a download that ends with err.
func (d *Download) endSpan(err error) {
	if d.span.IsRecording() {
		v := d.view()
		d.span.SetAttributes(
			attribute.String("weir.upstream", v.origin),
			attribute.Int64("weir.bytes", v.written),
		)
		if err != nil {
			d.span.SetStatus(codes.Error, err.Error())
		}
	}
	d.span.End()
}
