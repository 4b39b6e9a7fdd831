package clientconfig_test

import (
	"testing"

	"github.com/weirhq/weir/clientconfig"
)

// Each client has a command that tests its files: it names images as the files expect it.
func TestTest(t *testing.T) {
	m, err := clientconfig.ParseMirror("http://mirror.example:8000")
	if err != nil {
		t.Fatal(err)
	}
	hub, other := clientconfig.NewNamespace("docker.io", "docker.io", true), clientconfig.NewNamespace("ghcr.io", "ghcr.io", false)
	for client, want := range map[string]string{
		"docker":     "docker pull docker.io/library/alpine:3",
		"containerd": "ctr images pull --hosts-dir /etc/containerd/certs.d docker.io/library/alpine:3",
		"nerdctl":    "nerdctl pull docker.io/library/alpine:3",
		"kubernetes": "crictl pull docker.io/library/alpine:3",
		"podman":     "podman pull docker.io/library/alpine:3",
		"buildah":    "buildah pull docker.io/library/alpine:3",
		"skopeo":     "skopeo inspect docker://docker.io/library/alpine:3",
		"crio":       "crictl pull docker.io/library/alpine:3",
		"buildkit":   "echo FROM docker.io/library/alpine:3 | docker buildx build --pull -",
		"k3s":        "k3s crictl pull docker.io/library/alpine:3",
		"rke2":       "crictl pull docker.io/library/alpine:3",
		"regctl":     "regctl manifest head docker.io/library/alpine:3",
		"crane":      "crane manifest --insecure mirror.example:8000/docker.io/library/alpine:3",
		"oras":       "oras manifest fetch --plain-http mirror.example:8000/docker.io/library/alpine:3",
		"helm":       "helm show chart --plain-http oci://mirror.example:8000/ghcr.io/NAME --version VERSION",
		"cosign":     "cosign tree --allow-http-registry mirror.example:8000/docker.io/library/alpine:3",
	} {
		c, err := clientconfig.For(client, m, []clientconfig.Namespace{other, hub})
		if err != nil || c.Test != want {
			t.Errorf("%s: %q, %v, want %q", client, c.Test, err, want)
		}
	}
	for _, client := range clientconfig.Clients() {
		c, err := clientconfig.For(client, m, []clientconfig.Namespace{other})
		if err != nil || c.Test == "" {
			t.Errorf("%s without Docker Hub: no test, %v", client, err)
		}
		if c, err = clientconfig.For(client, m, nil); err != nil || c.Test != "" {
			t.Errorf("%s without a namespace: %q, %v", client, c.Test, err)
		}
	}
	for client, want := range map[string]string{
		"docker": "docker pull mirror.example:8000/ghcr.io/NAME:TAG", "podman": "podman pull ghcr.io/NAME:TAG", "crane": "crane manifest --insecure mirror.example:8000/ghcr.io/NAME:TAG",
	} {
		if c, _ := clientconfig.For(client, m, []clientconfig.Namespace{other}); c.Test != want {
			t.Errorf("%s without Docker Hub: %q, want %q", client, c.Test, want)
		}
	}
}
