package tests

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// warm runs weir warm on a running mirror.
func warm(t *testing.T, w *harness.Weir, args ...string) result {
	t.Helper()
	return command(t, t.TempDir(), append([]string{"warm", "--url", w.URL}, args...)...)
}

// published is an image for two platforms, with a signature of its index and
// one of its arm64 manifest.
type published struct {
	index, amd64, arm64                 ocispec.Descriptor
	signature, armSignature             ocispec.Descriptor
	amd64Layer, arm64Layer, sharedLayer digest.Digest
}

func publish(t *testing.T, upstream *upstreamtest.Registry, repo, tag string, size int64) published {
	t.Helper()
	one, two, shared := random(t, size, 1), random(t, size, 2), random(t, size, 3)
	p := published{
		amd64: upstream.AddImage(repo, tag+"-amd64", shared, one), arm64: upstream.AddImage(repo, tag+"-arm64", shared, two),
		amd64Layer: digest.FromBytes(one), arm64Layer: digest.FromBytes(two), sharedLayer: digest.FromBytes(shared),
	}
	p.amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	p.arm64.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	p.index = upstream.AddIndex(repo, tag, p.amd64, p.arm64)
	p.signature = upstream.AddReferrer(repo, p.index, "example/signature", []byte("signs the index"))
	p.armSignature = upstream.AddReferrer(repo, p.arm64, "example/signature", []byte("signs arm64"))
	return p
}

// contentRequests returns how often each content was read, by its digest or
// its tag.
func contentRequests(upstream *upstreamtest.Registry) map[string]int {
	counts := make(map[string]int)
	for _, request := range upstream.Requests() {
		if match := regexp.MustCompile(`^GET /v2/.*/(?:manifests|blobs)/(\S+) 200`).FindStringSubmatch(request); match != nil {
			counts[match[1]]++
		}
	}
	return counts
}

// A cold image costs its upstream what a pull of all of it costs, each content
// once; a warm one a HEAD, and the question who refers to it. Then the cache has
// all of it.
func TestWarmOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", 40*kib)
	w := harness.StartWeir(t, block("mirror", upstream))

	expectResult(t, "cold", warm(t, w, "mirror/org/app:v1"), 0,
		"warm mirror/org/app:v1: new 13 objects, ", "already there 0 objects, 0 B\n", "images: 1 warm, 0 failed; new 13 objects, ")
	got := contentRequests(upstream)
	for _, name := range []string{
		"v1", image.amd64.Digest.String(), image.arm64.Digest.String(), image.signature.Digest.String(), image.armSignature.Digest.String(),
		image.amd64Layer.String(), image.arm64Layer.String(), image.sharedLayer.String(), digest.FromString("signs arm64").String(),
	} {
		if got[name] != 1 {
			t.Errorf("%s was read %d times", name, got[name])
		}
	}
	if len(got) != 13 {
		t.Errorf("the upstream was asked for %d contents, want 13: %v", len(got), got)
	}

	upstream.ResetRequests()
	expectResult(t, "warm", warm(t, w, "mirror/org/app:v1"), 0, "warm mirror/org/app:v1: new 0 objects, 0 B; already there 13 objects, ")
	for _, request := range upstream.Requests() {
		if !strings.Contains(request, "/referrers/") && request != "HEAD /v2/org/app/manifests/v1 200" {
			t.Errorf("a warm image was asked for: %s", request)
		}
	}
	upstream.Close()
	for _, dgst := range []digest.Digest{image.amd64Layer, image.arm64Layer, image.sharedLayer} {
		expectContent(t, "a layer, with the upstream gone", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusHit)
	}
}

