package clientconfig

import (
	"fmt"
	"strings"
)

// k3s makes the file of K3s and RKE2. They write the files of their containerd from
// it, so the mirror receives the registry in the parameter ns.
func k3s(m Mirror, namespaces []Namespace) Config {
	var c Config
	namespaces, c.Warnings = selectable("k3s", m, namespaces)
	var hosts []string
	for _, n := range namespaces {
		hosts = append(hosts, n.Host)
	}
	// Pulls that name the mirror itself need the endpoint too, for its http://.
	if m.Plain {
		hosts = append(hosts, m.Host)
	}
	if len(hosts) == 0 {
		return c
	}
	var b strings.Builder
	b.WriteString("# RKE2 reads it as /etc/rancher/rke2/registries.yaml\nmirrors:\n")
	for _, host := range hosts {
		fmt.Fprintf(&b, "  %q:\n    endpoint:\n      - %q\n", host, m.URL)
	}
	c.Files = []File{{"/etc/rancher/k3s/registries.yaml", b.String()}}
	c.Hints = []string{"put it on every node; then: systemctl restart k3s (on agents k3s-agent; of RKE2 rke2-server and rke2-agent)"}
	return c
}
