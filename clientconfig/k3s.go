package clientconfig

import (
	"fmt"
	"strings"
)

// k3s makes the file of K3s.
func k3s(m Mirror, namespaces []Namespace) Config {
	return registriesYAML("k3s", "/etc/rancher/k3s/registries.yaml", "# RKE2 reads it as /etc/rancher/rke2/registries.yaml\n", m, namespaces,
		"put it on every node; then: systemctl restart k3s (on agents, k3s-agent; for RKE2, rke2-server and rke2-agent)")
}

// rke2 makes the file of RKE2.
func rke2(m Mirror, namespaces []Namespace) Config {
	return registriesYAML("rke2", "/etc/rancher/rke2/registries.yaml", "", m, namespaces,
		"put it on every node; then: systemctl restart rke2-server (on agents, rke2-agent)")
}

// registriesYAML makes the file from which K3s and RKE2 write those of their
// containerd, so the mirror receives the registry in the parameter ns.
func registriesYAML(client, path, comment string, m Mirror, namespaces []Namespace, hint string) Config {
	var c Config
	namespaces, c.Warnings = selectable(client, m, namespaces)
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
	b.WriteString(comment + "mirrors:\n")
	for _, host := range hosts {
		fmt.Fprintf(&b, "  %q:\n    endpoint:\n      - %q\n", host, m.URL)
	}
	if m.needsCerts() {
		dir := strings.TrimSuffix(path, "/registries.yaml") + "/weir"
		fmt.Fprintf(&b, "configs:\n  %q:\n    tls:\n", m.Host)
		if m.CA != "" {
			fmt.Fprintf(&b, "      ca_file: %q\n", dir+"/"+caName)
		}
		if m.Certificate != "" {
			fmt.Fprintf(&b, "      cert_file: %q\n      key_file: %q\n", dir+"/"+certificateName, dir+"/"+keyName)
		}
		c.Files = m.certs(dir)
	}
	c.Files = append([]File{{Path: path, Content: b.String()}}, c.Files...)
	c.Hints = []string{hint}
	return c
}
