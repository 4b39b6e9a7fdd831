package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// make image works with an engine that can pull nothing, and what it makes is
// what an operator expects of an image.
func TestContainerImage(t *testing.T) {
	d := startDocker(t, `{}`)
	makeImage := exec.CommandContext(t.Context(), "make", "-C", "..", "image", "IMAGE=weir:test")
	makeImage.Env = append(os.Environ(), "DOCKER_HOST="+d.socket)
	run(t, makeImage)

	var images []struct {
		Config struct {
			User        string
			Entrypoint  []string
			Cmd         []string
			Healthcheck struct{ Test []string }
			Volumes     map[string]struct{}
		}
	}
	must(t, json.Unmarshal([]byte(run(t, d.command("image", "inspect", "weir:test"))), &images))
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

	// The engine of a test need not be able to run containers, so the image's
	// files are run as its user here, in a root of their own.
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	must(t, os.Chmod(filepath.Dir(root), 0o755))
	container := strings.TrimSpace(run(t, d.command("create", "weir:test")))
	archive := filepath.Join(t.TempDir(), "image.tar")
	run(t, d.command("export", "--output", archive, container))
	run(t, exec.CommandContext(t.Context(), "tar", "-C", root, "-xpf", archive))
	out := run(t, exec.CommandContext(t.Context(), "chroot", "--userspec=65532:65532", root, "/weir", "check"))
	for _, want := range []string{`bind_address = "0.0.0.0"`, `root_dir = "/var/lib/weir"`, `[repository."docker.io"]`} {
		if !strings.Contains(out, want) {
			t.Errorf("weir check in the image does not print %s:\n%s", want, out)
		}
	}
}
