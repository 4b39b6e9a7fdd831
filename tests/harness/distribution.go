package harness

import (
	"fmt"
	"io"
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
	Data string // the directory in which it stores
}

// StartDistribution runs a registry. More is added to the http section of its
// configuration and to its top level. The client must reach the registry, which
// may use TLS.
func StartDistribution(t *testing.T, client *http.Client, scheme, httpMore, topMore string) *Distribution {
	t.Helper()
	addr := testutil.FreeAddr(t)
	log := "log: {accesslog: {disabled: false}, level: warn}"
	data := filepath.Join(t.TempDir(), "data")
	config := writeDistributionConfig(t, data, log, "  addr: "+addr+"\n"+httpMore, topMore)
	d := &Distribution{Daemon: StartDaemon(t, exec.CommandContext(t.Context(), distribution(t), "serve", config)), Addr: addr, Data: data}
	Eventually(t, "the registry answers", func() bool { return Answers(client, scheme+"://"+addr+"/v2/") })
	return d
}

// NewDistribution returns a registry at an address that a test starts, kills
// and starts again. Registries may share a directory of content. More is added
// to the top level of its configuration.
func NewDistribution(t *testing.T, name, addr, data, topMore string) *Process {
	t.Helper()
	program := distribution(t)
	config := writeDistributionConfig(t, data, "log: {accesslog: {disabled: true}, level: error}", "  addr: "+addr, topMore)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: Patience}
	return NewProcess(t, name,
		func() *exec.Cmd { return exec.Command(program, "serve", config) },
		func(io.Reader) bool {
			return Within(Patience, func() bool { return Answers(client, "http://"+addr+"/v2/") })
		})
}

func distribution(t *testing.T) (path string) {
	t.Helper()
	return testutil.Program(t, "docker-registry", "docker-registry")
}

// writeDistributionConfig writes a registry's configuration and returns its
// path.
func writeDistributionConfig(t *testing.T, data, log, http, topMore string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "config.yml")
	WriteFile(t, path, fmt.Sprintf("version: 0.1\n%s\nstorage: {filesystem: {rootdirectory: %q}}\nhttp:\n%s\n%s\n", log, data, http, topMore))
	return path
}

// Answers reports whether a server answers at a URL, with any status.
func Answers(client *http.Client, url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

// Served returns how many requests of a method for a part of a path the
// registry has answered with 200.
func (d *Distribution) Served(method, part string) int {
	return d.Log.Count(`"`+method+` /v2/`, part, `" 200 `)
}
