package clientconfig

import (
	"fmt"
	"strings"
)

// buildkit makes the file of BuildKit, which uses containerd's code: it sends its
// mirrors the registry in the parameter ns.
func buildkit(m Mirror, namespaces []Namespace) Config {
	var c Config
	namespaces, c.Warnings = selectable("buildkit", m, namespaces)
	var tables []string
	for _, n := range namespaces {
		tables = append(tables, fmt.Sprintf("[registry.%q]\n  mirrors = [%q]\n", n.Host, m.Host))
	}
	// Without TLS, BuildKit needs a setting, or it tries HTTPS.
	if m.Plain {
		tables = append(tables, fmt.Sprintf("[registry.%q]\n  http = true\n", m.Host))
	}
	if m.needsCerts() {
		tables = append(tables, m.buildkitCerts())
	}
	if len(tables) > 0 {
		comment := "# For buildx: docker buildx create --use --buildkitd-config /etc/buildkit/buildkitd.toml\n"
		c.Files = append([]File{{Path: "/etc/buildkit/buildkitd.toml", Content: comment + strings.Join(tables, "\n")}}, m.certs(buildkitDir)...)
		c.Hints = []string{"if there is a buildkitd.toml already, merge this into it; then restart buildkitd, or create a buildx builder with the command in the file"}
	}
	return c
}

// buildkitDir is a directory that buildx copies into its container, since the file
// below names the files in it.
const buildkitDir = "/etc/buildkit/weir"

// buildkitCerts returns the table that makes BuildKit trust the mirror, and the mirror
// BuildKit.
func (m Mirror) buildkitCerts() string {
	text := fmt.Sprintf("[registry.%q]\n", m.Host)
	if m.CA != "" {
		text += fmt.Sprintf("  ca = [%q]\n", buildkitDir+"/"+caName)
	}
	if m.Certificate != "" {
		text += fmt.Sprintf("  [[registry.%q.keypair]]\n    key = %q\n    cert = %q\n", m.Host, buildkitDir+"/"+keyName, buildkitDir+"/"+certificateName)
	}
	return text
}
