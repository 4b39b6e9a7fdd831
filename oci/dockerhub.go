package oci

import "strings"

// DockerHub is the name that clients and people use for Docker Hub.
const DockerHub = "docker.io"

// CanonicalHost returns one spelling for all names of a registry's host: in lower
// case, and [DockerHub] for the three names of Docker Hub. Clients differ in which
// one they send: containerd sends docker.io in its parameter ns, regctl sends
// registry-1.docker.io.
func CanonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io":
		return DockerHub
	default:
		return host
	}
}

// IsDockerHub reports whether host is one of the names of Docker Hub.
func IsDockerHub(host string) bool { return CanonicalHost(host) == DockerHub }

// SameHost reports whether two names are those of one registry.
func SameHost(a, b string) bool { return CanonicalHost(a) == CanonicalHost(b) }
