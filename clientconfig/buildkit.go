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
	// Without TLS, BuildKit must be told; it would try HTTPS.
	if m.Plain {
		tables = append(tables, fmt.Sprintf("[registry.%q]\n  http = true\n", m.Host))
	}
	if len(tables) > 0 {
		comment := "# For buildx: docker buildx create --use --buildkitd-config /etc/buildkit/buildkitd.toml\n"
		c.Files = []File{{"/etc/buildkit/buildkitd.toml", comment + strings.Join(tables, "\n")}}
		c.Hints = []string{"merge this into the buildkitd.toml that you have; then restart buildkitd, or create a builder of buildx as the file says"}
	}
	return c
}
