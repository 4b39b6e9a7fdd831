package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/clientconfig"
)

// clientConfigIn runs weir client-config --dir for the built-in configuration.
func clientConfigIn(t *testing.T, client, dir string) outcome {
	t.Helper()
	return runCommand(t, "client-config", client, "--url", "http://mirror.example.com:8000", "--dir", dir)
}

// tree returns what is in the files below a directory, by their paths in it.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What --dir writes is what is printed without it.
func TestClientConfigDir(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, client := range append(clientsWithFiles(), "nerdctl", "kubernetes", "skopeo", "crio", "rke2") {
		dir := filepath.Join(t.TempDir(), "root")
		want := printedFiles(t, runCommand(t, "client-config", client, "--url", "http://mirror.example.com:8000"))
		got := clientConfigIn(t, client, dir)
		if got.code != exitFine {
			t.Fatalf("%s: %+v", client, got)
		}
		written := tree(t, dir)
		if len(want) == 0 || len(written) != len(want) || strings.Count(got.stdout, "\n") != len(want) {
			t.Errorf("%s: wrote %d files and printed %q, want %d", client, len(written), got.stdout, len(want))
		}
		for path, content := range want {
			if written[path] != content {
				t.Errorf("%s: %s holds\n%s\nwant\n%s", client, path, written[path], content)
			}
			if !strings.Contains(got.stdout, filepath.Join(dir, path)+"\n") {
				t.Errorf("%s: %s is not among the printed\n%s", client, path, got.stdout)
			}
			// Not every client runs as root.
			if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != 0o644 {
				t.Errorf("%s: %v, %v", client, info.Mode(), err)
			}
		}
		// What is as it ought to be is left alone.
		if again := clientConfigIn(t, client, dir); again.code != exitFine || again.stdout != "" {
			t.Errorf("%s, again: %+v", client, again)
		}
	}
}

// Where a file has other content, none is written, and all such files are named.
func TestClientConfigDirRefuses(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := t.TempDir()
	before := make(map[string]string)
	for _, host := range []string{"ghcr.io", "quay.io"} {
		path := filepath.Join("/etc/containerd/certs.d", host, "hosts.toml")
		before[path] = "# mine\n"
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, path), before[path])
	}
	got := clientConfigIn(t, "containerd", dir)
	if got.code != exitFailed || got.stdout != "" {
		t.Errorf("%+v", got)
	}
	for path := range before {
		if !strings.Contains(got.stderr, "\n  "+filepath.Join(dir, path)+"\n") {
			t.Errorf("%s is not named:\n%s", path, got.stderr)
		}
	}
	after := tree(t, dir)
	if len(after) != len(before) {
		t.Errorf("it has written: %v", after)
	}
	for path, content := range before {
		if after[path] != content {
			t.Errorf("%s holds %q", path, after[path])
		}
	}
	// A directory in the way is named too.
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc/docker/daemon.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := clientConfigIn(t, "docker", dir); got.code != exitFailed || !strings.Contains(got.stderr, "daemon.json") || got.stdout != "" {
		t.Errorf("%+v", got)
	}
}

