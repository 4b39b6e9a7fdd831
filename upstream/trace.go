package upstream

import (
	"context"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// A request to an upstream has a span if its context holds a sampled one. Each
// try has a span, up to the end of its body, with its redirects as events; a
// request for a token has one below the span of the try that wants the token.
// Spans name hosts and content. They hold no header and no query, which may
// contain credentials and signatures. No part of a trace is sent to an upstream.

// tracerName is the instrumentation scope of the package's spans.
const tracerName = "github.com/weirhq/weir/upstream"

// startSpan begins a span below that of ctx. It returns a span that does nothing
// if ctx has none that is sampled.
func startSpan(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsSampled() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	tracer := parent.TracerProvider().Tracer(tracerName)
	return tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
}

// startTry begins the span of a try, the first of which is 1.
func (c *Client) startTry(ctx context.Context, call call, try int) (context.Context, trace.Span) {
	ctx, span := startSpan(ctx, "upstream "+call.method+" "+call.op)
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(serverOf(c.url)...)
	span.SetAttributes(
		semconv.HTTPRequestMethodKey.String(call.method),
		attribute.String("weir.operation", call.op),
		attribute.String("weir.repository", c.repository(call.repo)),
		attribute.String("weir.reference", call.reference),
	)
	if try > 1 {
		span.SetAttributes(semconv.HTTPRequestResendCount(try - 1))
	}
	return ctx, span
}

// serverOf names the server of a request.
func serverOf(u *url.URL) []attribute.KeyValue {
	port, _ := strconv.Atoi(portOf(u)) // 0 if the URL has a name in its place
	return []attribute.KeyValue{semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port)}
}

// noteAnswer adds the status and class of the answer to a span.
func noteAnswer(span trace.Span, status int, class Class) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("weir.class", class.String()))
	if status != 0 { // 0: no answer came
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
}

// endFailed ends the span of a request that failed.
func endFailed(span trace.Span, failure *Error) {
	noteAnswer(span, failure.Status, failure.Class)
	noteBroken(span, failure)
	span.End()
}

// noteBroken adds the cause of an early end to a span.
func noteBroken(span trace.Span, err error) {
	if span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
	}
}

// noteRedirect adds the host of a redirect to the span of its request.
func noteRedirect(ctx context.Context, location *url.URL) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("redirect", trace.WithAttributes(serverOf(location)...))
	}
}
