package clientconfig_test

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/weirhq/weir/clientconfig"
)

// made returns the configuration of a client, whose files must have absolute paths.
func made(t *testing.T, client, mirror string, namespaces ...clientconfig.Namespace) clientconfig.Config {
	t.Helper()
	m, err := clientconfig.ParseMirror(mirror)
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientconfig.For(client, m, namespaces)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || !strings.HasSuffix(f.Content, "\n") {
			t.Errorf("%s: the path %q, the content %q", client, f.Path, f.Content)
		}
	}
	return c
}

// file returns the content of the only file of a configuration. It returns "" if
// there is none.
func file(t *testing.T, c clientconfig.Config, wantPath string) string {
	t.Helper()
	switch {
	case len(c.Files) == 0:
		return ""
	case len(c.Files) > 1 || c.Files[0].Path != wantPath:
		t.Fatalf("the files are %v, want %s", c.Files, wantPath)
	}
	return c.Files[0].Content
}

// readTOML reads a document whose keys must all be known.
func readTOML(t *testing.T, text string, into any) {
	t.Helper()
	meta, err := toml.Decode(text, into)
	if err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("%v, unknown keys %v:\n%s", err, meta.Undecoded(), text)
	}
}

var (
	hub       = clientconfig.Namespace{Key: "docker.io", Host: "docker.io"}
	quay      = clientconfig.Namespace{Key: "quay.io", Host: "quay.io"}
	aliased   = clientconfig.Namespace{Key: "other", Host: "registry.example.com:5000"}
	nameless  = clientconfig.Namespace{Key: "team"}
	ported    = clientconfig.Namespace{Key: "quay.example:5000"}
	official  = clientconfig.Namespace{Key: "library"}
	asDefault = func(n clientconfig.Namespace) clientconfig.Namespace { n.Default = true; return n }
)

// Docker asks its mirrors for images of Docker Hub only, so the mirror is set only
// if it answers bare names with those.
func TestDockerMirrorsDockerHub(t *testing.T) {
	for name, c := range map[string]struct {
		namespaces []clientconfig.Namespace
		mirrors    bool
		warning    string // the start of the only one; "" if there is none
	}{
		"default is Docker Hub":       {[]clientconfig.Namespace{quay, asDefault(hub)}, true, ""},
		"default is a part of it":     {[]clientconfig.Namespace{asDefault(clientconfig.Namespace{Key: "docker.io/acme"})}, true, ""},
		"default has no registry":     {[]clientconfig.Namespace{asDefault(nameless)}, true, ""},
		"default is another registry": {[]clientconfig.Namespace{hub, asDefault(quay)}, false, `registry-mirrors is left out, because docker would mistake images of repository."quay.io"`},
		"default only begins alike":   {[]clientconfig.Namespace{asDefault(clientconfig.Namespace{Key: "docker.io.example"})}, false, "registry-mirrors is left out"},
		"no default":                  {[]clientconfig.Namespace{hub, quay}, false, "registry-mirrors is left out, because docker asks a mirror for short names"},
		"only official images":        {[]clientconfig.Namespace{quay, official}, true, "docker only gets official images"},
		"default before official":     {[]clientconfig.Namespace{official, asDefault(hub)}, true, ""},
		"no namespace":                {nil, false, "registry-mirrors is left out, because docker asks"},
	} {
		t.Run(name, func(t *testing.T) {
			made := made(t, "docker", "https://mirror.example.com", c.namespaces...)
			var got map[string][]string
			if text := file(t, made, "/etc/docker/daemon.json"); text != "" {
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatal(err)
				}
			}
			want := map[string][]string(nil)
			if c.mirrors {
				want = map[string][]string{"registry-mirrors": {"https://mirror.example.com"}}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +read:\n%s", diff)
			}
			if c.warning == "" && len(made.Warnings) > 0 ||
				c.warning != "" && (len(made.Warnings) != 1 || !strings.HasPrefix(made.Warnings[0], c.warning)) {
				t.Errorf("the warnings are %q, want %q", made.Warnings, c.warning)
			}
		})
	}
}

// Docker must be told that the mirror has no TLS, whether or not it is a mirror of
// Docker Hub: images of other registries name the mirror.
func TestDockerOverHTTP(t *testing.T) {
	c := made(t, "docker", "http://mirror.example.com:8000", hub, quay, aliased, ported)
	want := "{\n  \"insecure-registries\": [\n    \"mirror.example.com:8000\"\n  ]\n}\n"
	if got := file(t, c, "/etc/docker/daemon.json"); got != want {
		t.Errorf("%s", got)
	}
	// Images of Docker Hub are pulled without a prefix, and a key with a port
	// cannot be one.
	names := "for images of registries other than Docker Hub, name the mirror: docker pull " +
		"mirror.example.com:8000/quay.io/..., mirror.example.com:8000/other/..."
	if len(c.Hints) != 2 || c.Hints[1] != names {
		t.Errorf("the hints are %q", c.Hints)
	}
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[1], `repository."quay.example:5000" has a port in its key`) {
		t.Errorf("the warnings are %q", c.Warnings)
	}
}

