package clientconfig

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/weirhq/weir/oci"
)

// daemonJSON is the part of Docker's configuration that concerns mirrors.
type daemonJSON struct {
	RegistryMirrors    []string `json:"registry-mirrors,omitempty"`
	InsecureRegistries []string `json:"insecure-registries,omitempty"`
}

// docker makes the file of Docker Engine. Docker asks its mirrors only for images
// of Docker Hub, by names without a registry, such as library/nginx. The default
// namespace answers those. A namespace with the key library answers only official
// images.
func docker(m Mirror, namespaces []Namespace) Config {
	var c Config
	var daemon daemonJSON
	mirrors, warning := answersDockerHub(namespaces)
	if warning != "" {
		c.Warnings = append(c.Warnings, warning)
	}
	if mirrors {
		daemon.RegistryMirrors = []string{m.URL}
	}
	if m.Plain {
		daemon.InsecureRegistries = []string{m.Host}
	}
	if mirrors || m.Plain {
		content, err := json.MarshalIndent(daemon, "", "  ")
		if err != nil {
			panic(err) // strings can always be marshalled
		}
		c.Files = []File{{Path: "/etc/docker/daemon.json", Content: string(content) + "\n"}}
		c.Hints = append(c.Hints, "if there is a daemon.json already, merge this into it; then: systemctl reload docker")
	}
	c.Files = append(c.Files, m.certs("/etc/docker/certs.d/"+m.Host)...)
	var named []string
	for _, n := range namespaces {
		switch {
		// Images of Docker Hub need no prefix.
		case n.Host == oci.DockerHub || n.Key == "library":
		case n.spellable():
			named = append(named, m.spell(n)+"/...")
		default:
			c.Warnings = append(c.Warnings, n.unspellable())
		}
	}
	if len(named) > 0 {
		c.Hints = append(c.Hints, "for images of registries other than Docker Hub, name the mirror: docker pull "+strings.Join(named, ", "))
	}
	return c
}

// answersDockerHub reports whether the mirror answers names without a registry with
// images of Docker Hub. The warning, if any, says how to change that.
func answersDockerHub(namespaces []Namespace) (ok bool, warning string) {
	if i := slices.IndexFunc(namespaces, func(n Namespace) bool { return n.Default }); i >= 0 {
		registry := namespaces[i].prefix()
		// A default block without a registry is taken for Docker Hub's: nothing
		// contradicts it.
		if registry == "" || registry == oci.DockerHub || strings.HasPrefix(registry, oci.DockerHub+"/") {
			return true, ""
		}
		return false, fmt.Sprintf("registry-mirrors is left out, because docker would mistake images of repository.%q, the default block, for those of Docker Hub. "+
			"Make the repository block of Docker Hub the default", namespaces[i].Key)
	}
	if slices.ContainsFunc(namespaces, func(n Namespace) bool { return n.Key == "library" }) {
		return true, "docker only gets official images through the mirror, from repository.\"library\". " +
			"Set default = true in the repository block of Docker Hub for all others"
	}
	return false, "registry-mirrors is left out, because docker asks a mirror for short names such as library/nginx, and no repository block answers those. " +
		"Set default = true in the block of Docker Hub"
}
