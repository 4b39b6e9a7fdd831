package registry

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Traced returns the handler with a span around each request. A mirror without
// traces uses the handler itself, and so pays nothing for them.
func Traced(h *Handler, provider trace.TracerProvider, propagator propagation.TextMapPropagator) http.Handler {
	return otelhttp.NewHandler(h, "",
		otelhttp.WithTracerProvider(provider),
		otelhttp.WithPropagators(propagator),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()), // the mirror's metrics are its own
	)
}

// annotateSpan completes the span of a request that has ended.
func (e *entry) annotateSpan(span trace.Span, method string, s served) {
	if !span.IsRecording() {
		return
	}
	switch e.op {
	case "": // not in the specification: the span keeps the name of its method
	case OpWrite:
		span.SetName(string(e.op))
	default:
		span.SetName(method + " " + string(e.op))
	}
	for _, a := range []attribute.KeyValue{
		attribute.String("weir.operation", string(e.op)),
		attribute.String("weir.namespace", e.namespace),
		attribute.String("weir.repository", e.repository),
		attribute.String("weir.reference", e.reference),
		attribute.String("weir.cache", cacheLabel(e.outcome.Cache)),
		attribute.String("weir.upstream", e.outcome.Upstream),
	} {
		if a.Value.AsString() != "" {
			span.SetAttributes(a)
		}
	}
	span.SetAttributes(semconv.HTTPResponseBodySize(int(s.bytes))) // otelhttp does not count the bytes that the kernel sends
	if e.err != nil {
		span.RecordError(e.err)
	}
	if s.aborted {
		span.SetAttributes(semconv.HTTPResponseStatusCode(s.status))
		span.SetStatus(codes.Error, "the answer broke off")
	}
}
