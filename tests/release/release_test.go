package release

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// Two builds of a commit, in two directories, are equal to the byte. Each file of the release can be
// used as its users do.
func TestRelease(t *testing.T) {
	testutil.Long(t, "compiles what makes packages")
	first, second := build(t), build(t)
	sums := readFile(t, filepath.Join(first, "SHA256SUMS"))
	if other := readFile(t, filepath.Join(second, "SHA256SUMS")); other != sums {
		t.Errorf("two builds of a commit differ:\n%s\n%s", sums, other)
	}
	verify := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	verify.Dir = first
	harness.Run(t, verify)
	if n := strings.Count(sums, "\n"); n != len(wanted) {
		t.Errorf("%d checksums, want %d", n, len(wanted))
	}
	for _, name := range wanted {
		if !strings.Contains(sums, "  "+name+"\n") {
			t.Errorf("there is no %s in\n%s", name, sums)
		}
	}
	t.Run("archive", func(t *testing.T) { testArchive(t, first) })
	t.Run("deb", func(t *testing.T) { testDeb(t, first) })
	t.Run("rpm", func(t *testing.T) { testRPM(t, first) })
	t.Run("image", func(t *testing.T) { testImage(t, first) })
	t.Run("chart", func(t *testing.T) { testChart(t, first) })
	t.Run("modules", func(t *testing.T) { testModules(t, first) })
}

// rpmArch is the name that rpm has for the processor of this machine.
var rpmArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]

// wanted are the files of a release for this machine alone. The other processors would take a minute.
var wanted = []string{
	"weir_1.9.8_linux_" + runtime.GOARCH + ".tar.gz", "weir_1.9.8-1_" + runtime.GOARCH + ".deb", "weir-1.9.8-1." + rpmArch + ".rpm",
	"weir_1.9.8_image.tar", "weir-1.9.8.tgz", "weir_1.9.8.cdx.json",
}

// The image has a manifest for each processor.
func TestTool(t *testing.T) {
	testutil.Long(t, "compiles what makes packages")
	tests := exec.CommandContext(t.Context(), "go", "test", "-C", "../../tools/release", "-vet=off", "-count", "1", "./...")
	tests.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // as make release has compiled it
	harness.Run(t, tests)
}

// build makes the release of a copy of the repository, and returns its directory.
func build(t *testing.T) string {
	t.Helper()
	source := copyRepository(t)
	makeRelease := exec.CommandContext(t.Context(), "make", "-C", source, "release", "RELEASE_FLAGS=-platforms linux/"+runtime.GOARCH)
	makeRelease.Env = append(os.Environ(), "GOFLAGS=")
	harness.Run(t, makeRelease)
	return filepath.Join(source, "dist/release")
}

// copyRepository returns a copy of the repository with the tag v1.9.8 at its one commit, which is the
// same in each copy.
func copyRepository(t *testing.T) string {
	t.Helper()
	source := filepath.Join(t.TempDir(), "weir")
	harness.Run(t, exec.CommandContext(t.Context(), testutil.Program(t, "rsync", "rsync"),
		"-a", "--exclude=/.git", "--exclude=/dist", "--exclude=/weir-data", "--exclude=/tests/tools/bin", "../../", source))
	for _, args := range [][]string{{"init", "--quiet"}, {"add", "--all"}, {"commit", "--quiet", "--message=x"}, {"tag", "v1.9.8"}} {
		git := exec.CommandContext(t.Context(), "git", args...)
		git.Dir = source
		git.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x@example.com", "GIT_COMMITTER_NAME=x",
			"GIT_COMMITTER_EMAIL=x@example.com", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
		harness.Run(t, git)
	}
	return source
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	harness.Must(t, err)
	return string(content)
}

