package config

import (
	"cmp"
	"errors"
	"net/url"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
)

// Observability holds the ways in which other systems observe Weir.
type Observability struct {
	Tracing Tracing `toml:"tracing"`
}

// Tracing is the receiver of OpenTelemetry traces. The standard OTEL_* variables of
// the environment count for the keys that are not set.
type Tracing struct {
	Endpoint     Secret   `toml:"endpoint"`      // base URL of an OTLP receiver, which may hold a password
	SamplingRate *float64 `toml:"sampling_rate"` // share of the requests without a traced parent, 0 to 1; nil: not set
}

// EndpointURL returns the base URL of the receiver, or nil if none is configured.
// It returns no error after [Config.Validate]. Errors do not quote the URL, which
// may hold a password.
func (t Tracing) EndpointURL() (*url.URL, error) {
	if t.Endpoint == "" {
		return nil, nil //nolint:nilnil // no endpoint is an answer
	}
	parsed, err := url.Parse(t.Endpoint.Reveal())
	switch {
	case err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Hostname() == "":
		return nil, errors.New(`must be a URL such as "http://otel-collector:4318" (or https), ` +
			"with every / ? # @ % in a password percent-encoded")
	case !hosts.ValidPort(cmp.Or(parsed.Port(), "443")):
		return nil, errors.New("names a port that is not between 1 and 65535")
	case strings.ContainsAny(t.Endpoint.Reveal(), "?#"):
		return nil, errors.New("must end with the host or a path, without ? or #")
	}
	return parsed, nil
}

// redactedEndpoint returns the endpoint without its password.
func (t Tracing) redactedEndpoint() string {
	endpoint, err := t.EndpointURL()
	if err != nil {
		return redacted
	}
	if endpoint == nil {
		return ""
	}
	return redactURL(endpoint)
}

func (v *validator) tracing() {
	t := v.config.Observability.Tracing
	_, err := t.EndpointURL()
	v.failed("observability.tracing.endpoint", err)
	// NaN, which TOML can write, is in no range.
	if rate := t.SamplingRate; rate != nil && !(*rate >= 0 && *rate <= 1) {
		v.fail("observability.tracing.sampling_rate", "must be between 0.0 (none) and 1.0 (all), not %v", *rate)
	}
}
