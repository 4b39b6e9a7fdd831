package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// outcome is what a command line came to.
type outcome struct {
	code           int
	stdout, stderr string
}

func runCommand(t *testing.T, args ...string) outcome {
	t.Helper()
	var stdout, stderr strings.Builder
	code := run(t.Context(), args, &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// clientConfigCase is a configuration and what the files of all clients have to
// mean for it.
type clientConfigCase struct {
	name, url string
	config    string            // a file of testdata; empty: what is built in
	mirror    string            // the mirror's URL as the files say it
	hub       bool              // docker asks the mirror
	hosts     []string          // the registries of clients that name one
	prefixes  map[string]string // what podman puts the mirror's names in place of
}

func clientConfigCases() []clientConfigCase {
	builtIn := []string{"docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.gitlab.com", "registry.k8s.io"}
	same := make(map[string]string)
	for _, host := range builtIn {
		same[host] = host
	}
	return []clientConfigCase{
		{"http", "http://mirror.example.com:8000", "", "http://mirror.example.com:8000", true, builtIn, same},
		{"https", "https://Mirror.example.com/", "", "https://mirror.example.com", true, builtIn, same},
		{
			"overlapping", "", "overlapping.toml", "http://192.0.2.7:8000", true,
			[]string{"docker.io", "ghcr.io", "quay.io"},
			map[string]string{"docker.io": "hub", "ghcr.io": "ghcr.io", "ghcr.io/acme": "ghcr.io/acme", "quay.io": "quay.io"},
		},
		{
			"ports", "", "ports.toml", "http://127.0.0.1:8000", false,
			[]string{"127.0.0.1:5001", "localhost:5000", "registry.example.com:5000"},
			map[string]string{"registry.example.com:5000": "other"},
		},
		{"library", "https://mirror.example.com", "library.toml", "https://mirror.example.com", true, nil, nil},
		{
			"elsewhere", "https://mirror.example.com", "elsewhere.toml", "https://mirror.example.com", false,
			[]string{"docker.io", "quay.io"},
			map[string]string{"docker.io": "docker.io", "quay.io": "quay.io"},
		},
	}
}

// What is printed is what testdata says, and means for the client what it ought
// to. UPDATE_GOLDEN=1 rewrites testdata.
func TestClientConfig(t *testing.T) {
	dir, err := filepath.Abs("testdata/client-config")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // away from any config.toml
	for _, c := range clientConfigCases() {
		for _, client := range clientsWithFiles() {
			t.Run(c.name+"/"+client, func(t *testing.T) {
				args := []string{"client-config", client}
				if c.url != "" {
					args = append(args, "--url", c.url)
				}
				if c.config != "" {
					args = append(args, "--config", filepath.Join(dir, c.config))
				}
				got := runCommand(t, args...)
				if got.code != exitFine {
					t.Fatalf("%+v", got)
				}
				golden := filepath.Join(dir, c.name+"."+client)
				text := got.stdout + "\n--- on standard error\n" + got.stderr
				if os.Getenv("UPDATE_GOLDEN") != "" {
					write(t, golden, text)
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), text); diff != "" {
					t.Errorf("-testdata +printed:\n%s", diff)
				}
				c.check(t, client, printedFiles(t, got))
			})
		}
	}
}

// clientsWithFiles returns one client for each kind of file. The others of a kind
// differ in paths and hints only.
func clientsWithFiles() []string {
	return []string{"docker", "containerd", "podman", "buildkit", "k3s"}
}

// printedFiles takes apart what was printed, as a tool would.
func printedFiles(t *testing.T, got outcome) map[string]string {
	t.Helper()
	stdout := got.stdout
	// The path of a single file is not in the file.
	if path := regexp.MustCompile(`(?m)^file: (/.*)$`).FindStringSubmatch(got.stderr); path != nil {
		return map[string]string{path[1]: stdout}
	}
	files := make(map[string]string)
	starts := regexp.MustCompile(`(?m)^# /.*\n`).FindAllStringIndex(stdout, -1)
	for i, start := range starts {
		content := stdout[start[1]:]
		if i+1 < len(starts) {
			var ok bool
			if content, ok = strings.CutSuffix(stdout[start[1]:starts[i+1][0]], "\n\n"); !ok {
				t.Errorf("no empty line before %s", stdout[starts[i+1][0]:])
			}
			content += "\n"
		}
		files[strings.TrimSpace(stdout[start[0]+2:start[1]])] = content
	}
	if len(starts) > 0 && starts[0][0] != 0 || len(starts) == 0 && stdout != "" {
		t.Errorf("something is before the first file:\n%s", stdout)
	}
	return files
}

// check reads the files of a client in the client's way.
func (c clientConfigCase) check(t *testing.T, client string, files map[string]string) {
	t.Helper()
	address, plain := strings.CutPrefix(c.mirror, "http://")
	address = strings.TrimPrefix(address, "https://")
	hosts := slices.Clone(c.hosts)
	if plain {
		hosts = append(hosts, address)
	}
	slices.Sort(hosts)
	var named []string
	switch client {
	case "docker":
		c.checkDocker(t, files, address, plain)
		return
	case "podman":
		c.checkPodman(t, files, address, plain)
		return
	case "containerd":
		named = c.checkContainerd(t, files)
	case "buildkit":
		named = c.checkBuildKit(t, files, address, plain)
	case "k3s":
		named = c.checkK3s(t, files)
	}
	slices.Sort(named)
	if diff := cmp.Diff(hosts, named); diff != "" {
		t.Errorf("registries: -want +named:\n%s", diff)
	}
}

func (c clientConfigCase) checkDocker(t *testing.T, files map[string]string, address string, plain bool) {
	t.Helper()
	got := make(map[string][]string)
	if text, ok := only(t, files, "/etc/docker/daemon.json"); ok {
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
	}
	want := make(map[string][]string)
	if c.hub {
		want["registry-mirrors"] = []string{c.mirror}
	}
	if plain {
		want["insecure-registries"] = []string{address}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +read:\n%s", diff)
	}
}

func (c clientConfigCase) checkContainerd(t *testing.T, files map[string]string) (named []string) {
	t.Helper()
	for path, text := range files {
		var got struct {
			Server string
			Host   map[string]struct{ Capabilities []string }
		}
		decodeTOML(t, text, &got)
		registry := filepath.Base(filepath.Dir(path))
		named = append(named, registry)
		if path != "/etc/containerd/certs.d/"+registry+"/hosts.toml" {
			t.Errorf("path %s", path)
		}
		if !slices.Equal(got.Host[c.mirror].Capabilities, []string{"pull", "resolve"}) || len(got.Host) != 1 {
			t.Errorf("%s: hosts %+v", path, got.Host)
		}
		server := "https://" + registry
		switch {
		case registry == "docker.io":
			server = "https://registry-1.docker.io"
		case "http://"+registry == c.mirror:
			server = c.mirror
		case strings.HasPrefix(registry, "localhost:"), strings.HasPrefix(registry, "127."):
			server = "" // containerd's own choice
		}
		if got.Server != server {
			t.Errorf("%s: server %q, want %q", path, got.Server, server)
		}
	}
	return named
}

func (c clientConfigCase) checkPodman(t *testing.T, files map[string]string, address string, plain bool) {
	t.Helper()
	type endpoint struct {
		Prefix, Location string
		Insecure         bool
		Mirror           []struct {
			Location string
			Insecure bool
		}
	}
	var got struct{ Registry []endpoint }
	if text, ok := only(t, files, "/etc/containers/registries.conf.d/weir.conf"); ok {
		decodeTOML(t, text, &got)
	}
	prefixes := make(map[string]string)
	for _, r := range got.Registry {
		if r.Location == address {
			if !plain || !r.Insecure || len(r.Mirror) > 0 {
				t.Errorf("the mirror itself is %+v", r)
			}
			plain = false // seen
			continue
		}
		if len(r.Mirror) != 1 || r.Prefix != r.Location || r.Insecure {
			t.Fatalf("%+v", r)
		}
		if r.Mirror[0].Insecure != strings.HasPrefix(c.mirror, "http://") {
			t.Errorf("%+v", r)
		}
		prefixes[r.Prefix] = strings.TrimPrefix(r.Mirror[0].Location, address+"/")
	}
	if plain {
		t.Error("nothing says that the mirror speaks HTTP")
	}
	if !maps.Equal(prefixes, c.prefixes) {
		t.Errorf("prefixes: -want +read:\n%s", cmp.Diff(c.prefixes, prefixes))
	}
}

func (c clientConfigCase) checkBuildKit(t *testing.T, files map[string]string, address string, plain bool) (named []string) {
	t.Helper()
	var got struct {
		Registry map[string]struct {
			Mirrors []string
			HTTP    bool
		}
	}
	if text, ok := only(t, files, "/etc/buildkit/buildkitd.toml"); ok {
		decodeTOML(t, text, &got)
	}
	for host, r := range got.Registry {
		named = append(named, host)
		if itself := host == address; r.HTTP != (itself && plain) || itself != (len(r.Mirrors) == 0) || !itself && !slices.Equal(r.Mirrors, []string{address}) {
			t.Errorf("%s: %+v", host, r)
		}
	}
	return named
}

func (c clientConfigCase) checkK3s(t *testing.T, files map[string]string) (named []string) {
	t.Helper()
	var got struct {
		Mirrors map[string]struct{ Endpoint []string }
	}
	if text, ok := only(t, files, "/etc/rancher/k3s/registries.yaml"); ok {
		decoder := yaml.NewDecoder(strings.NewReader(text))
		decoder.KnownFields(true)
		if err := decoder.Decode(&got); err != nil {
			t.Fatal(err)
		}
	}
	for host, r := range got.Mirrors {
		named = append(named, host)
		if !slices.Equal(r.Endpoint, []string{c.mirror}) {
			t.Errorf("%s: %+v", host, r)
		}
	}
	return named
}

// only returns the one file, or false where there is none.
func only(t *testing.T, files map[string]string, path string) (string, bool) {
	t.Helper()
	text, ok := files[path]
	if len(files) > 1 || len(files) == 1 && !ok {
		t.Errorf("files: %v", files)
	}
	return text, ok
}

// decodeTOML reads a document of which every key must be known.
func decodeTOML(t *testing.T, text string, into any) {
	t.Helper()
	meta, err := toml.Decode(text, into)
	if err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("%v, unknown: %v\n%s", err, meta.Undecoded(), text)
	}
}
