package config

import (
	"slices"
	"strings"
	"testing"
)

func TestTracing(t *testing.T) {
	if c := mustLoad(t, docker); c.Observability.Tracing != (Tracing{}) {
		t.Errorf("the default is %+v", c.Observability.Tracing)
	}
	for text, rate := range map[string]float64{"0.25": 0.25, "0": 0, "1": 1, "1.0": 1, "1e-3": 0.001} {
		c := mustLoad(t, "[observability.tracing]\nendpoint = \"http://otel-collector:4318\"\nsampling_rate = "+text+docker)
		if err := c.Validate(); err != nil || len(c.Warnings()) > 0 {
			t.Errorf("%s: %v, %q", text, err, c.Warnings())
		}
		tracing := c.Observability.Tracing
		if tracing.SamplingRate == nil || *tracing.SamplingRate != rate {
			t.Errorf("%s is read as %v", text, tracing.SamplingRate)
		}
		if endpoint, err := tracing.EndpointURL(); err != nil || endpoint.Host != "otel-collector:4318" {
			t.Errorf("endpoint %v, %v", endpoint, err)
		}
		if d := diff(c, mustLoad(t, effective(t, c))); d != "" {
			t.Errorf("%s comes back different: %s", text, d)
		}
	}
}

func TestTracingProblems(t *testing.T) {
	const at = "config.toml:2: observability.tracing."
	for text, want := range map[string]string{
		`sampling_rate = 1.1`:                       at + "sampling_rate: must be between 0.0 (none) and 1.0 (all), not 1.1",
		`sampling_rate = -1`:                        at + "sampling_rate: must be between 0.0 (none) and 1.0 (all), not -1",
		`sampling_rate = nan`:                       at + "sampling_rate: must be between 0.0 (none) and 1.0 (all), not NaN",
		`sampling_rate = "0.5"`:                     at + "sampling_rate: must be a number, not a string",
		`sample_rate = 0.5`:                         at + `sample_rate: unknown key; did you mean "sampling_rate"?`,
		`endpoint = "collector:4318"`:               at + `endpoint: must be a URL such as "http://otel-collector:4318"`,
		`endpoint = "grpc://collector:4317"`:        at + `endpoint: must be a URL such as "http://otel-collector:4318"`,
		`endpoint = "http://u:ti%ger@collector"`:    at + `endpoint: must be a URL such as "http://otel-collector:4318"`,
		`endpoint = "http://u:tiger@"`:              at + `endpoint: must be a URL such as "http://otel-collector:4318"`,
		`endpoint = "http://collector:0"`:           at + "endpoint: names a port that is not between 1 and 65535",
		`endpoint = "http://collector?token=tiger"`: at + "endpoint: must end with the host or a path, without ? or #",
	} {
		got := problemsOf(t, "[observability.tracing]\n"+text+docker)
		if !strings.HasPrefix(got, want) || strings.Contains(got, "tiger") {
			t.Errorf("%s:\n%s, want\n%s", text, got, want)
		}
	}
}

// Other keys of observability, which Angos has, are ignored with a warning.
func TestOtherObservability(t *testing.T) {
	c := mustLoad(t, "[observability]\nx = 1\n[observability.metrics]\ny = 1\n"+docker)
	got := strings.Join(c.Warnings(), "\n")
	if !strings.Contains(got, "ignored: observability.metrics (") || !strings.Contains(got, "observability.x (") {
		t.Errorf("warnings %q", got)
	}
}

func TestTracingEndpointIsASecret(t *testing.T) {
	c := mustLoad(t, "[observability.tracing]\nendpoint = \"https://user:tiger@collector/base\"\n"+docker)
	printed := effective(t, c)
	if strings.Contains(printed, "tiger") || !strings.Contains(printed, "[observability.tracing]\nendpoint = \"https://user:redacted@collector/base\"\n") {
		t.Errorf("printed:\n%s", printed)
	}
	if d := diff(withoutSecrets(c), withoutSecrets(mustLoad(t, printed))); d != "" {
		t.Errorf("comes back different: %s", d)
	}
	file := write(t, "endpoint", "http://user:tiger@collector\n")
	c = mustLoad(t, "[observability.tracing]\nendpoint_file = \""+file+"\"\n"+docker)
	if endpoint, err := c.Observability.Tracing.EndpointURL(); err != nil || endpoint.User.String() != "user:tiger" {
		t.Errorf("from a file: %v, %v", endpoint, err)
	}
	if !slices.Contains(c.Files(), file) {
		t.Error("the file of the endpoint is not watched")
	}
}

func TestTracingNeedsARestart(t *testing.T) {
	table := "[observability.tracing]\n"
	for _, tt := range []struct {
		old, new string
		want     []string
	}{
		{"", table + "endpoint = \"http://a\"\nsampling_rate = 1\n", []string{"observability.tracing.endpoint", "observability.tracing.sampling_rate"}},
		{table + "sampling_rate = 0.5\n", table + "sampling_rate = 0.25\n", []string{"observability.tracing.sampling_rate"}},
		{table + "sampling_rate = 0.5\n", table + "sampling_rate = 0.5\n", nil},
	} {
		if got := RestartRequired(mustLoad(t, tt.old), mustLoad(t, tt.new)); !slices.Equal(got, tt.want) {
			t.Errorf("from %q to %q: %q, want %q", tt.old, tt.new, got, tt.want)
		}
	}
}
