package app

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/weirhq/weir/config"
)

// The values of OTEL_EXPORTER_OTLP_PROTOCOL. Collectors listen for the first on
// port 4317, for the other on 4318.
const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"

	portOfGRPC = "4317"
	tracesPath = "/v1/traces"
)

// target is where traces go, and how.
type target struct {
	protocol string
	host     string        // for people
	url      *url.URL      // nil: that of the standard variables
	user     *url.Userinfo // nil: nobody
}

// tracingTarget returns where the configuration or else the standard variables
// send traces, or nil where they go nowhere. Its errors quote no URL, which may
// hold credentials.
func tracingTarget(cfg config.Tracing) (*target, error) {
	configured, err := cfg.EndpointURL()
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") {
		return nil, nil //nolint:nilnil // traces go nowhere
	}
	switch exporter := env("OTEL_TRACES_EXPORTER"); {
	case exporter == "none", exporter == "" && configured == nil && envEndpoint() == "":
		return nil, nil //nolint:nilnil // traces go nowhere
	case exporter != "" && exporter != "otlp":
		return nil, fmt.Errorf(`OTEL_TRACES_EXPORTER is %q: set it to "otlp" or "none"`, exporter)
	}
	t := &target{protocol: cmp.Or(env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), env("OTEL_EXPORTER_OTLP_PROTOCOL"))}
	if t.protocol == "" {
		t.protocol = protocolHTTP
		if configured != nil && configured.Port() == portOfGRPC {
			t.protocol = protocolGRPC
		}
	}
	switch t.protocol {
	case protocolGRPC, protocolHTTP:
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q: set it to %q or %q", t.protocol, protocolHTTP, protocolGRPC)
	}
	if configured == nil {
		return t, t.fromEnv()
	}
	t.host, t.user = configured.Host, configured.User
	t.url = &url.URL{Scheme: configured.Scheme, Host: configured.Host, Path: configured.Path}
	if path := strings.TrimSuffix(configured.Path, "/"); !strings.HasSuffix(path, tracesPath) {
		t.url.Path = path + tracesPath
	}
	return t, nil
}

// fromEnv completes a target that is left to the standard variables.
func (t *target) fromEnv() error {
	raw := envEndpoint()
	parsed, err := url.Parse(raw)
	switch {
	case raw == "" && t.protocol == protocolGRPC:
		t.host = "localhost:" + portOfGRPC
	case raw == "":
		t.host = "localhost:4318"
	case err == nil && parsed.Host != "":
		t.host = parsed.Host
	case err == nil && t.protocol == protocolGRPC: // host:port, as gRPC has it
		t.host = raw
	default:
		return fmt.Errorf(`OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as "http://otel-collector:4318"`)
	}
	return nil
}

func envEndpoint() string {
	return cmp.Or(env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), env("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

// env returns a variable of the environment, as the OpenTelemetry specification
// reads it: an empty one is not set.
func env(name string) string { return strings.TrimSpace(os.Getenv(name)) }
