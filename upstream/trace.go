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

// What is asked of an upstream has a span where it belongs to a trace: where
// the context holds a span that is sampled. Each try has one, up to the end of
// its body, with its redirects as events; a request for a token has one below
// the try that wants it. Spans name hosts and contents. They hold no header and
// no query, where credentials and signatures travel, and nothing of a trace is
// ever sent to an upstream.

// tracerName is the instrumentation scope of the package's spans.
const tracerName = "github.com/weirhq/weir/upstream"

// startSpan begins a span below the one that ctx holds, or returns one that
// does nothing.
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

// serverOf names whom a request goes to.
func serverOf(u *url.URL) []attribute.KeyValue {
	port, _ := strconv.Atoi(portOf(u))
	return []attribute.KeyValue{semconv.ServerAddress(u.Hostname()), semconv.ServerPort(port)}
}

// noteAnswer says in a span how its request was answered.
func noteAnswer(span trace.Span, status int, class Class) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("weir.class", class.String()))
	if status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
}

// endFailed ends the span of a request that came to nothing.
func endFailed(span trace.Span, failure *Error) {
	noteAnswer(span, failure.Status, failure.Class)
	noteBroken(span, failure)
	span.End()
}

// noteBroken says in the span of a request why that ended before its time.
func noteBroken(span trace.Span, err error) {
	if span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
	}
}

// noteRedirect says in the span of a request where that is sent on to.
func noteRedirect(ctx context.Context, location *url.URL) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("redirect", trace.WithAttributes(serverOf(location)...))
	}
}
