package clientconfig

import (
	"fmt"
	"strings"
)

// podman makes the file of Podman, Buildah and Skopeo.
func podman(m Mirror, namespaces []Namespace) Config {
	return registriesConf(m, namespaces, "podman, buildah and skopeo read it at each pull; for CRI-O: systemctl reload crio")
}

// crio makes the file of CRI-O.
func crio(m Mirror, namespaces []Namespace) Config {
	return registriesConf(m, namespaces, "put it on every node; then: systemctl reload crio")
}

// registriesConf makes the file of the library that Podman, Buildah, Skopeo and CRI-O
// share. It replaces the prefix of a name: docker.io becomes
// mirror.example.com/docker.io.
func registriesConf(m Mirror, namespaces []Namespace, hint string) Config {
	var c Config
	var blocks []string
	for _, n := range namespaces {
		switch prefix := n.prefix(); {
		case prefix == "":
			c.Warnings = append(c.Warnings, m.nameless(n))
		case !n.spellable():
			c.Warnings = append(c.Warnings, n.unspellable())
		default:
			blocks = append(blocks, fmt.Sprintf("[[registry]]\nprefix = %[1]q\nlocation = %[1]q\n\n[[registry.mirror]]\nlocation = %[2]q\n",
				prefix, m.spell(n))+m.insecure())
		}
	}
	// Pulls that name the mirror itself do not match the blocks above.
	if m.Plain {
		blocks = append(blocks, fmt.Sprintf("[[registry]]\nlocation = %q\n", m.Host)+m.insecure())
	}
	if len(blocks) > 0 {
		c.Files = append([]File{{Path: "/etc/containers/registries.conf.d/weir.conf", Content: strings.Join(blocks, "\n")}}, m.certs("/etc/containers/certs.d/"+m.Host)...)
		c.Hints = []string{hint}
	}
	return c
}

// insecure returns the line that allows HTTP, if the mirror has no TLS.
func (m Mirror) insecure() string {
	if m.Plain {
		return "insecure = true\n"
	}
	return ""
}
