package clientconfig_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/clientconfig"
)

func TestParseMirror(t *testing.T) {
	for raw, want := range map[string]clientconfig.Mirror{
		"http://mirror.example.com:8000":  {URL: "http://mirror.example.com:8000", Host: "mirror.example.com:8000", Plain: true},
		"https://mirror.example.com":      {URL: "https://mirror.example.com", Host: "mirror.example.com"},
		"HTTPS://Mirror.Example.com:443/": {URL: "https://mirror.example.com:443", Host: "mirror.example.com:443"},
		"http://localhost":                {URL: "http://localhost", Host: "localhost", Plain: true},
		"http://mirror:80":                {URL: "http://mirror:80", Host: "mirror:80", Plain: true},
		"http://192.0.2.7":                {URL: "http://192.0.2.7", Host: "192.0.2.7", Plain: true},
		"http://[2001:db8::7]:8000":       {URL: "http://[2001:db8::7]:8000", Host: "[2001:db8::7]:8000", Plain: true},
	} {
		if got, err := clientconfig.ParseMirror(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
}

func TestParseMirrorRefuses(t *testing.T) {
	for raw, why := range map[string]string{
		"":                                   "must be a URL such as",
		"mirror.example.com:8000":            "must be a URL such as",
		"mirror.example.com":                 "must be a URL such as",
		"ftp://mirror.example.com":           "must be a URL such as",
		"https://":                           "must be a URL such as",
		"http://mirror.example.com:port":     "must be a URL such as",
		"http://robot:hunter2@example.com":   "must not contain credentials",
		"http://mirror.example.com/v2":       "registry-mirrors take no path",
		"http://mirror.example.com/?ns=x":    "without ? or #",
		"http://mirror.example.com?":         "without ? or #",
		"http://mirror.example.com#x":        "without ? or #",
		"http://mirror\".example.com":        "is not a host name",
		"http://mirror_.example.com":         "is not a host name",
		"http://[fe80::1%25eth0]:8000":       "is not a host name",
		"http://mirror.example.com:":         "is not a host name",
		"http://mirror.example.com:0":        "between 1 and 65535",
		"http://mirror.example.com:65536":    "between 1 and 65535",
		"http://mirror.example.com:99999999": "between 1 and 65535",
		"http://0.0.0.0:8000":                "which stands for all addresses",
		"http://[::]:8000":                   "which stands for all addresses",
		"http://mirror":                      "its port (mirror:80)",
		"https://mirror":                     "its port (mirror:443)",
	} {
		got, err := clientconfig.ParseMirror(raw)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %+v, %v; want an error with %q", raw, got, err, why)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells a password: %v", err)
		}
	}
}

func TestFor(t *testing.T) {
	m, err := clientconfig.ParseMirror("http://localhost:5000")
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range clientconfig.Clients() {
		_, err := clientconfig.For(client, m, []clientconfig.Namespace{{Key: "local", Host: "localhost:5000"}})
		if err == nil || !strings.Contains(err.Error(), `repository."local"`) {
			t.Errorf("%s: a mirror of itself: %v", client, err)
		}
	}
}

