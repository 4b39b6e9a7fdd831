package clientconfig

import (
	"fmt"
	"strings"
)

// The clients of this file read no file that names mirrors. For most of them the
// mirror is a part of each image's name, so their configuration consists of hints.

// crane makes the hints about crane.
func crane(m Mirror, namespaces []Namespace) Config {
	return naming("crane", "crane manifest ", "--insecure ", "", ":TAG", m, namespaces)
}

// oras makes the hints about oras.
func oras(m Mirror, namespaces []Namespace) Config {
	return naming("oras", "oras pull ", "--plain-http ", "", ":TAG", m, namespaces)
}

// helm makes the hints about Helm.
func helm(m Mirror, namespaces []Namespace) Config {
	return naming("helm", "helm pull ", "--plain-http ", "oci://", " --version VERSION", m, namespaces)
}

// cosign makes the hints about cosign.
func cosign(m Mirror, namespaces []Namespace) Config {
	return naming("cosign", "cosign verify --key cosign.pub ", "--allow-http-registry ", "", ":TAG", m, namespaces)
}

// naming makes the hints about a client that takes the mirror in the names of images
// only. The flag plain allows HTTP; scheme goes before a name, and version after it.
func naming(client, command, plain, scheme, version string, m Mirror, namespaces []Namespace) Config {
	var c Config
	var named []string
	for _, n := range namespaces {
		if n.spellable() {
			named = append(named, m.spell(n)+"/...")
		} else {
			c.Warnings = append(c.Warnings, n.unspellable())
		}
	}
	if len(named) == 0 {
		return c
	}
	if m.Plain {
		command += plain
	}
	c.Hints = []string{fmt.Sprintf("%s has no file for mirrors: begin the names of images with the mirror, %s; as in: %s%s%s",
		client, strings.Join(named, ", "), command, scheme, strings.TrimSuffix(named[0], "...")+"NAME"+version)}
	return c
}

// regctl makes the hints about regctl. Its own command writes its configuration, for
// each user. Current versions send the mirror the registry in the parameter ns.
func regctl(m Mirror, namespaces []Namespace) Config {
	var c Config
	namespaces, c.Warnings = selectable("regctl", m, namespaces)
	var commands []string
	// Without TLS, regctl must be told; it would try HTTPS.
	if m.Plain {
		commands = append(commands, "regctl registry set --tls disabled "+m.Host)
	}
	for _, n := range namespaces {
		commands = append(commands, "regctl registry set --mirror "+m.Host+" "+n.Host)
	}
	if len(commands) > 0 {
		c.Hints = []string{"regctl writes its own file, by these commands\n    " + strings.Join(commands, "\n    ")}
	}
	return c
}
