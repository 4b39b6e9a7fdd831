package tests

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The page's nginx, but for addresses and paths, speaks TLS in front of the
// mirror.
func TestBehindNginx(t *testing.T) {
	t.Parallel()
	nginx := testutil.Program(t, "nginx", "nginx-light")
	upstream := upstreamtest.New(t)
	blob := addRandom(t, upstream, "org/app", mib, 1)
	w := harness.StartWeir(t, block("ghcr.io", upstream))
	server := readPage(t, "../docs/deployment.md").code("nginx")[0]
	dir := harness.SocketDir(t, "nginx-")
	addr := testutil.FreeAddr(t)
	ca := newAuthority(t)
	certificate, key := ca.issue(t, "nginx")
	config := strings.NewReplacer("listen 443 ", "listen "+addr+" ", "/etc/ssl/mirror.crt", certificate, "/etc/ssl/mirror.key", key,
		"127.0.0.1:8000", w.Addr).Replace(server)
	file := filepath.Join(dir, "nginx.conf")
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s;\n", kind, dir)
	}
	harness.WriteFile(t, file, fmt.Sprintf("user root;\ndaemon off;\nworker_processes 1;\npid %[1]s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n%[2]s%[3]s}\n", dir, temporary, config))
	harness.StartDaemon(t, exec.CommandContext(t.Context(), nginx, "-c", file, "-p", dir, "-e", "stderr"))

	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	harness.Eventually(t, "nginx answers", func() bool {
		resp, err := client.Get("https://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	for range 2 { // cold and warm
		resp, err := client.Get("https://" + addr + blobPath("ghcr.io/org/app", blob))
		harness.Must(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || digest.FromBytes(body) != blob {
			t.Errorf("%d bytes through nginx: %v", len(body), err)
		}
	}
}
