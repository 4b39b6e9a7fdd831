package clientconfig

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirhq/weir/oci"
)

// The clients of this file read no file that names mirrors. For most of them the
// mirror is a part of each image's name, so their configuration consists of hints.

// namingDir is the directory of the files that flags of these clients name.
const namingDir = "/etc/weir/mirror"

// flags are those of a client that has no file of its own.
type flags struct {
	plain                string // allows HTTP
	ca, certificate, key string // take a file each; "": the client has no such flag
}

// crane makes the hints about crane, which trusts the authorities of one file, and shows
// no certificate.
func crane(m Mirror, namespaces []Namespace) Config {
	return naming("crane", "crane manifest ", "crane manifest ", flags{plain: "--insecure "}, "", ":TAG", m, namespaces)
}

// oras makes the hints about oras.
func oras(m Mirror, namespaces []Namespace) Config {
	return naming("oras", "oras pull ", "oras manifest fetch ", flags{"--plain-http ", "--ca-file", "--cert-file", "--key-file"}, "", ":TAG", m, namespaces)
}

// helm makes the hints about Helm.
func helm(m Mirror, namespaces []Namespace) Config {
	return naming("helm", "helm pull ", "helm show chart ", flags{"--plain-http ", "--ca-file", "--cert-file", "--key-file"}, "oci://", " --version VERSION", m, namespaces)
}

// cosign makes the hints about cosign.
func cosign(m Mirror, namespaces []Namespace) Config {
	return naming("cosign", "cosign verify --key cosign.pub ", "cosign tree ",
		flags{"--allow-http-registry ", "--registry-cacert", "--registry-client-cert", "--registry-client-key"}, "", ":TAG", m, namespaces)
}

// naming makes the hints about a client that takes the mirror in the names of images
// only. Scheme goes before a name, and version after it. The test changes nothing.
func naming(client, command, test string, f flags, scheme, version string, m Mirror, namespaces []Namespace) Config {
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
	var before, options string
	if m.Plain {
		options = f.plain
	}
	c.Files = m.certs(namingDir)
	switch {
	case m.CA != "" && f.ca != "":
		options += f.ca + " " + namingDir + "/" + caName + " "
	// Go's own variable replaces the authorities of the system.
	case m.CA != "":
		before = "SSL_CERT_FILE=" + namingDir + "/" + caName + " "
	}
	switch {
	case m.Certificate != "" && f.certificate != "":
		options += fmt.Sprintf("%s %s/%s %s %s/%s ", f.certificate, namingDir, certificateName, f.key, namingDir, keyName)
	case m.Certificate != "":
		c.Warnings = append(c.Warnings, client+" cannot present a client certificate, so a mirror that requires one refuses it")
	}
	name := scheme + strings.TrimSuffix(named[0], "...") + "NAME" + version
	c.Hints = []string{fmt.Sprintf("%s has no configuration file for mirrors. Begin the names of images with the mirror, %s, for example: %s%s%s%s",
		client, strings.Join(named, ", "), before, command, options, name)}
	if hub := slices.IndexFunc(namespaces, Namespace.isDockerHub); hub >= 0 && scheme == "" {
		name = m.spell(namespaces[hub]) + strings.TrimPrefix(anImage, oci.DockerHub)
	}
	c.Test = before + test + options + name
	return c
}

// regctl makes the hints about regctl. Its own command writes its configuration, for
// each user. Current versions send the mirror the registry in the parameter ns.
func regctl(m Mirror, namespaces []Namespace) Config {
	var c Config
	namespaces, c.Warnings = selectable("regctl", m, namespaces)
	var commands []string
	// Without TLS, regctl needs a setting, or it tries HTTPS.
	if m.Plain {
		commands = append(commands, "regctl registry set --tls disabled "+m.Host)
	}
	c.Files = m.certs(namingDir)
	read := func(name string) string { return `"$(cat ` + namingDir + "/" + name + `)"` }
	if m.CA != "" {
		commands = append(commands, "regctl registry set --cacert "+read(caName)+" "+m.Host)
	}
	if m.Certificate != "" {
		commands = append(commands, "regctl registry set --client-cert "+read(certificateName)+" --client-key "+read(keyName)+" "+m.Host)
	}
	for _, n := range namespaces {
		commands = append(commands, "regctl registry set --mirror "+m.Host+" "+n.Host)
	}
	if len(commands) > 0 {
		c.Hints = []string{"regctl writes its own file when you run these commands:\n    " + strings.Join(commands, "\n    ")}
	}
	return c
}
