package clientconfig_test

import (
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"github.com/weirhq/weir/clientconfig"
)

// Each client gets a file with the login, which its owner alone may read, and no other
// file or note has the password.
func TestLogin(t *testing.T) {
	const auth = "YWxpY2U6cGEiczp3XG9yZA==" // alice:pa"s:w\ord
	m, err := clientconfig.ParseMirror("https://mirror.example.com")
	if err != nil {
		t.Fatal(err)
	}
	m.Login = &clientconfig.Login{User: "alice", Password: `pa"s:w\ord`}
	blocks := []clientconfig.Namespace{{Key: "docker.io", Host: "docker.io", Default: true}, {Key: "ghcr.io", Host: "ghcr.io"}}
	withTLS := m
	withTLS.CA, withTLS.Certificate, withTLS.Key = "an authority\n", "a certificate\n", "a key\n"
	for client, path := range map[string]string{
		"docker": "/root/.docker/config.json", "crane": "/root/.docker/config.json", "regctl": "/root/.docker/config.json", "oras": "/root/.docker/config.json",
		"helm": "/root/.docker/config.json", "cosign": "/root/.docker/config.json", "buildkit": "/root/.docker/config.json",
		"podman": "/root/.config/containers/auth.json", "skopeo": "/root/.config/containers/auth.json", "buildah": "/root/.config/containers/auth.json",
		"crio": "/etc/crio/auth.json", "containerd": "/etc/containerd/certs.d/ghcr.io/hosts.toml", "kubernetes": "/etc/containerd/certs.d/docker.io/hosts.toml",
		"nerdctl": "/etc/containerd/certs.d/ghcr.io/hosts.toml", "k3s": "/etc/rancher/k3s/registries.yaml", "rke2": "/etc/rancher/rke2/registries.yaml",
	} {
		made, err := clientconfig.For(client, m, blocks)
		if err != nil {
			t.Fatal(err)
		}
		// Beside certificates, the login is in the same files.
		more, err := clientconfig.For(client, withTLS, blocks)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range more.Files {
			if f.Path == path && (!f.Secret || !parses(t, f)) {
				t.Errorf("%s with certificates: %+v", client, f)
			}
		}
		found := false
		for _, f := range made.Files {
			has := strings.Contains(f.Content, auth) || strings.Contains(f.Content, `pa\"s:w\\ord`)
			if has != f.Secret {
				t.Errorf("%s: %s is secret: %t\n%s", client, f.Path, f.Secret, f.Content)
			}
			if !parses(t, f) {
				t.Errorf("%s: %s\n%s", client, f.Path, f.Content)
			}
			found = found || f.Path == path && has
		}
		if !found {
			t.Errorf("%s: no login in %s: %+v", client, path, made.Files)
		}
		for _, note := range append(made.Hints, made.Warnings...) {
			if strings.Contains(note, "ord") && strings.Contains(note, "pa") && strings.Contains(note, `s:w`) {
				t.Errorf("%s: a note has the password: %s", client, note)
			}
		}
	}
	plain, _ := clientconfig.ParseMirror("http://mirror.example.com:8000")
	plain.Login = m.Login
	if made, _ := clientconfig.For("podman", plain, blocks); !strings.Contains(strings.Join(made.Warnings, ""), "without TLS") {
		t.Errorf("no warning: %q", made.Warnings)
	}
}

// parses reports whether a file is TOML, YAML or JSON, as its name says.
func parses(t *testing.T, f clientconfig.File) bool {
	t.Helper()
	var parsed any
	decode := func(text []byte, into any) error { return yaml.Unmarshal(text, into) } // JSON is a part of YAML
	if strings.HasSuffix(f.Path, ".toml") {
		decode = toml.Unmarshal
	}
	if err := decode([]byte(f.Content), &parsed); err != nil {
		t.Error(err)
		return false
	}
	return true
}
