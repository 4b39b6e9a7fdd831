package tests

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Where one block is for some users only, the root of the API asks for credentials. Programs
// without a login still pull from the open blocks, and are told to log in for the other.
func TestOpenBlockBesideAClosedOne(t *testing.T) {
	t.Parallel()
	skopeo := testutil.Program(t, "skopeo", "skopeo")
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, "[auth]\nanonymous = true\n"+usersOf+blockOf("open", nil, at(r))+blockOf("closed", []string{`allow = ["bob"]`}, at(r)))
	copied := func(block string) (string, error) {
		out, err := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "inspect", "--raw", "--tls-verify=false", "--no-creds",
			"docker://"+w.Addr+"/"+block+"/org/app:v1").CombinedOutput()
		return string(out), err
	}
	if out, err := copied("open"); err != nil || !strings.Contains(out, `"layers"`) {
		t.Errorf("skopeo, the open block: %v: %s", err, out)
	}
	if out, err := copied("closed"); err == nil || !strings.Contains(out, "needs credentials") {
		t.Errorf("skopeo, the closed block: %v: %s", err, out)
	}
	config := filepath.Join(t.TempDir(), "none.toml")
	harness.WriteFile(t, config, "")
	warm := func(block string) (string, error) {
		out, err := exec.CommandContext(t.Context(), harness.Binary(t), "warm", "--config", config, "--url", w.URL, block+"/org/app:v1").CombinedOutput()
		return string(out), err
	}
	if out, err := warm("open"); err != nil {
		t.Errorf("weir warm, the open block: %v: %s", err, out)
	}
	if out, err := warm("closed"); err == nil || !strings.Contains(out, "--username") || strings.Contains(out, "no mirror answers") {
		t.Errorf("weir warm, the closed block: %v: %s", err, out)
	}
}
