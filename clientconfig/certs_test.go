package clientconfig_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/clientconfig"
)

// Each client gets the mirror's authority and its own certificate where it looks for
// them. A key is printed nowhere.
func TestCertificates(t *testing.T) {
	for client, want := range map[string]struct {
		dir   string // of the certificates
		names string // the file or the hint that has to name them, if any has to
	}{
		"docker":     {"/etc/docker/certs.d/[2001:db8::7]:8443", ""},
		"containerd": {"/etc/containerd/certs.d/[2001:db8::7]:8443", "client = [[\"../[2001:db8::7]:8443/client.cert\", \"../[2001:db8::7]:8443/client.key\"]]"},
		"nerdctl":    {"/etc/containerd/certs.d/[2001:db8::7]:8443", "ca = \"../[2001:db8::7]:8443/ca.crt\""},
		"podman":     {"/etc/containers/certs.d/[2001:db8::7]:8443", ""},
		"crio":       {"/etc/containers/certs.d/[2001:db8::7]:8443", ""},
		"buildkit":   {"/etc/buildkit/weir", "[[registry.\"[2001:db8::7]:8443\".keypair]]"},
		"k3s":        {"/etc/rancher/k3s/weir", "ca_file: \"/etc/rancher/k3s/weir/ca.crt\""},
		"rke2":       {"/etc/rancher/rke2/weir", "key_file: \"/etc/rancher/rke2/weir/client.key\""},
		"crane":      {"/etc/weir/mirror", "SSL_CERT_FILE=/etc/weir/mirror/ca.crt crane manifest ["},
		"oras":       {"/etc/weir/mirror", "oras pull --ca-file /etc/weir/mirror/ca.crt --cert-file /etc/weir/mirror/client.cert --key-file /etc/weir/mirror/client.key ["},
		"helm":       {"/etc/weir/mirror", "--ca-file /etc/weir/mirror/ca.crt"},
		"cosign":     {"/etc/weir/mirror", "--registry-cacert /etc/weir/mirror/ca.crt --registry-client-cert "},
		"regctl":     {"/etc/weir/mirror", "regctl registry set --cacert \"$(cat /etc/weir/mirror/ca.crt)\" ["},
	} {
		for kind, m := range map[string]clientconfig.Mirror{
			"none": {}, "CA": {CA: "authority\n"}, "all": {CA: "authority\n", Certificate: "certificate\n", Key: "secret\n"}, "certificate": {Certificate: "certificate\n", Key: "secret\n"},
		} {
			m.URL, m.Host = "https://[2001:db8::7]:8443", "[2001:db8::7]:8443"
			c, err := clientconfig.For(client, m, []clientconfig.Namespace{asDefault(hub), quay})
			if err != nil {
				t.Fatal(err)
			}
			found := make(map[string]clientconfig.File)
			for _, f := range c.Files {
				found[f.Path] = f
			}
			for name, content := range map[string]string{"ca.crt": m.CA, "client.cert": m.Certificate, "client.key": m.Key} {
				f, there := found[want.dir+"/"+name]
				if there != (content != "") || f.Content != content || f.Secret != (there && name == "client.key") {
					t.Errorf("%s, %s: %s is %+v", client, kind, name, f)
				}
			}
			if told := strings.Contains(strings.Join(c.Warnings, "\n"), "cannot present a client certificate"); told != (client == "crane" && m.Certificate != "") {
				t.Errorf("%s, %s: the warnings are %q", client, kind, c.Warnings)
			}
			printed := clientconfig.Print(c.Files)
			if len(c.Files) > 0 && strings.Contains(printed, "secret\n") {
				t.Errorf("%s, %s: prints a key", client, kind)
			}
			if text := printed + strings.Join(c.Hints, "\n"); strings.Contains(text, want.names) != (kind == "all") && want.names != "" && kind != "CA" && kind != "certificate" {
				t.Errorf("%s, %s: %s\nwant %s", client, kind, text, want.names)
			}
		}
	}
}
