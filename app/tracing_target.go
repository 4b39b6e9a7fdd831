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

// target is the receiver of traces.
type target struct {
	protocol string
	host     string        // for the log
	url      *url.URL      // nil: the standard variables have it
	user     *url.Userinfo // nil: no credentials
}

// tracingTarget returns the receiver that the configuration names, or else the
// standard variables, or nil if neither does. Its errors quote no URL, which may
// hold credentials.
func tracingTarget(cfg config.Tracing) (*target, error) {
	configured, err := cfg.EndpointURL()
	if err != nil {
		return nil, err
	}
	// The variable wins over the configuration: it is how an operator switches
	// tracing off for one start.
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
		// The port of gRPC says enough: the other protocol would only fail there.
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

// fromEnv sets the host of a target that the standard variables name. The exporter
// reads the rest of them.
func (t *target) fromEnv() error {
	raw := envEndpoint()
	parsed, err := url.Parse(raw)
	switch {
	case raw == "" && t.protocol == protocolGRPC:
		t.host = "localhost:" + portOfGRPC
	case raw == "":
		t.host = "localhost:4318"
	// The variable may hold credentials, so only its host is shown.
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

// env returns a variable of the environment. An empty one counts as not set, as the
// OpenTelemetry specification has it.
func env(name string) string { return strings.TrimSpace(os.Getenv(name)) }