func TestClientConfigErrors(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	config := func(name, server string) string {
		path := filepath.Join(dir, name)
		write(t, path, server+"\n[[repository.\"localhost:5000\".upstream]]\nurl = \"http://localhost:5000\"\n")
		return path
	}
	everywhere := config("everywhere.toml", "[server]\nbind_address = \"0.0.0.0\"")
	everywhere6 := config("everywhere6.toml", "[server]\nbind_address = \"::\"")
	empty := config("empty.toml", "[server]\nbind_address = \"\"")
	anyPort := config("any.toml", "[server]\nport = 0")
	itself := config("itself.toml", "[server]\nbind_address = \"localhost\"\nport = 5000")
	bad := config("bad.toml", "[server]\nprot = 1")
	for args, want := range map[string]string{
		"":                                       "weir client-config needs exactly one client (docker, containerd, nerdctl, kubernetes, podman, buildah, skopeo, crio, buildkit, k3s, rke2, crane, regctl, oras, helm, cosign), not 0",
		"docker podman":                          "needs exactly one client (docker, containerd, nerdctl, kubernetes, podman, buildah, skopeo, crio, buildkit, k3s, rke2, crane, regctl, oras, helm, cosign), not 2",
		"dokcer":                                 `unknown client "dokcer"; did you mean docker? known are docker, containerd, nerdctl, `,
		"docker --url http://example.com/weir":   "--url must have no path",
		"docker --url http://a:hunter2@b.c":      "--url must not contain credentials",
		"docker --config " + everywhere:          `--url is missing, and server.bind_address "0.0.0.0" and server.port 8000 do not say how clients reach the mirror`,
		"docker --config " + everywhere6:         `--url is missing, and server.bind_address "::"`,
		"docker --config " + empty:               `--url is missing, and server.bind_address ""`,
		"docker --config " + anyPort:             "server.port 0 do not say",
		"docker --config " + itself:              `localhost:5000 cannot be the mirror, since it is also the registry that repository."localhost:5000" mirrors`,
		"docker --config " + bad:                 "server.prot: unknown key",
		"docker --dir x --config " + everywhere6: "--url is missing",
	} {
		got := runCommand(t, append([]string{"client-config"}, strings.Fields(args)...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, want) || strings.Contains(got.stderr, "hunter2") {
			t.Errorf("weir client-config %s: %+v, want an error with %q", args, got, want)
		}
	}
	// With --url the same configurations do.
	got := runCommand(t, "client-config", "containerd", "--config", everywhere, "--url", "https://mirror.example.com")
	if got.code != exitFine || !strings.Contains(got.stdout, `[host."https://mirror.example.com"]`) || strings.Contains(got.stderr, "this machine only") {
		t.Errorf("--url for a mirror that listens everywhere: %+v", got)
	}
}

// A client without a file prints nothing on standard output, also with --dir.
func TestClientConfigWithoutFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, client := range []string{"crane", "regctl", "oras", "helm", "cosign"} {
		for _, flags := range [][]string{nil, {"--dir", "root"}} {
			got := runCommand(t, append([]string{"client-config", client, "--url", "https://mirror.example.com"}, flags...)...)
			if got.code != exitFine || got.stdout != "" || !strings.HasPrefix(got.stderr, "hint: "+client+" ") {
				t.Errorf("%s %v: %+v", client, flags, got)
			}
		}
	}
	if _, err := os.Stat("root"); err == nil {
		t.Error("--dir has made a directory for no file")
	}
}

func TestClientConfigHelp(t *testing.T) {
	got := runCommand(t, "client-config", "--help")
	for _, want := range append(clientconfig.Clients(), "--url URL", "--dir DIR", "--config FILE", "Buildah", "RKE2", "exit code 1") {
		if got.code != exitFine || !strings.Contains(got.stdout, want) {
			t.Errorf("the help does not tell of %s:\n%s", want, got.stdout)
		}
	}
}

// The password of a login comes from the environment or from standard input, and files that
// hold it are for their owner.
func TestClientConfigLogin(t *testing.T) {
	_, config := loadText(t, twoRepositories)
	run := func(input string, args ...string) (string, error) {
		root := rootCommand()
		var stdout, stderr strings.Builder
		root.SetArgs(append([]string{"client-config", "podman", "--config", config, "--url", "https://mirror.example.com", "--username"}, args...))
		root.SetIn(strings.NewReader(input))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		err := root.ExecuteContext(t.Context())
		return stdout.String(), err
	}
	const auth = "YWxpY2U6c2VjcmV0" // alice:secret
	input := t.TempDir()
	if out, err := run("secret\n", "alice", "--dir", input); err != nil || strings.Contains(out, auth) {
		t.Errorf("%s, %v", out, err)
	}
	if text, err := os.ReadFile(filepath.Join(input, "root/.config/containers/auth.json")); err != nil || !strings.Contains(string(text), auth) {
		t.Errorf("%s, %v", text, err)
	}
	// A terminal and its history are no place for a password.
	if out, err := run("secret\n", "alice"); err != nil || strings.Contains(out, auth) || !strings.Contains(out, "auth.json") {
		t.Errorf("%s, %v", out, err)
	}
	for _, wrong := range [][]string{{"", "alice"}, {"secret", "al:ice"}} {
		if out, err := run(wrong[0], wrong[1]); err == nil || out != "" {
			t.Errorf("%q: %s", wrong, out)
		}
	}
	t.Setenv("WEIR_CLIENT_PASSWORD", "secret")
	dir := t.TempDir()
	if out, err := run("another\n", "alice", "--dir", dir); err != nil || strings.Contains(out, auth) {
		t.Errorf("%s, %v", out, err)
	}
	path := filepath.Join(dir, "root/.config/containers/auth.json")
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), auth) {
		t.Fatalf("%s, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