func TestWarmPlatforms(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", 40*kib)
	w := harness.StartWeir(t, block("mirror", upstream))
	expectResult(t, "arm64", warm(t, w, "--platform", "linux/arm64", "mirror/org/app:v1"), 0)
	got := contentRequests(upstream)
	if got[image.amd64.Digest.String()]+got[image.amd64Layer.String()] != 0 || got[image.arm64Layer.String()] != 1 || got[image.armSignature.Digest.String()] != 1 {
		t.Errorf("for arm64 the upstream was asked for %v", got)
	}
	expectResult(t, "none", warm(t, w, "--platform", "linux/s390x", "mirror/org/app:v1"), 1,
		"failed mirror/org/app:v1: v1 has none of the platforms that are wanted (linux/s390x), only linux/amd64, linux/arm64\n", "images: 0 warm, 1 failed")
	expectResult(t, "without referrers", warm(t, w, "--referrers=false", "--platform", "linux/amd64", "mirror/org/app:v1"), 0, "new 3 objects")
}

// What fails is said with its reason, and keeps nothing else from coming.
func TestWarmFailures(t *testing.T) {
	t.Parallel()
	upstream, private := upstreamtest.New(t), upstreamtest.New(t, upstreamtest.WithBasic("reader", "secret"))
	publish(t, upstream, "org/app", "v1", 40*kib)
	broken := publish(t, upstream, "org/broken", "v1", 50*kib)
	upstream.Remove("org/broken", broken.arm64Layer)
	w := harness.StartWeir(t, block("mirror", upstream)+block("private", private))
	list := filepath.Join(t.TempDir(), "images.txt")
	harness.WriteFile(t, list, "# the fleet\nmirror/org/app:v1\n\nmirror/org/app:v1  # once more\nmirror/org/missing\nprivate/org/app:1\n  mirror/org/broken:v1\n")
	got := warm(t, w, "--file", list)
	expectResult(t, "a list", got, 1, "warm mirror/org/app:v1: new ", "images: 1 warm, 3 failed",
		"failed mirror/org/missing: manifest latest: 404: ", "failed private/org/app:1: manifest 1: 403: ",
		"failed mirror/org/broken:v1: blob "+broken.arm64Layer.String()+": 404: ")
	if !strings.Contains(got.stderr, "weir: images that failed: 3") || strings.Count(got.stdout, "warm mirror/org/app:v1") != 1 {
		t.Errorf("%+v", got)
	}
	got = warm(t, w, "--quiet", "--file", list)
	if lines := strings.Split(strings.TrimSpace(got.stdout), "\n"); got.code != 1 || len(lines) != 3 {
		t.Errorf("quiet: %+v", got)
	}
	quiet := warm(t, w, "--quiet", "mirror/org/app:v1")
	if quiet.code != 0 || quiet.stdout+quiet.stderr != "" {
		t.Errorf("quiet, all well: %+v", quiet)
	}

	// A tag that the upstream does not confirm is not said to be warm.
	upstream.Close()
	expectResult(t, "stale", warm(t, w, "mirror/org/app:v1"), 1, "failed mirror/org/app:v1: manifest v1: the mirror could not confirm it: ")
	w.Kill()
	if got := warm(t, w, "mirror/org/app:v1"); got.code != 1 || !strings.Contains(got.stderr, "no mirror answers: ") {
		t.Errorf("without a mirror: %+v", got)
	}
}

// A layer whose download began for a repository that cannot have it is brought
// for the one that can.
func TestWarmBesideAFailure(t *testing.T) {
	t.Parallel()
	whole, lacking := upstreamtest.New(t), upstreamtest.New(t)
	publish(t, whole, "org/app", "v1", mib)
	image := publish(t, lacking, "org/app", "v1", mib)
	lacking.Remove("org/app", image.amd64Layer)
	gate := upstreamtest.NewGate()
	lacking.Fault(upstreamtest.Path(image.amd64Layer.String()), upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("whole", whole)+block("lacking", lacking))
	ended := make(chan result, 2)
	begin := func(name string) {
		go func() { ended <- warm(t, w, "--platform", "linux/amd64", name+"/org/app:v1") }()
	}
	begin("lacking")
	arrived(t, gate, 1)
	begin("whole")
	w.MetricIs(t, 2, "weir_flight_readers")
	gate.Open()
	for range 2 {
		switch got := <-ended; {
		case strings.Contains(got.stdout, "warm whole/org/app:v1") && got.code == 0:
		case strings.Contains(got.stdout, "failed lacking/org/app:v1: blob "+image.amd64Layer.String()+": 404: ") && got.code == 1:
		default:
			t.Errorf("%+v", got)
		}
	}
	expectContent(t, "the layer", w.Get(t, blobPath("whole/org/app", image.amd64Layer)), image.amd64Layer, statusHit)
}

func TestWarmUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "bad.txt"), "good\n\nno:such:image\n")
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[server]\nport = 0\n")
	for args, want := range map[string]string{
		"":                              "name images, or with --file a list of them",
		"UPPER":                         `"UPPER" is not an image, such as "org/app:1.2"`,
		"--file bad.txt":                "bad.txt:3: ",
		"--file none.txt":               "none.txt: no such file",
		"--jobs 0 app":                  "--jobs is 0: it takes at least one",
		"--platform arm64 app":          `--platform: "arm64" is not a platform; write one like "linux/amd64"`,
		"--url mirror.internal app":     "--url takes one like http://mirror.internal:8000",
		"--config config.toml app":      "or name the mirror with --url",
		"--platform linux/a/b/c/d app":  "is not a platform",
		"--file - --platform x/ org/ok": "is not a platform",
	} {
		if got := command(t, dir, append([]string{"warm"}, strings.Fields(args)...)...); got.code == 0 || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("weir warm %s: %+v, want %q", args, got, want)
		}
	}
}

// Interrupted, it says how to go on, and the next run transfers nothing twice.
// --jobs bounds how many images are under way.
func TestWarmInterrupted(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", mib)
	upstream.AddImage("org/later", "v1", []byte("a layer"))
	gate := upstreamtest.NewGate()
	fault := upstream.Fault(upstreamtest.Path(image.arm64Layer.String()), upstreamtest.StallAfter(100_000, gate))
	w := harness.StartWeir(t, block("mirror", upstream))
	cmd := exec.CommandContext(t.Context(), harness.Binary(), "warm", "--url", w.URL, "--jobs", "1", "mirror/org/app:v1", "mirror/org/later:v1")
	var stdout, stderr harness.LogBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	harness.Must(t, cmd.Start())
	arrived(t, gate, 1)
	for _, request := range upstream.Requests() {
		if strings.Contains(request, "/org/later/") {
			t.Errorf("another image was begun: %s", request)
		}
	}
	harness.Must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || stderr.Count("weir: interrupted before it was done; run it again to go on") != 1 || stdout.Count("unfinished mirror/org/app:v1") != 1 {
		t.Errorf("exit code %d, %s%s", cmd.ProcessState.ExitCode(), &stdout, &stderr)
	}
	gate.Open()
	fault.Remove()
	expectResult(t, "again", warm(t, w, "mirror/org/app:v1", "mirror/org/later:v1"), 0, "images: 2 warm, 0 failed")
	for name, n := range contentRequests(upstream) {
		if n != 1 && name != "v1" {
			t.Errorf("%s was read %d times", name, n)
		}
	}
}

// On a terminal each image has a bar, and its result stands above the bars.
func TestWarmOnATerminal(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", mib)
	publish(t, upstream, "org/other", "v1", 40*kib)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Path(image.sharedLayer.String()), upstreamtest.StallAfter(500_000, gate))
	w := harness.StartWeir(t, block("mirror", upstream))
	cmd, out := onTerminal(t, w, "warm", "--url", w.URL, "mirror/org/app:v1", "mirror/org/other:v1")
	harness.Eventually(t, "one is done, and the other on its way", func() bool {
		return strings.Contains(out.String(), "warm mirror/org/other:v1: new ") &&
			regexp.MustCompile(`mirror/org/app:v1 +\d+ ?%.*MiB / .*MiB`).MatchString(out.String())
	})
	gate.Open()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	harness.Eventually(t, "the sum", func() bool { return out.Count("images: 2 warm, 0 failed") > 0 })
}

