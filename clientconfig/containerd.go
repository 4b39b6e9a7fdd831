package clientconfig

import (
	"fmt"
	"net"
	"strings"

	"github.com/weirhq/weir/internal/hosts"
	"github.com/weirhq/weir/oci"
)

// certsD is the directory of containerd with one directory for each registry.
const certsD = "/etc/containerd/certs.d"

// enableCRI says how the kubelet's plugin finds the files. That setting is a hint and
// not a file, because a drop-in would replace the whole section of the CRI plugin in
// containerd 1.
const enableCRI = "the kubelet's plugin reads them if config_path in /etc/containerd/config.toml is their directory and no other one " +
	"(check: containerd config dump | grep config_path). Otherwise set it in the table of your version and run systemctl restart containerd:\n" + `    # containerd 2
    [plugins."io.containerd.cri.v1.images".registry]
      config_path = "` + certsD + `"
    # containerd 1
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "` + certsD + `"`

// containerd makes the files of containerd.
func containerd(m Mirror, namespaces []Namespace) Config {
	return hostsFiles("containerd", m, namespaces, "for ctr, add --hosts-dir "+certsD+"; nerdctl needs no option", enableCRI)
}

// nerdctl makes the files of nerdctl, which are those of containerd. It reads them
// itself, so the CRI plugin's setting does not concern it.
func nerdctl(m Mirror, namespaces []Namespace) Config {
	return hostsFiles("nerdctl", m, namespaces, "each pull of nerdctl reads these files. Rootless, it reads them from ~/.config/containerd/certs.d")
}

// kubernetes makes the files of the kubelet's containerd.
func kubernetes(m Mirror, namespaces []Namespace) Config {
	return hostsFiles("kubernetes", m, namespaces, "put these files on every node that runs containerd. "+
		"For nodes with CRI-O: weir client-config crio; for K3s: weir client-config k3s; for RKE2: weir client-config rke2", enableCRI)
}

// hostsFiles makes the files that containerd's code reads at each pull: one for each
// registry. It sends the registry in the parameter ns. A configuration without files
// has no hints.
func hostsFiles(client string, m Mirror, namespaces []Namespace, hints ...string) Config {
	var c Config
	namespaces, c.Warnings = selectable(client, m, namespaces)
	for _, n := range namespaces {
		c.Files = append(c.Files, m.hosts(n.Host, server(n.Host)))
	}
	// Pulls that name the mirror itself need a file too if it has no TLS.
	if m.Plain {
		c.Files = append(c.Files, m.hosts(m.Host, m.URL))
	}
	// In this form containerd reads them for the mirror's own names by itself.
	c.Files = append(c.Files, m.certs(certsD+"/"+m.Host)...)
	if len(c.Files) > 0 {
		c.Hints = hints
	}
	return c
}

// hosts returns the file for one registry. Containerd asks server if the mirror
// fails; if it is empty, containerd finds the registry by itself.
func (m Mirror) hosts(registry, server string) File {
	var b strings.Builder
	if server != "" {
		fmt.Fprintf(&b, "server = %q\n\n", server)
	}
	fmt.Fprintf(&b, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", m.URL)
	// Relative, so that a rootless client may have the files elsewhere.
	certs := "../" + m.Host + "/"
	if m.CA != "" {
		fmt.Fprintf(&b, "  ca = %q\n", certs+caName)
	}
	if m.Certificate != "" {
		fmt.Fprintf(&b, "  client = [[%q, %q]]\n", certs+certificateName, certs+keyName)
	}
	return File{Path: certsD + "/" + registry + "/hosts.toml", Content: b.String()}
}

// server returns the URL of a registry whose images are named after host. It is
// empty for a registry on this machine, since containerd finds out whether such a
// registry has HTTPS.
func server(host string) string {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	switch {
	case host == oci.DockerHub:
		return "https://registry-1.docker.io"
	case hosts.Loopback(strings.Trim(name, "[]")):
		return ""
	default:
		return "https://" + host
	}
}