// The files of containerd name the registry itself for the case that the mirror
// fails, by the URL at which its API is.
func TestContainerdServers(t *testing.T) {
	for host, server := range map[string]string{
		"docker.io":                 "https://registry-1.docker.io",
		"quay.io":                   "https://quay.io",
		"registry.example.com:5000": "https://registry.example.com:5000",
		"[2001:db8::7]:5000":        "https://[2001:db8::7]:5000",
		// Containerd finds out by itself whether these have HTTPS.
		"localhost":      "",
		"localhost:5000": "",
		"127.0.0.1:5000": "",
		"[::1]:5000":     "",
	} {
		c := made(t, "containerd", "https://mirror.example.com", clientconfig.Namespace{Key: "some", Host: host})
		var got struct {
			Server string
			Host   map[string]struct{ Capabilities []string }
		}
		readTOML(t, file(t, c, "/etc/containerd/certs.d/"+host+"/hosts.toml"), &got)
		if got.Server != server {
			t.Errorf("%s: server %q, want %q", host, got.Server, server)
		}
		// A mirror that could push would receive the pushes, and refuse them.
		if mirror := got.Host["https://mirror.example.com"]; !slices.Equal(mirror.Capabilities, []string{"pull", "resolve"}) {
			t.Errorf("%s: hosts %+v", host, got.Host)
		}
	}
}

// Pulls that name a mirror without TLS need a file of their own.
func TestContainerdOverHTTP(t *testing.T) {
	c := made(t, "containerd", "http://mirror.example.com:8000", quay)
	if len(c.Files) != 2 || c.Files[1].Path != "/etc/containerd/certs.d/mirror.example.com:8000/hosts.toml" ||
		!strings.HasPrefix(c.Files[1].Content, "server = \"http://mirror.example.com:8000\"\n") {
		t.Errorf("%+v", c.Files)
	}
	if len(c.Hints) != 2 || !strings.Contains(c.Hints[1], `config_path = "/etc/containerd/certs.d"`) {
		t.Errorf("the hints are %q", c.Hints)
	}
}

// The files of Podman replace a prefix by the mirror's spelling of the namespace.
// Its longest prefix wins, so a part of a registry can have a namespace.
func TestPodmanPrefixes(t *testing.T) {
	below := clientconfig.Namespace{Key: "quay.io/acme"}
	for mirror, insecure := range map[string]bool{"https://mirror.example.com": false, "http://mirror.example.com": true} {
		c := made(t, "podman", mirror, quay, below, aliased, nameless, ported)
		type endpoint struct {
			Prefix, Location string
			Insecure         bool
			Mirror           []struct {
				Location string
				Insecure bool
			}
		}
		var got struct{ Registry []endpoint }
		readTOML(t, file(t, c, "/etc/containers/registries.conf.d/weir.conf"), &got)
		locations := make(map[string]string)
		for _, r := range got.Registry {
			if r.Location == "mirror.example.com" && insecure {
				if !r.Insecure || len(r.Mirror) > 0 {
					t.Errorf("%s itself: %+v", mirror, r)
				}
				continue
			}
			// The registry itself is asked over HTTPS if the mirror fails.
			if r.Insecure || r.Prefix != r.Location || len(r.Mirror) != 1 || r.Mirror[0].Insecure != insecure {
				t.Fatalf("%s: %+v", mirror, r)
			}
			locations[r.Prefix] = r.Mirror[0].Location
		}
		if diff := cmp.Diff(map[string]string{
			"quay.io":                   "mirror.example.com/quay.io",
			"quay.io/acme":              "mirror.example.com/quay.io/acme",
			"registry.example.com:5000": "mirror.example.com/other",
		}, locations); diff != "" {
			t.Errorf("%s: -want +read:\n%s", mirror, diff)
		}
		if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], `repository."team" does not stand for the host of a registry`) || !strings.Contains(c.Warnings[1], "has a port") {
			t.Errorf("%s: the warnings are %q", mirror, c.Warnings)
		}
	}
}

// BuildKit names a mirror by its host, and is told apart whether that has TLS.
func TestBuildKit(t *testing.T) {
	type registry struct {
		Mirrors []string
		HTTP    bool
	}
	for mirror, want := range map[string]map[string]registry{
		"https://mirror.example.com": {
			"docker.io": {Mirrors: []string{"mirror.example.com"}}, "quay.io": {Mirrors: []string{"mirror.example.com"}},
		},
		"http://mirror.example.com:8000": {
			"docker.io": {Mirrors: []string{"mirror.example.com:8000"}}, "quay.io": {Mirrors: []string{"mirror.example.com:8000"}},
			"mirror.example.com:8000": {HTTP: true},
		},
	} {
		var got struct{ Registry map[string]registry }
		readTOML(t, file(t, made(t, "buildkit", mirror, hub, quay), "/etc/buildkit/buildkitd.toml"), &got)
		if diff := cmp.Diff(want, got.Registry); diff != "" {
			t.Errorf("%s: -want +read:\n%s", mirror, diff)
		}
	}
}