// A real registry's image, from a list on standard input, and clients' own pulls
// after that cost the registry nothing.
func TestWarmRealRegistry(t *testing.T) {
	d := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	img := harness.NewImage(t, 100_000, 10)
	push := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + d.Addr}
	push.PushIndex(t, "library/app", "1.2", map[string]*harness.Image{"amd64": img, "arm64": harness.NewImage(t, 1000)})
	w := harness.StartWeir(t, fmt.Sprintf("[repository.\"docker.io\"]\ndefault = true\n[[repository.\"docker.io\".upstream]]\nurl = \"http://%s\"\n", d.Addr))
	cmd := exec.CommandContext(t.Context(), harness.Binary(), "warm", "--url", w.URL, "--file", "-")
	cmd.Stdin = strings.NewReader("library/app:1.2\n")
	if out := harness.Run(t, cmd); !strings.Contains(out, "images: 1 warm, 0 failed") {
		t.Error(out)
	}
	before := d.Served("GET", "/library/app/")
	pullImage(t, w, "docker.io/library/app", img.Digest.String(), img)
	if after := d.Served("GET", "/library/app/"); after != before {
		t.Errorf("a pull of a warm image cost %d GETs\n%s", after-before, d.Log)
	}
}

// The mirror warms by itself what its configuration names, and what a change of
// it adds; what fails is logged, with the next try.
func TestWarmBySchedule(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", 40*kib)
	later := publish(t, upstream, "org/later", "v1", 50*kib)
	config := func(images ...string) string {
		return block("mirror", upstream) + fmt.Sprintf("[[repository.\"mirror\".warm]]\nplatforms = [\"linux/arm64\"]\nimages = [\"%s\"]\n", strings.Join(images, `", "`))
	}
	w := harness.StartWeir(t, config("org/app:v1", "mirror/org/missing:v1"))
	w.Logs(t, `"an image is warm"`, "mirror/org/app:v1")
	w.Logs(t, "org/missing", "it is tried again in 1m0s")
	got := contentRequests(upstream)
	if got[image.arm64Layer.String()] != 1 || got[image.amd64Layer.String()] != 0 {
		t.Errorf("the upstream was asked for %v", got)
	}
	w.MetricIs(t, 1, "weir_warm_failing", "namespace", "mirror")
	w.MetricIs(t, 1, "weir_warm_total", "namespace", "mirror", "result", "done")

	harness.WriteFile(t, w.Config, config("org/app:v1", "org/later:v1"))
	w.Logs(t, `"an image is warm"`, "mirror/org/later:v1")
	if got := contentRequests(upstream); got[later.arm64Layer.String()] != 1 || got["v1"] != 2 {
		t.Errorf("after the change the upstream was asked for %v", got)
	}
	w.MetricIs(t, 0, "weir_warm_failing", "namespace", "mirror")
	expectContent(t, "a layer", w.Get(t, blobPath("mirror/org/later", later.arm64Layer)), later.arm64Layer, statusHit)

	gate := upstreamtest.NewGate()
	upstream.AddImage("org/held", "v1", []byte("a layer"))
	upstream.Fault(upstreamtest.Path("org/held"), upstreamtest.Hold(gate))
	harness.WriteFile(t, w.Config, config("org/held:v1"))
	arrived(t, gate, 1)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("a warming under way kept the mirror from ending: exit code %d", code)
	}
}

// What the schedule cannot do is said before anything starts.
func TestWarmConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[[repository.\"ghcr.io\".upstream]]\nurl = \"https://ghcr.io\"\n"+
		"[[repository.\"ghcr.io\".warm]]\nimages = [\"quay.io/org/app\", \"UPPER\"]\nevery = \"1s\"\nplatforms = [\"arm\"]\n[[repository.\"ghcr.io\".warm]]\n")
	got := command(t, dir, "check")
	for _, want := range []string{
		`config.toml:4: repository."ghcr.io".warm[0].images[0]: quay.io/org/app is not below ghcr.io`, `images[1]: "UPPER" is not an image`,
		`config.toml:5: repository."ghcr.io".warm[0].every: must be at least 1m`, `config.toml:6: repository."ghcr.io".warm[0].platforms[0]: "arm" is not a platform`,
		`repository."ghcr.io".warm[1].images: is missing`,
	} {
		if got.code != 2 || !strings.Contains(got.stderr, want) {
			t.Errorf("it does not say %q:\n%s", want, got.stderr)
		}
	}
}
