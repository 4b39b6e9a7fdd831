package clients

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// Charts are artifacts, which helm finds by a version, which is a tag, or by a
// digest.
func TestHelm(t *testing.T) {
	helm := harness.Tool(t, "helm", "helm")
	m := startMirror(t)
	dir := t.TempDir()
	run := func(args ...string) string {
		cmd := m.command(t, helm, args...)
		cmd.Dir, cmd.Env = dir, append(cmd.Env, "HOME="+dir)
		return harness.Run(t, cmd)
	}
	run("create", "app")
	for version, repository := range map[string]string{"1.2.3": "ghcr.io/org/by-tag", "1.2.4": "quay.io/org/by-digest"} {
		run("package", "app", "--version", version)
		packed, err := os.ReadFile(filepath.Join(dir, "app-"+version+".tgz"))
		harness.Must(t, err)
		pushed := run("push", "--plain-http", "app-"+version+".tgz", "oci://"+m.upstream.Addr+"/"+repository)
		chart, tag, which := repository+"/app", version, []string{"--version", version}
		name := "oci://" + m.Addr + "/" + chart
		if strings.HasSuffix(repository, "/by-digest") {
			name, tag, which = name+"@"+regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(pushed), "", nil
		}
		m.coldThenWarm(t, chart, tag, 1, 2, func() {
			out := t.TempDir()
			run(append([]string{"pull", "--plain-http", "--destination", out, name}, which...)...)
			files, err := filepath.Glob(filepath.Join(out, "*.tgz"))
			harness.Must(t, err)
			if len(files) != 1 {
				t.Fatalf("%s: helm wrote %q", name, files)
			}
			got, err := os.ReadFile(files[0])
			harness.Must(t, err)
			if !bytes.Equal(got, packed) {
				t.Errorf("%s: the chart came with %d bytes, want %d", name, len(got), len(packed))
			}
		})
	}
}
