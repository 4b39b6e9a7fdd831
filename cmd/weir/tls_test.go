package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/internal/testutil"
)

// The files of a client have the authority of a mirror's certificate if it is not a
// public one, and warn of everything that would make a pull fail.
func TestClientConfigOverTLS(t *testing.T) {
	t.Chdir(t.TempDir())
	authority, other := testutil.NewAuthority(t), testutil.NewAuthority(t)
	leaf, key := authority.Issue("leaf", time.Now().AddDate(1, 0, 0))
	foreign, foreignKey := other.Issue("client", time.Now().AddDate(1, 0, 0))
	chain := filepath.Join(t.TempDir(), "chain.pem")
	write(t, chain, content(t, leaf)+content(t, authority.File()))
	own := t.TempDir()
	if _, _, err := door.SelfSigned(own); err != nil {
		t.Fatal(err)
	}
	files := func(bundle string) string {
		return "[server.tls]\nserver_certificate_bundle = '" + bundle + "'\nserver_private_key = '" + key + "'\n"
	}
	required := "client_auth = \"required\"\nclient_ca_bundle = '" + other.File() + "'\n"
	const here = "https://localhost:8443"
	for name, c := range map[string]struct {
		config, url string
		flags       []string
		code        int
		ca          string // file whose content is written; "": none
		warns       string
	}{
		"chain with its authority": {config: files(chain), url: here, ca: authority.File()},
		"leaf alone":               {config: files(leaf), url: here, ca: leaf, warns: "does not contain the authority itself"},
		"leaf, and --ca":           {config: files(leaf), url: here, flags: []string{"--ca", authority.File()}, ca: authority.File()},
		"self-signed":              {config: "[server.tls]\nself_signed = true\n[blob_store.fs]\nroot_dir = '" + own + "'\n", url: here, ca: door.SelfSignedPath(own)},
		"not made yet":             {config: "[server.tls]\nself_signed = true\n", url: here, code: exitFailed, warns: "creates its self-signed certificate at its first start"},
		"another name":             {config: files(chain), url: "https://mirror.example.com", ca: authority.File(), warns: "It is for localhost, 127.0.0.1"},
		"plain URL":                {config: files(chain), url: "http://localhost:8443", warns: "the mirror speaks TLS"},
		"a proxy's certificate":    {url: "https://mirror.example.com"},
		"a proxy's, and --ca":      {url: "https://mirror.example.com", flags: []string{"--ca", authority.File()}, ca: authority.File()},
		"required":                 {config: files(chain) + required, url: here, ca: authority.File(), warns: "--client-cert"},
		"required and given":       {config: files(chain) + required, url: here, flags: []string{"--client-cert", foreign, "--client-key", foreignKey}, ca: authority.File()},
		"half a pair":              {config: files(chain), url: here, flags: []string{"--client-cert", foreign}, code: exitUsage, warns: "must be used together"},
		"of two pairs":             {config: files(chain), url: here, flags: []string{"--client-cert", foreign, "--client-key", key}, code: exitUsage, warns: "--client-cert, --client-key: "},
		"--ca without any":         {config: files(chain), url: here, flags: []string{"--ca", key}, code: exitUsage, warns: "contains no PEM certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, "config.toml", c.config+"[repository.\"docker.io\"]\ndefault = true\n[[repository.\"docker.io\".upstream]]\nurl = \"https://registry-1.docker.io\"\n")
			dir := t.TempDir()
			got := runCommand(t, append([]string{"client-config", "docker", "--config", "config.toml", "--url", c.url, "--dir", dir}, c.flags...)...)
			if got.code != c.code || !strings.Contains(got.stderr, c.warns) || c.warns == "" && strings.Contains(got.stderr, "warning:") {
				t.Fatalf("%+v", got)
			}
			certs := filepath.Join(dir, "etc/docker/certs.d", strings.TrimPrefix(strings.TrimPrefix(c.url, "https://"), "http://"))
			written, err := os.ReadFile(filepath.Join(certs, "ca.crt"))
			if (err == nil) != (c.ca != "") || err == nil && string(written) != content(t, c.ca) {
				t.Errorf("the authority is\n%s, %v", written, err)
			}
			info, err := os.Stat(filepath.Join(certs, "client.key"))
			if want := len(c.flags) == 4 && c.code == 0; (err == nil) != want || want && info.Mode().Perm() != 0o600 {
				t.Errorf("the key: %v", err)
			}
		})
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A certificate for a domain's hosts is asked for by the name of one.
func TestFirstName(t *testing.T) {
	for want, c := range map[string]*x509.Certificate{
		"a.example.com":    {DNSNames: []string{"a.example.com", "b"}},
		"weir.example.com": {DNSNames: []string{"*.example.com"}},
		"":                 {},
	} {
		if got := firstName(c); got != want {
			t.Errorf("%v: %s", c.DNSNames, got)
		}
	}
}

// A mirror with an authority is asked by the name of its certificate.
func TestMirrorWithAnAuthority(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "config.toml", "[server.tls.acme]\nhosts = [\"*.example.com\"]\nchallenge = \"dns-01\"\n[server.tls.acme.dns]\nprovider = \"exec\"\ncommand = [\"sh\"]\n")
	cfg, err := load([]string{"config.toml"})
	if err != nil {
		t.Fatal(err)
	}
	settings, err := mirrorFlags{}.settings(cfg)
	if err != nil || settings.ServerName != "weir.example.com" {
		t.Errorf("%v, %v", settings, err)
	}
	if got := runCommand(t, "client-config", "docker", "--url", "https://a.example.com"); got.code != exitFine || strings.Contains(got.stderr, "warning:") || strings.Contains(got.stdout, "BEGIN CERTIFICATE") {
		t.Errorf("%+v", got)
	}
}