// The archive has the program, which tells the tag, with its pages and completions.
func testArchive(t *testing.T, dir string) {
	to := t.TempDir()
	harness.Run(t, exec.CommandContext(t.Context(), "tar", "-xzf", filepath.Join(dir, "weir_1.9.8_linux_"+runtime.GOARCH+".tar.gz"), "-C", to))
	to = filepath.Join(to, "weir_1.9.8_linux_"+runtime.GOARCH)
	out := harness.Run(t, exec.CommandContext(t.Context(), filepath.Join(to, "weir"), "version"))
	if !strings.HasPrefix(out, "weir v1.9.8 (") {
		t.Errorf("weir version: %q", out)
	}
	for file, want := range map[string]string{
		"man/weir-warm.1": "weir-warm", "man/weir.1": "v1.9.8", "completions/weir": "bash completion", "completions/_weir": "#compdef weir",
		"completions/weir.fish": "complete -c weir", "completions/weir.ps1": "Register-ArgumentCompleter", "LICENSE": "Apache License", "weir.service": "[Service]",
	} {
		if text := readFile(t, filepath.Join(to, file)); !strings.Contains(text, want) {
			t.Errorf("%s lacks %q: %.200s", file, want, text)
		}
	}
}

// machine is run by sh in namespaces of its own. It is this machine, with a layer above its files that
// keeps all changes and is gone at the end.
const machine = `
set -eu
mount -t tmpfs none "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root"
mount -t overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" none "$DIR/root"
mount --rbind /dev "$DIR/root/dev"
mount -t proc none "$DIR/root/proc"
cp "$PACKAGE" "$DIR/root/package"
exec chroot "$DIR/root" sh -euxc "$0"
`

// onMachine runs a script as root on a machine that has the package as /package.
func onMachine(t *testing.T, pkg, script string) {
	t.Helper()
	testutil.Root(t)
	testutil.Program(t, "systemd-sysusers", "systemd")
	cmd := exec.CommandContext(t.Context(), testutil.Program(t, "unshare", "util-linux"),
		"--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", machine, script)
	cmd.Env = append(os.Environ(), "DIR="+t.TempDir(), "PACKAGE="+pkg)
	harness.Run(t, cmd)
}

// installed are commands that succeed where the package is installed.
const installed = `
weir version | grep 'weir v1.9.8 '
id weir
weir check --config /etc/weir/config.toml >/dev/null
grep '^ExecStart=/usr/bin/weir serve' /usr/lib/systemd/system/weir.service
zcat /usr/share/man/man1/weir.1.gz | grep v1.9.8
test -e /usr/share/bash-completion/completions/weir
`

// dpkg installs the package, keeps the operator's configuration through an upgrade and a removal, and
// purges it. The store stays.
func testDeb(t *testing.T, dir string) {
	testutil.Program(t, "dpkg", "dpkg")
	onMachine(t, filepath.Join(dir, "weir_1.9.8-1_"+runtime.GOARCH+".deb"), `
dpkg --force-depends --install /package
`+installed+`
dpkg --verify weir
echo '# mine' >>/etc/weir/config.toml
mkdir -p /var/lib/weir && touch /var/lib/weir/content
dpkg --force-depends --install /package
grep '# mine' /etc/weir/config.toml
dpkg --remove weir
test ! -e /usr/bin/weir
test ! -e /usr/lib/systemd/system/weir.service
grep '# mine' /etc/weir/config.toml
dpkg --purge weir
test ! -e /etc/weir/config.toml
test -e /var/lib/weir/content
`)
}

// rpm installs the package, keeps the operator's configuration, and removes the package.
func testRPM(t *testing.T, dir string) {
	testutil.Program(t, "rpm", "rpm")
	// No package of this machine is known to rpm, so that it finds nothing to depend on.
	onMachine(t, filepath.Join(dir, "weir-1.9.8-1."+rpmArch+".rpm"), `
rpm --install --nodeps /package
`+installed+`
rpm --verify --nodeps weir
rpm --query --configfiles weir | grep '^/etc/weir/config.toml$'
echo '# mine' >>/etc/weir/config.toml
rpm --upgrade --nodeps --replacepkgs /package
grep '# mine' /etc/weir/config.toml
rpm --erase --nodeps weir
test ! -e /usr/bin/weir
test ! -e /usr/lib/systemd/system/weir.service
grep '# mine' /etc/weir/config.toml.rpmsave
`)
}

