package app

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/registry"
)

// flushLimit bounds how long shutdown waits for the last spans. A collector that is
// down must not contain up a restart.
const flushLimit = 3 * time.Second

// tracing sends spans to a receiver. Nothing waits for it: spans that cannot be sent
// soon enough are dropped. A nil *tracing stands for a mirror without traces.
type tracing struct {
	logger     *slog.Logger
	requests   *sdktrace.TracerProvider
	downloads  *sdktrace.TracerProvider // records all: a download is traced if the request that began it is
	propagator propagation.TextMapPropagator
}

// newTracing returns the tracing that the configuration and the standard variables
// ask for, or nil. A mistake in the variables is logged and leaves the mirror
// without traces: pulls matter more.
func newTracing(cfg config.Tracing, logger *slog.Logger) *tracing {
	target, err := tracingTarget(cfg)
	// Tracing is not asked for, which is not a mistake.
	if target == nil && err == nil {
		return nil
	}
	otel.SetLogger(logr.New(otelLog{logger}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("tracing", "error", err) }))
	var exporter sdktrace.SpanExporter
	if err == nil {
		exporter, err = newExporter(context.Background(), target)
	}
	if err != nil {
		logger.Error("tracing is off", "error", err)
		return nil
	}
	described, err := describeProcess(context.Background())
	if err != nil {
		logger.Warn("tracing: the resource attributes are not complete", "error", err)
	}
	// The two providers differ only in their samplers and share one processor.
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithSpanProcessor(sdktrace.NewBatchSpanProcessor(newExportLog(exporter, logger))),
		sdktrace.WithResource(described),
	}
	t := &tracing{
		logger:     logger,
		downloads:  sdktrace.NewTracerProvider(append(options, sdktrace.WithSampler(sdktrace.AlwaysSample()))...),
		propagator: autoprop.NewTextMapPropagator(),
	}
	if cfg.SamplingRate != nil { // otherwise the SDK asks OTEL_TRACES_SAMPLER
		options = append(options, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(*cfg.SamplingRate))))
	}
	t.requests = sdktrace.NewTracerProvider(options...)
	logger.Info("traces are exported", "endpoint", target.host, "protocol", target.protocol)
	return t
}

// newExporter returns an exporter for a target. The standard variables decide the
// rest, such as headers and timeouts. It connects with its first spans.
func newExporter(ctx context.Context, target *target) (sdktrace.SpanExporter, error) {
	if target.protocol == protocolGRPC {
		var options []otlptracegrpc.Option
		if target.url != nil {
			options = append(options, otlptracegrpc.WithEndpointURL(target.url.String()))
		}
		if target.user != nil {
			options = append(options, otlptracegrpc.WithHeaders(map[string]string{"authorization": basicAuth(target.user)}))
		}
		return otlptrace.New(ctx, otlptracegrpc.NewClient(options...))
	}
	var options []otlptracehttp.Option
	if target.url != nil {
		options = append(options, otlptracehttp.WithEndpointURL(target.url.String()))
	}
	if target.user != nil {
		options = append(options, otlptracehttp.WithHeaders(map[string]string{"Authorization": basicAuth(target.user)}))
	}
	return otlptrace.New(ctx, otlptracehttp.NewClient(options...))
}

func basicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// describeProcess returns the attributes of the process that all spans carry. The
// standard variables override them.
func describeProcess(ctx context.Context) (*resource.Resource, error) {
	version, _ := Version()
	return resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("weir"), semconv.ServiceVersion(version)),
		resource.WithFromEnv(),
	)
}

// handler returns h with a span around each request.
func (t *tracing) handler(h *registry.Handler) http.Handler {
	if t == nil {
		return h
	}
	return registry.Traced(h, t.requests, t.propagator)
}

// downloadTracer returns the tracer of downloads, or nil if nothing is traced.
func (t *tracing) downloadTracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.downloads.Tracer("github.com/weirhq/weir/storage")
}

// close sends the spans that are left, within flushLimit, and ends all tracing. A
// second close does nothing.
func (t *tracing) close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	if err := errors.Join(t.requests.Shutdown(ctx), t.downloads.Shutdown(ctx)); err != nil {
		t.logger.Warn("the last spans were not exported in time and are lost", "error", err)
	}
}

// exportLog logs when spans begin to be lost and when they arrive again. A receiver
// that is down fails every batch, and would fill the log with equal lines.
type exportLog struct {
	sdktrace.SpanExporter
	logger *slog.Logger
	lost   *episode.Episode
}

func newExportLog(exporter sdktrace.SpanExporter, logger *slog.Logger) *exportLog {
	const calm = 30 * time.Second // batches are exported every five seconds
	return &exportLog{exporter, logger, episode.New(calm, func() { logger.Info("traces are exported again") })}
}

// ExportSpans exports spans. It returns no error, since the SDK would log it again.
func (e *exportLog) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err == nil:
		e.lost.Good()
	case e.lost.Bad():
		e.logger.Warn("traces cannot be exported and are lost until this works again. Pulls do not depend on them", "error", err)
	}
	return nil
}

// otelLog logs the complaints of the OpenTelemetry SDK about the standard variables.
// It leaves their values out, which may be credentials.
type otelLog struct{ *slog.Logger }

func (l otelLog) Init(logr.RuntimeInfo)          {}
func (l otelLog) Enabled(int) bool               { return false } // only errors are logged
func (l otelLog) Info(int, string, ...any)       {}
func (l otelLog) WithValues(...any) logr.LogSink { return l }
func (l otelLog) WithName(string) logr.LogSink   { return l }
func (l otelLog) Error(_ error, message string, _ ...any) {
	l.Warn("tracing: a setting of an OTEL_* variable is not used, since it cannot be read", "setting", message)
}
