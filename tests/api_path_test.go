package tests

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// A real registry stands behind nginx below a path, as those of Artifactory and Nexus
// do, and nginx asks for a password there.
func TestRegistryBelowAPath(t *testing.T) {
	t.Parallel()
	nginx := testutil.Program(t, "nginx", "nginx-light")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: harness.Patience}
	d := harness.StartDistribution(t, client, "http", "", "")
	image := harness.NewImage(t, kib)
	pusher := &harness.Pusher{Client: client, Base: "http://" + d.Addr}
	pusher.PushImage(t, "library/app", "v1", image)
	dir, addr := harness.SocketDir(t, "path-"), testutil.FreeAddr(t)
	file, passwords := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "passwords")
	harness.WriteFile(t, passwords, username+":{PLAIN}"+password+"\n")
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s;\n", kind, dir)
	}
	harness.WriteFile(t, file, fmt.Sprintf(`user root;
daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr;
events {}
http {
access_log %[1]s/access.log;
%[2]s
server {
  listen %[3]s;
  location /artifactory/api/docker/hub/ {
    auth_basic "hub";
    auth_basic_user_file %[4]s;
    proxy_set_header Authorization "";
    proxy_pass http://%[5]s/;
  }
}
}
`, dir, temporary, addr, passwords, d.Addr))
	harness.StartDaemon(t, exec.CommandContext(t.Context(), nginx, "-c", file, "-p", dir, "-e", "stderr"))
	harness.Eventually(t, "nginx answers", func() bool { return harness.Answers(client, "http://"+addr+"/") })

	upstream := []string{fmt.Sprintf("url = %q\napi_path = %q\nusername = %q\npassword = %q", "http://"+addr, "/artifactory/api/docker/hub/", username, password)}
	w := harness.StartWeir(t, blockOf("docker.io", []string{"default = true"}, upstream))
	for _, path := range []string{"/v2/app/manifests/v1?ns=docker.io", blobPath("docker.io/app", digest.FromBytes(image.Config)), "/v2/docker.io/library/app/tags/list"} {
		expect(t, path, w.Get(t, path), http.StatusOK, "")
	}
	checked := command(t, t.TempDir(), "check", "--online", "--config", w.Config, "--image", "docker.io/app:v1")
	if checked.code != 0 || !strings.Contains(checked.stdout, "ok") {
		t.Errorf("check: %d\n%s%s", checked.code, checked.stdout, checked.stderr)
	}
	// Without api_path the path is that of a name, and nginx has no such page.
	for _, url := range []string{"http://" + addr + "/v2/", "http://" + addr + "/artifactory/api/docker/hub/v2/"} {
		dir := t.TempDir()
		config := filepath.Join(dir, "weir.toml")
		harness.WriteFile(t, config, blockOf("docker.io", nil, []string{fmt.Sprintf("url = %q", url)}))
		refused := command(t, dir, "check", "--config", config)
		if want := fmt.Sprintf("write url = %q", "http://"+addr); refused.code != 2 || !strings.Contains(refused.stderr, want) {
			t.Errorf("check of %s: %d\n%s", url, refused.code, refused.stderr)
		}
	}
}
