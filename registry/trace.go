package registry

import (
	"net/http"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Traced returns the handler with a span around each request of the API. A
// mirror without traces does without it, and so pays nothing for them.
func Traced(h *Handler, provider trace.TracerProvider, propagator propagation.TextMapPropagator) http.Handler {
	return otelhttp.NewHandler(h, "",
		otelhttp.WithTracerProvider(provider),
		otelhttp.WithPropagators(propagator),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()), // the mirror's metrics are its own
		otelhttp.WithFilter(func(r *http.Request) bool { return isAPI(r) }),
	)
}

// isAPI tells the API from probes and scrapes.
func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2") }

// describe completes a span with what is known at the end of its request.
func (e *entry) describe(span trace.Span, method string, s served) {
	if !span.IsRecording() {
		return
	}
	switch e.op {
	case "": // no request of the specification: named after the method alone
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
		attribute.String("weir.cache", e.outcome.Cache.Label()),
		attribute.String("weir.upstream", e.outcome.Upstream),
	} {
		if a.Value.AsString() != "" {
			span.SetAttributes(a)
		}
	}
	span.SetAttributes(semconv.HTTPResponseBodySize(int(s.bytes))) // otelhttp does not see what the kernel sends
	if e.err != nil {
		span.RecordError(e.err)
	}
	if s.aborted {
		span.SetAttributes(semconv.HTTPResponseStatusCode(s.status))
		span.SetStatus(codes.Error, "the answer broke off")
	}
}
