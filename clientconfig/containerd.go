package clientconfig

import (
	"fmt"
	"strings"
)

// certsD is where containerd looks for a directory named after a registry.
const certsD = "/etc/containerd/certs.d"

// containerd reads one file for each registry, and tells the mirror in its
// parameter ns which registry it means. The files are read at each pull. That
// they are read at all is a setting of config.toml, of which no drop-in can be
// made: containerd 1 replaces everything that config.toml says about the CRI
// plugin by what a drop-in says.
func containerd(m Mirror, namespaces []Namespace) Config {
	var c Config
	namespaces, c.Warnings = selectable("containerd", m, namespaces)
	for _, n := range namespaces {
		c.Files = append(c.Files, m.hosts(n.Host, server(n.Host)))
	}
	if m.Plain {
		c.Files = append(c.Files, m.hosts(m.Host, m.URL))
	}
	if len(c.Files) == 0 {
		return c
	}
	c.Hints = []string{
		"ctr reads these files with --hosts-dir " + certsD + ", nerdctl as they are",
		"the kubelet's plugin reads them once /etc/containerd/config.toml names their directory, and that one alone, as its config_path " +
			"(see: containerd config dump | grep config_path). Otherwise set it there, in the table of your version, then: systemctl restart containerd\n" +
			indent(`# containerd 2
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "`+certsD+`"
# containerd 1
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "`+certsD+`"`),
	}
	return c
}

// hosts is the file for one registry. An empty server leaves it to containerd
// where it goes when the mirror fails.
func (m Mirror) hosts(registry, server string) File {
	var b strings.Builder
	if server != "" {
		fmt.Fprintf(&b, "server = %q\n\n", server)
	}
	fmt.Fprintf(&b, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", m.URL)
	return File{certsD + "/" + registry + "/hosts.toml", b.String()}
}

// server is where a registry is to be found that is called host in the names of
// images. Of this machine's own registries containerd finds out by itself
// whether they speak HTTPS.
func server(host string) string {
	name, _, _ := strings.Cut(host, ":")
	switch {
	case host == dockerHub:
		return "https://registry-1.docker.io"
	case name == "localhost" || strings.HasPrefix(name, "127.") || strings.HasPrefix(host, "[::1]"):
		return ""
	default:
		return "https://" + host
	}
}

func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }
