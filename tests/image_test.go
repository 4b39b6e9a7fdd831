package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// make image works with an engine that can pull nothing, and the image has the
// user, the health check and the volume that an operator expects.
func TestContainerImage(t *testing.T) {
	d := harness.StartDocker(t, `{}`)
	makeImage := exec.CommandContext(t.Context(), "make", "-C", "..", "image", "IMAGE=weir:test")
	makeImage.Env = append(os.Environ(), "DOCKER_HOST="+d.Socket)
	harness.Run(t, makeImage)

	var images []struct {
		Config struct {
			User        string
			Entrypoint  []string
			Cmd         []string
			Healthcheck struct{ Test []string }
			Volumes     map[string]struct{}
		}
	}
	harness.Must(t, json.Unmarshal([]byte(harness.Run(t, d.Command("image", "inspect", "weir:test"))), &images))
	config := images[0].Config
	if config.User != "65532:65532" {
		t.Errorf("it runs as %q, want a user without privileges", config.User)
	}
	if want := []string{"CMD", "/weir", "healthcheck"}; !slices.Equal(config.Healthcheck.Test, want) {
		t.Errorf("its health check is %q, want %q", config.Healthcheck.Test, want)
	}
	if !slices.Equal(append(config.Entrypoint, config.Cmd...), []string{"/weir", "serve"}) {
		t.Errorf("it runs %q %q", config.Entrypoint, config.Cmd)
	}
	if _, ok := config.Volumes["/var/lib/weir"]; !ok {
		t.Errorf("its volumes are %v, want /var/lib/weir", config.Volumes)
	}

	// Without any network, so on the port of the image's own configuration.
	harness.Run(t, d.Command("run", "--detach", "--name", "mirror", "--network", "none", "--health-interval", "1s", "weir:test"))
	state := func(format string) string {
		return strings.TrimSpace(harness.Run(t, d.Command("inspect", "--format", format, "mirror")))
	}
	harness.Eventually(t, "the container is healthy", func() bool {
		return state("{{.State.Status}} {{.State.Health.Status}}") == "running healthy"
	})
	harness.Run(t, d.Command("stop", "mirror"))
	if code := state("{{.State.ExitCode}}"); code != "0" {
		t.Errorf("stopped, it ends with %s\n%s", code, harness.Run(t, d.Command("logs", "mirror")))
	}
	harness.Run(t, d.Command("rm", "--volumes", "mirror"))
}

// The image has no certificates of authorities but those in the binary.
func TestBinaryBringsAuthorities(t *testing.T) {
	out := harness.Run(t, exec.CommandContext(t.Context(), "go", "version", "-m", harness.Binary(t)))
	if !strings.Contains(out, "golang.org/x/crypto/x509roots/fallback") {
		t.Errorf("the binary is built without x509roots/fallback:\n%s", out)
	}
}