func TestK3s(t *testing.T) {
	for mirror, hosts := range map[string][]string{
		"https://mirror.example.com":     {"docker.io", "registry.example.com:5000"},
		"http://mirror.example.com:8000": {"docker.io", "mirror.example.com:8000", "registry.example.com:5000"},
	} {
		var got struct {
			Mirrors map[string]struct{ Endpoint []string }
		}
		decoder := yaml.NewDecoder(strings.NewReader(file(t, made(t, "k3s", mirror, hub, aliased), "/etc/rancher/k3s/registries.yaml")))
		decoder.KnownFields(true)
		if err := decoder.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if named := slices.Sorted(maps.Keys(got.Mirrors)); !slices.Equal(named, hosts) {
			t.Errorf("%s: registries %q, want %q", mirror, named, hosts)
		}
		for host, r := range got.Mirrors {
			if !slices.Equal(r.Endpoint, []string{mirror}) {
				t.Errorf("%s: %s has the endpoints %q", mirror, host, r.Endpoint)
			}
		}
	}
}

// A client that can reach no namespace gets no file, and so no hint how to install
// one. The warnings say how the namespaces can be reached.
func TestNothingToConfigure(t *testing.T) {
	withPort := clientconfig.Namespace{Key: "localhost:5000/team"}
	for client, warnings := range map[string][]string{
		"docker": {"registry-mirrors is left out", "has a port in its key"},
		// Podman takes the key for a prefix, but cannot spell it behind the mirror.
		"podman":     {`repository."team" does not stand for the host of a registry`, "has a port in its key"},
		"containerd": {`Set its namespace, for example namespace = "registry.example.com"`, "has a port in its key"},
		"buildkit":   {"begin the names of its images with the mirror: mirror.example.com/team/...", "has a port in its key"},
		"k3s":        {`repository."team" does not stand for the host of a registry`, "has a port in its key"},
	} {
		c := made(t, client, "https://mirror.example.com", nameless, withPort)
		if client == "docker" {
			// Docker reaches the first by the mirror's name.
			if len(c.Hints) != 1 || !strings.HasSuffix(c.Hints[0], "docker pull mirror.example.com/team/...") {
				t.Errorf("the hints for docker are %q", c.Hints)
			}
		} else if len(c.Hints) > 0 {
			t.Errorf("%s: hints about no file: %q", client, c.Hints)
		}
		if len(c.Files) > 0 || len(c.Warnings) != len(warnings) {
			t.Fatalf("%s: files %v, warnings %q", client, c.Files, c.Warnings)
		}
		for i, want := range warnings {
			if !strings.Contains(c.Warnings[i], want) {
				t.Errorf("%s: %q, want %q", client, c.Warnings[i], want)
			}
		}
	}
}

// A block with another key would no longer answer for its registry, so the warning
// about its port says how to keep it.
func TestPortInAKeyWithARegistry(t *testing.T) {
	n := clientconfig.Namespace{Key: "quay.example:5000", Host: "quay.example:5000"}
	if c := made(t, "podman", "https://mirror.example.com", n); len(c.Files) > 0 || len(c.Warnings) != 1 ||
		!strings.HasSuffix(c.Warnings[0], `Give the block a key without a port, and namespace = "quay.example:5000"`) {
		t.Errorf("%+v", c)
	}
	// A client that sends the registry does not spell the key.
	if c := made(t, "containerd", "https://mirror.example.com", n); len(c.Files) != 1 || len(c.Warnings) > 0 {
		t.Errorf("%+v", c)
	}
}

// The key library belongs to Docker Hub, so its warning gives that as an example.
func TestOfficialImagesHaveARegistry(t *testing.T) {
	c := made(t, "containerd", "https://mirror.example.com", official)
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], `namespace = "docker.io"`) {
		t.Errorf("%q", c.Warnings)
	}
}

// A single file is printed as it is: JSON has no comments. Several files can be told
// apart: each begins with its path, after an empty line.
func TestPrint(t *testing.T) {
	for want, files := range map[string][]clientconfig.File{
		"":                                 nil,
		"one\n":                            {{Path: "/etc/a", Content: "one\n"}},
		"# /etc/a\none\n\n# /etc/b\ntwo\n": {{Path: "/etc/a", Content: "one\n"}, {Path: "/etc/b", Content: "two\n"}},
	} {
		if got := clientconfig.Print(files); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
