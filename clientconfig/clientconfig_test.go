package clientconfig_test

import (
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
		"http://robot:hunter2@example.com":   "must not hold credentials",
		"http://mirror.example.com/v2":       "registry-mirrors take no path",
		"http://mirror.example.com/?ns=x":    "without ? or #",
		"http://mirror.example.com?":         "without ? or #",
		"http://mirror.example.com#x":        "without ? or #",
		"http://mirror\".example.com":        "is no host name",
		"http://mirror_.example.com":         "is no host name",
		"http://[fe80::1%25eth0]:8000":       "is no host name",
		"http://mirror.example.com:":         "is no host name",
		"http://mirror.example.com:0":        "between 1 and 65535",
		"http://mirror.example.com:65536":    "between 1 and 65535",
		"http://mirror.example.com:99999999": "between 1 and 65535",
		"http://0.0.0.0:8000":                "none that clients can connect to",
		"http://[::]:8000":                   "none that clients can connect to",
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
	if _, err := clientconfig.For("nerdctl", m, nil); err == nil || err.Error() != `unknown client "nerdctl"; known are docker, containerd, podman, buildkit, k3s` {
		t.Errorf("an unknown client: %v", err)
	}
	for _, client := range clientconfig.Clients() {
		_, err := clientconfig.For(client, m, []clientconfig.Namespace{{Key: "local", Host: "localhost:5000"}})
		if err == nil || !strings.Contains(err.Error(), `repository."local"`) {
			t.Errorf("%s: a mirror of itself: %v", client, err)
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
		if reached := client == "podman"; strings.Contains(printed, "ghcr.io") != reached || strings.Contains(printed, "localhost") {
			t.Errorf("%s: %s", client, printed)
		}
		said := strings.Join(append(c.Warnings, c.Hints...), "\n")
		if client != "podman" && !strings.Contains(said, "mirror.example.com/ghcr.io/acme/...") || !strings.Contains(said, `repository."localhost:5000/team" has a port`) {
			t.Errorf("%s says %s", client, said)
		}
	}
}
