package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

func TestClientConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "any-port.toml"), "[server]\nport = 0\n")
	for args, want := range map[string]struct {
		code           int
		stdout, stderr string // how they begin; empty: nothing is printed
	}{
		"docker":     {0, "{\n", "warning: clients can reach http://127.0.0.1:8000 only from this machine"},
		"podman":     {0, "[[registry]]\n", "warning: "},
		"containerd": {0, "# /etc/containerd/certs.d/docker.io/hosts.toml\nserver = ", "warning: "},
		"k3s --url https://mirror.example.com --dir new": {0, "new/etc/rancher/k3s/registries.yaml\n", "hint: put it on every node"},
		"docker --config any-port.toml":                  {2, "", "weir: --url is missing, and server.bind_address"},
		"skopeo":                                         {0, "[[registry]]\n", "warning: "},
		"crane":                                          {0, "", "warning: clients can reach "},
		"crame":                                          {2, "", `weir: unknown client "crame"; did you mean crane? known are docker, containerd, `},
		"--help":                                         {0, "Print the files that make a client pull through this mirror", ""},
	} {
		got := command(t, dir, append([]string{"client-config"}, strings.Fields(args)...)...)
		if got.code != want.code || !strings.HasPrefix(got.stdout, want.stdout) || !strings.HasPrefix(got.stderr, want.stderr) ||
			(got.stdout == "") != (want.stdout == "") || (got.stderr == "") != (want.stderr == "") {
			t.Errorf("weir client-config %s: %+v, want %+v", args, got, want)
		}
	}
	// One file can be redirected into its place.
	got := command(t, dir, "client-config", "docker", "--url", "http://mirror.example.com:8000")
	if !json.Valid([]byte(got.stdout)) || !strings.Contains(got.stderr, "file: /etc/docker/daemon.json\n") {
		t.Errorf("not the content of daemon.json: %+v", got)
	}
	harness.WriteFile(t, filepath.Join(dir, "new/etc/rancher/k3s/registries.yaml"), "mirrors: {}\n")
	got = command(t, dir, "client-config", "k3s", "--url", "https://mirror.example.com", "--dir", "new")
	if got.code != 1 || !strings.Contains(got.stderr, "\n  new/etc/rancher/k3s/registries.yaml\n") {
		t.Errorf("a file of the operator's: %+v", got)
	}
}

// Keys that are no host, that lie within each other, and a registry with a port:
// each image comes through the block that stands for it.
func TestClientConfigOfManyKinds(t *testing.T) {
	skopeo := testutil.Program(t, "skopeo", "skopeo")
	d := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	app := harness.NewImage(t, 1000)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr}
	push.PushIndex(t, "org/app", "1.2", map[string]*harness.Image{"amd64": app})
	w := harness.StartWeir(t, fmt.Sprintf(`
[repository."hub"]
namespace = "index.docker.io"
[[repository."hub".upstream]]
url = "http://%[1]s"
[[repository."ghcr.io".upstream]]
url = "http://%[1]s"
[[repository."ghcr.io/acme".upstream]]
url = "http://%[1]s/org"
[repository."local"]
namespace = "localhost:5000"
[[repository."local".upstream]]
url = "http://%[1]s"
`, d.Addr))
	conf := filepath.Join(w.ClientConfig(t, "podman"), "etc/containers/registries.conf.d/weir.conf")
	for name, repository := range map[string]string{
		"docker.io/org/app":          "hub/org/app",
		"ghcr.io/org/app":            "ghcr.io/org/app",
		"ghcr.io/acme/app":           "ghcr.io/acme/app",
		"localhost:5000/org/app":     "local/org/app",
		w.Addr + "/local/org/app":    "local/org/app",
		w.Addr + "/ghcr.io/acme/app": "ghcr.io/acme/app",
	} {
		before := w.Log.Count(`"repository":"`+repository+`"`, `"status":200`)
		harness.Run(t, exec.CommandContext(t.Context(), skopeo, "--registries-conf", conf, "copy", "--override-arch", "amd64",
			"docker://"+name+":1.2", "dir:"+t.TempDir()))
		if w.Log.Count(`"repository":"`+repository+`"`, `"status":200`) == before {
			t.Errorf("%s did not come through %s", name, repository)
		}
	}
}