// skopeo brings the image to a registry with its index, and Docker pulls and runs it.
func testImage(t *testing.T, dir string) {
	skopeo := func(args ...string) string {
		return harness.Run(t, exec.CommandContext(t.Context(), testutil.Program(t, "skopeo", "skopeo"), append([]string{"--insecure-policy"}, args...)...))
	}
	registry := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	name := registry.Addr + "/weirhq/weir:1.9.8"
	skopeo("copy", "--all", "--dest-tls-verify=false", "oci-archive:"+filepath.Join(dir, "weir_1.9.8_image.tar"), "docker://"+name)
	var index ocispec.Index
	harness.Must(t, json.Unmarshal([]byte(skopeo("inspect", "--raw", "--tls-verify=false", "docker://"+name)), &index))
	var platforms []string
	for _, m := range index.Manifests {
		platforms = append(platforms, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	if !slices.Equal(platforms, []string{"linux/" + runtime.GOARCH}) || index.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("the index is %s with the platforms %v", index.MediaType, platforms)
	}
	for key, want := range map[string]string{ocispec.AnnotationVersion: "1.9.8", ocispec.AnnotationCreated: "2026-01-02T03:04:05Z", ocispec.AnnotationLicenses: "Apache-2.0", ocispec.AnnotationSource: "https://github.com/weirhq/weir"} {
		if got := index.Annotations[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}

	engine := harness.StartDocker(t, `{}`)
	harness.Run(t, engine.Command("pull", "--quiet", name))
	checkImage(t, engine, name)
}

// checkImage runs an image of the version v1.9.8 until it is healthy.
func checkImage(t *testing.T, engine *harness.Docker, name string) {
	t.Helper()
	if out := harness.Run(t, engine.Command("run", "--rm", "--network", "none", name, "version")); !strings.HasPrefix(out, "weir v1.9.8 (") {
		t.Errorf("its version is %q", out)
	}
	harness.Run(t, engine.Command("run", "--detach", "--name", "mirror", "--network", "none", "--health-interval", "1s", name))
	harness.Eventually(t, "the container is healthy", func() bool {
		state := harness.Run(t, engine.Command("inspect", "--format", "{{.State.Status}} {{.State.Health.Status}} {{.Config.User}}", "mirror"))
		return strings.TrimSpace(state) == "running healthy 65532:65532"
	})
	harness.Run(t, engine.Command("rm", "--force", "--volumes", "mirror"))
}

// Helm renders the chart with the image of the release.
func testChart(t *testing.T, dir string) {
	helm, chart := harness.Tool(t, "helm", "helm"), filepath.Join(dir, "weir-1.9.8.tgz")
	harness.Run(t, exec.CommandContext(t.Context(), helm, "lint", "--strict", chart))
	out := harness.Run(t, exec.CommandContext(t.Context(), helm, "template", "mirror", chart, "--kube-version", "1.31.0"))
	for _, want := range []string{`image: "ghcr.io/weirhq/weir:1.9.8"`, "helm.sh/chart: weir-1.9.8", "kind: StatefulSet"} {
		if !strings.Contains(out, want) {
			t.Errorf("the chart lacks %q:\n%s", want, out)
		}
	}
}

// The list of modules has all that the go.mod of the program requires directly and the binary has.
func testModules(t *testing.T, dir string) {
	var bom struct {
		Format   string `json:"bomFormat"`
		Metadata struct {
			Component struct{ Version string }
		}
		Components []struct{ Name, Version, PURL string }
	}
	harness.Must(t, json.Unmarshal([]byte(readFile(t, filepath.Join(dir, "weir_1.9.8.cdx.json"))), &bom))
	if bom.Format != "CycloneDX" || bom.Metadata.Component.Version != "v1.9.8" || len(bom.Components) < 50 {
		t.Errorf("%s of %s, %d modules", bom.Format, bom.Metadata.Component.Version, len(bom.Components))
	}
	for _, name := range []string{"std", "github.com/spf13/cobra", "golang.org/x/crypto"} {
		if !slices.ContainsFunc(bom.Components, func(c struct{ Name, Version, PURL string }) bool {
			return c.Name == name && c.Version != "" && c.PURL == "pkg:golang/"+name+"@"+c.Version
		}) {
			t.Errorf("there is no %s", name)
		}
	}
}
