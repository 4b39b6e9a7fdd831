package app

import (
	"net/url"
	"strings"
	"testing"

	"github.com/weirhq/weir/config"
)

// clearTracing removes the standard variables of the machine that runs the tests.
func clearTracing(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
	} {
		t.Setenv(name, "")
	}
}

func TestTracingTarget(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint string            // of the configuration
		env      map[string]string // OTEL_* without the prefix
		want     string            // protocol, host and URL; "": no traces
	}{
		"nothing":             {"", nil, ""},
		"http":                {"http://collector:4318", nil, "http/protobuf collector:4318 http://collector:4318/v1/traces"},
		"a path":              {"https://collector/otlp/", nil, "http/protobuf collector https://collector/otlp/v1/traces"},
		"the whole path":      {"http://collector/v1/traces", nil, "http/protobuf collector http://collector/v1/traces"},
		"grpc by port":        {"http://collector:4317", nil, "grpc collector:4317 http://collector:4317/v1/traces"},
		"http by variable":    {"http://collector:4317", map[string]string{"EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http/protobuf collector:4317 http://collector:4317/v1/traces"},
		"disabled":            {"http://collector:4318", map[string]string{"SDK_DISABLED": "True"}, ""},
		"no exporter":         {"http://collector:4318", map[string]string{"TRACES_EXPORTER": "none"}, ""},
		"by variable":         {"", map[string]string{"EXPORTER_OTLP_ENDPOINT": "http://other:4318"}, "http/protobuf other:4318"},
		"by its own variable": {"", map[string]string{"EXPORTER_OTLP_ENDPOINT": "http://other", "EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces"}, "http/protobuf traces"},
		"grpc host":           {"", map[string]string{"EXPORTER_OTLP_ENDPOINT": "other:4317", "EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc other:4317"},
		"default of http":     {"", map[string]string{"TRACES_EXPORTER": "otlp"}, "http/protobuf localhost:4318"},
		"default of grpc":     {"", map[string]string{"TRACES_EXPORTER": "otlp", "EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc localhost:4317"},
	} {
		t.Run(name, func(t *testing.T) {
			clearTracing(t)
			for name, value := range c.env {
				t.Setenv("OTEL_"+name, value)
			}
			target, err := tracingTarget(config.Tracing{Endpoint: config.Secret(c.endpoint)})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if target != nil {
				got = target.protocol + " " + target.host
				if target.url != nil {
					got += " " + target.url.String()
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Mistakes in the variables are named without their values, which may hold
// credentials.
func TestTracingTargetErrors(t *testing.T) {
	for want, env := range map[string][2]string{
		`OTEL_TRACES_EXPORTER is "zipkin"`:                     {"OTEL_TRACES_EXPORTER", "zipkin"},
		`OTEL_EXPORTER_OTLP_PROTOCOL is "smoke"`:               {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "smoke"},
		`OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as "h`: {"OTEL_EXPORTER_OTLP_ENDPOINT", "secret@host:4318"},
	} {
		t.Run(env[0], func(t *testing.T) {
			clearTracing(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector")
			t.Setenv(env[0], env[1])
			_, err := tracingTarget(config.Tracing{})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %s", err, want)
			}
		})
	}
}

func TestBasicAuth(t *testing.T) {
	if got := basicAuth(url.UserPassword("reader", "p:w")); got != "Basic cmVhZGVyOnA6dw==" {
		t.Error(got)
	}
}

// Without traces all methods of tracing do nothing.
func TestNoTracing(t *testing.T) {
	clearTracing(t)
	tracing := newTracing(config.Tracing{}, discard())
	if tracing != nil || tracing.downloadTracer() != nil || tracing.handler(nil) == nil {
		t.Errorf("%v", tracing)
	}
	tracing.close(t.Context())
}
