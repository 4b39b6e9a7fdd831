package clients

import (
	"context"
	"net"
	"net/http"
	"os/exec"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// startOlareg runs a registry that has the referrers API, unless the options say
// otherwise, until stop is called or the test ends.
func startOlareg(t *testing.T, options ...string) (addr string, stop func()) {
	t.Helper()
	olareg := harness.Tool(t, "clients", "olareg")
	addr = testutil.FreeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	harness.Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	harness.StartDaemon(t, exec.CommandContext(ctx, olareg,
		append([]string{"serve", "--store-type", "mem", "--addr", host, "--port", port, "--api-delete", "--api-blob-delete"}, options...)...))
	answers := func() bool { return harness.Answers(http.DefaultClient, "http://"+addr+"/v2/") }
	harness.Eventually(t, "the registry answers", answers)
	return addr, func() {
		cancel()
		harness.Eventually(t, "the registry ends", func() bool { return !answers() })
	}
}