// A client answers by its name and by the names of its parts, in any case. A name
// that none has gets the nearest one, if that is near, and the list.
func TestNamesOfClients(t *testing.T) {
	m, err := clientconfig.ParseMirror("https://mirror.example.com")
	if err != nil {
		t.Fatal(err)
	}
	const certs, registries = "/etc/containerd/certs.d/docker.io/hosts.toml", "/etc/containers/registries.conf.d/weir.conf"
	for name, path := range map[string]string{
		"docker": "/etc/docker/daemon.json", "Docker": "/etc/docker/daemon.json", "dockerd": "/etc/docker/daemon.json", "compose": "/etc/docker/daemon.json",
		"containerd": certs, "ctr": certs, "nerdctl": certs, "kubernetes": certs, "k8s": certs, "kubelet": certs, "crictl": certs,
		"podman": registries, "skopeo": registries, "buildah": registries, "crio": registries, "CRI-O": registries,
		"buildkit": "/etc/buildkit/buildkitd.toml", "buildx": "/etc/buildkit/buildkitd.toml", "buildkitd": "/etc/buildkit/buildkitd.toml",
		"k3s": "/etc/rancher/k3s/registries.yaml", "rke2": "/etc/rancher/rke2/registries.yaml",
		"crane": "", "regctl": "", "oras": "", "helm": "", "cosign": "",
	} {
		c, err := clientconfig.For(name, m, []clientconfig.Namespace{asDefault(hub)})
		if err != nil || len(c.Hints) == 0 || len(c.Warnings) > 0 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		if path == "" && len(c.Files) > 0 || path != "" && (len(c.Files) != 1 || c.Files[0].Path != path) {
			t.Errorf("%s: the files are %v, want %s", name, c.Files, path)
		}
	}
	known := "known are " + strings.Join(clientconfig.Clients(), ", ")
	for name, suggestion := range map[string]string{
		"dokcer": "did you mean docker? ", "conteinerd": "did you mean containerd? ", "builda": "did you mean buildah? ",
		"nerdclt": "did you mean nerdctl? ", "cran": "did you mean crane? ", "KUBERNETS": "did you mean kubernetes? ",
		"apt": "", "": "", "firefox": "", "/etc/docker/daemon.json": "",
	} {
		want := fmt.Sprintf("unknown client %q; %s%s", name, suggestion, known)
		if _, err := clientconfig.For(name, m, nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// Clients without a file still get notes about using the mirror, and over
// HTTP only if that is the mirror's scheme.
func TestClientsWithoutAFile(t *testing.T) {
	namespaces := []clientconfig.Namespace{hub, quay, ported}
	for client, want := range map[string]struct{ plain, tls string }{
		"crane":  {"crane manifest --insecure mirror.example.com:8000/docker.io/NAME:TAG", "crane manifest mirror.example.com/docker.io/NAME:TAG"},
		"oras":   {"oras pull --plain-http mirror.example.com:8000/docker.io/NAME:TAG", "oras pull mirror.example.com/docker.io/NAME:TAG"},
		"helm":   {"helm pull --plain-http oci://mirror.example.com:8000/docker.io/NAME --version", "helm pull oci://mirror.example.com/docker.io/NAME --version"},
		"cosign": {"--allow-http-registry mirror.example.com:8000/docker.io/NAME:TAG", "cosign.pub mirror.example.com/docker.io/NAME:TAG"},
		"regctl": {"registry set --tls disabled mirror.example.com:8000\n", "registry set --mirror mirror.example.com quay.io"},
	} {
		for mirror, text := range map[string]string{"http://mirror.example.com:8000": want.plain, "https://mirror.example.com": want.tls} {
			c := made(t, client, mirror, namespaces...)
			if len(c.Files) > 0 || len(c.Hints) != 1 || !strings.Contains(c.Hints[0], text) || !strings.Contains(c.Hints[0], "quay.io") ||
				len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "quay.example:5000") {
				t.Errorf("%s of %s: %+v; want %s", client, mirror, c, text)
			}
		}
		// Nothing to name is nothing to say.
		if c := made(t, client, "https://mirror.example.com"); len(c.Hints)+len(c.Warnings) > 0 {
			t.Errorf("%s without namespaces: %+v", client, c)
		}
	}
}

// A key below a registry's host is reached by podman only; other clients name the
// mirror.
func TestKeysBelowAHost(t *testing.T) {
	m, err := clientconfig.ParseMirror("https://mirror.example.com")
	if err != nil {
		t.Fatal(err)
	}
	namespaces := []clientconfig.Namespace{{Key: "ghcr.io/acme"}, {Key: "localhost:5000/team"}}
	for _, client := range clientconfig.Clients() {
		c, err := clientconfig.For(client, m, namespaces)
		if err != nil {
			t.Fatal(err)
		}
		printed := clientconfig.Print(c.Files)
		reached := slices.Contains([]string{"podman", "buildah", "skopeo", "crio"}, client)
		if strings.Contains(printed, "ghcr.io") != reached || strings.Contains(printed, "localhost") {
			t.Errorf("%s: %s", client, printed)
		}
		said := strings.Join(append(c.Warnings, c.Hints...), "\n")
		if !reached && !strings.Contains(said, "mirror.example.com/ghcr.io/acme/...") || !strings.Contains(said, `repository."localhost:5000/team" has a port`) {
			t.Errorf("%s says %s", client, said)
		}
	}
	for _, client := range []string{"containerd", "k3s", "buildkit", "regctl"} {
		c, err := clientconfig.For(client, m, append(namespaces, clientconfig.Namespace{Key: "ghcr.io", Host: "ghcr.io"}))
		if said := strings.Join(c.Warnings, "\n"); err != nil || strings.Contains(said, "ghcr.io") {
			t.Errorf("%s, beside the block of the host: %v, %s", client, err, said)
		}
	}
}
