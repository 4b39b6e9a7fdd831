package harness

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// Distribution is a real registry: Debian's docker-registry.
type Distribution struct {
	*Daemon
	Addr string
}

// StartDistribution runs a registry. More is added to the http section of its
// configuration and to its top level; client is what reaches it.
func StartDistribution(t *testing.T, client *http.Client, scheme, httpMore, topMore string) *Distribution {
	t.Helper()
	path := testutil.Program(t, "docker-registry", "docker-registry")
	dir := t.TempDir()
	addr := FreeAddr(t)
	config := filepath.Join(dir, "config.yml")
	WriteFile(t, config, fmt.Sprintf(`version: 0.1
log: {accesslog: {disabled: false}, level: warn}
storage: {filesystem: {rootdirectory: %q}}
http:
  addr: %s
%s
%s
`, filepath.Join(dir, "data"), addr, httpMore, topMore))
	d := &Distribution{Daemon: StartDaemon(t, exec.CommandContext(t.Context(), path, "serve", config)), Addr: addr}
	Eventually(t, "the registry answers", func() bool {
		resp, err := client.Get(scheme + "://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return d
}

// Served returns how many requests of a method for a part of a path the
// registry has answered with 200.
func (d *Distribution) Served(method, part string) int {
	return d.Log.Count(`"`+method+` /v2/`, part, `" 200 `)
}
