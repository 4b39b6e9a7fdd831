package clientconfig

import (
	"slices"

	"github.com/weirhq/weir/oci"
)

// anImage is an image that every registry has which has those of Docker Hub.
const anImage = oci.DockerHub + "/library/alpine:3"

// tests are commands that pull an image, by the names of clients that send the mirror pulls of images by
// their usual names. The image is in the place of IMAGE.
var tests = map[string][2]string{
	"docker":     {"docker pull "},
	"containerd": {"ctr images pull --hosts-dir /etc/containerd/certs.d "},
	"nerdctl":    {"nerdctl pull "},
	"kubernetes": {"crictl pull "},
	"podman":     {"podman pull "},
	"buildah":    {"buildah pull "},
	"skopeo":     {"skopeo inspect docker://"},
	"crio":       {"crictl pull "},
	"buildkit":   {"echo FROM ", " | docker buildx build --pull -"},
	"k3s":        {"k3s crictl pull "},
	"rke2":       {"crictl pull "},
	"regctl":     {"regctl manifest head "},
}

// test returns a command that makes a client pull through the mirror, or "".
func test(client string, m Mirror, namespaces []Namespace) string {
	command, ok := tests[client]
	if !ok {
		return ""
	}
	image := ""
	hub := slices.IndexFunc(namespaces, Namespace.isDockerHub)
	other := slices.IndexFunc(namespaces, func(n Namespace) bool { return n.Host != "" && n.Host != oci.DockerHub })
	spelt := slices.IndexFunc(namespaces, Namespace.spellable)
	sends, _ := answersDockerHub(namespaces)
	switch {
	case hub >= 0 && (client != "docker" || sends):
		image = anImage
	case other >= 0 && client != "docker": // which sends its mirrors pulls of Docker Hub only
		image = namespaces[other].Host + "/NAME:TAG"
	case spelt >= 0:
		image = m.spell(namespaces[spelt]) + "/NAME:TAG"
	default:
		return ""
	}
	return command[0] + image + command[1]
}

// isDockerHub reports whether the images of a namespace are those of Docker Hub.
func (n Namespace) isDockerHub() bool { return n.Host == oci.DockerHub }
