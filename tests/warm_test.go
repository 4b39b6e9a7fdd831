package tests

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
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
	index, amd64, arm64     ocispec.Descriptor
	signature, armSignature ocispec.Descriptor
	blobs                   []digest.Digest // of the image, each once: of both platforms, of amd64, of arm64
}

// publish adds such an image, with three layers of a size. They come of the
// repository's name, so that no two have any in common.
func publish(t *testing.T, upstream *upstreamtest.Registry, repo, tag string, size int64) published {
	t.Helper()
	layer := func(name string) []byte {
		content := make([]byte, size)
		copy(content, name+" of "+repo)
		return content
	}
	one, two, shared := layer("one"), layer("two"), layer("shared")
	p := published{amd64: upstream.AddImage(repo, tag+"-amd64", shared, one), arm64: upstream.AddImage(repo, tag+"-arm64", shared, two)}
	for _, content := range [][]byte{shared, one, two} {
		p.blobs = append(p.blobs, digest.FromBytes(content))
	}
	p.amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	p.arm64.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	p.index = upstream.AddIndex(repo, tag, p.amd64, p.arm64)
	p.signature = upstream.AddReferrer(repo, p.index, "example/signature", []byte("signs the index of "+repo))
	p.armSignature = upstream.AddReferrer(repo, p.arm64, "example/signature", []byte("signs arm64 of "+repo))
	return p
}

// asked returns the requests to an upstream since the last call, in order,
// without those for referrers.
func asked(upstream *upstreamtest.Registry) []string {
	requests := slices.DeleteFunc(upstream.Requests(), func(r string) bool { return strings.Contains(r, "/referrers/") })
	upstream.ResetRequests()
	return requests
}

// progress are the lines that tell of an image that takes long, as each may on a busy machine.
var progress = regexp.MustCompile(`(?m)^warming .*\n`)

// expectWarm fails the test unless a run printed this and no failure.
func expectWarm(t *testing.T, label string, got result, stdout ...string) {
	t.Helper()
	if got.code != 0 || progress.ReplaceAllString(got.stderr, "") != "" {
		t.Errorf("%s: %+v", label, got)
	}
	for _, want := range stdout {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("%s: printed %q, want %q", label, got.stdout, want)
		}
	}
}

// A cold image costs its upstream one GET for each blob; a warm one a HEAD
// of the tag. Both also cost the requests for referrers.
func TestWarmOnTheWire(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", 40*kib)
	w := harness.StartWeir(t, block("mirror", upstream))

	got := warm(t, w, "mirror/org/app:v1")
	expectWarm(t, "cold", got, "warm mirror/org/app:v1: new 13 objects, ", "; already cached 0 objects, 0 B\n", "images: 1 warm, 0 failed; new 13 objects, ")
	requests := asked(upstream)
	if len(requests) == 0 || requests[0] != "GET "+manifestPath("org/app", "v1")+" 200" {
		t.Errorf("asked first: %q", requests)
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(requests)))
	if len(requests) != 13 || len(distinct) != 13 || slices.ContainsFunc(requests, func(r string) bool { return !strings.HasPrefix(r, "GET ") }) {
		t.Errorf("asked:\n%s", strings.Join(requests, "\n"))
	}
	for _, dgst := range []digest.Digest{image.amd64.Digest, image.arm64.Digest, image.signature.Digest, image.armSignature.Digest} {
		expectContent(t, "a manifest", w.Get(t, manifestPath("mirror/org/app", dgst.String())), dgst, statusHit)
	}
	for _, dgst := range append(image.blobs, digest.FromString("signs arm64 of org/app")) {
		expectContent(t, "a blob", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusHit)
	}

	got = warm(t, w, "mirror/org/app:v1")
	expectWarm(t, "warm", got, "images: 1 warm, 0 failed; new 0 objects, 0 B; already cached 13 objects, ")
	if requests := asked(upstream); !slices.Equal(requests, []string{"HEAD " + manifestPath("org/app", "v1") + " 200"}) {
		t.Errorf("a warm image: asked %q", requests)
	}

	got = warm(t, w, "--referrers=false", "mirror/org/app@"+image.index.Digest.String())
	expectWarm(t, "by digest", got, "new 0 objects, 0 B; already cached 8 objects, ")
	expectWire(t, upstream, "by digest, without referrers")
	w.ExpectIntact(t)
}

func TestWarmPlatforms(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t, upstreamtest.WithoutReferrers())
	image := publish(t, upstream, "org/app", "v1", kib)
	w := harness.StartWeir(t, block("mirror", upstream))

	expectWarm(t, "one platform", warm(t, w, "--platform", "linux/amd64", "mirror/org/app:v1"), "images: 1 warm, 0 failed")
	expectContent(t, "wanted", w.Get(t, blobPath("mirror/org/app", image.blobs[1])), image.blobs[1], statusHit)
	for _, r := range upstream.Requests() {
		for _, unwanted := range []digest.Digest{image.arm64.Digest, image.armSignature.Digest, image.blobs[2]} {
			if strings.Contains(r, unwanted.String()) {
				t.Errorf("asked for content of another platform: %s", r)
			}
		}
	}
	got := warm(t, w, "--platform", "linux/s390x,windows/amd64", "mirror/org/app:v1")
	expectFailed(t, "no such platform", got, 1,
		"failed mirror/org/app:v1: v1 has none of the requested platforms (linux/s390x, windows/amd64), only linux/amd64, linux/arm64\n",
		"images: 0 warm, 1 failed", "weir: failed images: 1")
	expectWarm(t, "all, with the fallback tag of referrers", warm(t, w, "mirror/org/app:v1"), "images: 1 warm, 0 failed")
	for _, dgst := range []digest.Digest{image.arm64.Digest, image.signature.Digest, image.armSignature.Digest} {
		expectContent(t, "a manifest", w.Get(t, manifestPath("mirror/org/app", dgst.String())), dgst, statusHit)
	}
}

// An image may be listed in a file or on standard input, with comments, and is
// warmed once.
func TestWarmLists(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	for _, repo := range []string{"org/one", "org/two", "org/three"} {
		publish(t, upstream, repo, "latest", kib)
	}
	w := harness.StartWeir(t, block("mirror", upstream))
	dir := t.TempDir()
	list := filepath.Join(dir, "images.txt")
	harness.WriteFile(t, list, "# all of ours\n\nmirror/org/one\t# the first\r\n   mirror/org/two:latest   \n"+w.Addr+"/mirror/org/one:latest\n")
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "warm", "--url", w.URL, "--file", list, "--file", "-", "mirror/org/one:latest")
	cmd.Stdin = strings.NewReader("mirror/org/three")
	out := harness.Run(t, cmd)
	if !strings.Contains(out, "images: 3 warm, 0 failed") || strings.Count(out, "warm mirror/") != 3 {
		t.Errorf("printed %q", out)
	}

	harness.WriteFile(t, list, "mirror/org/one\nmirror/Org/two\n")
	expectFailed(t, "a name that is none", warm(t, w, "--file", list), 2, "line 2 of "+list, `"mirror/Org/two" is not an image`)
	for _, args := range [][]string{{"--file", filepath.Join(dir, "none")}, {}, {"--jobs", "0", "nginx"}, {"--platform", "amd64", "nginx"}} {
		if got := warm(t, w, args...); got.code != 2 || got.stdout != "" || !strings.HasPrefix(got.stderr, "weir: ") {
			t.Errorf("weir warm %q: %+v", args, got)
		}
	}
}

// expectFailed fails the test unless a run ended with a code and printed this, on
// whichever output.
func expectFailed(t *testing.T, label string, got result, code int, texts ...string) {
	t.Helper()
	if got.code != code {
		t.Errorf("%s: exit code %d, want %d", label, got.code, code)
	}
	for _, want := range texts {
		if !strings.Contains(got.stdout+got.stderr, want) {
			t.Errorf("%s: printed %q and %q, want %q", label, got.stdout, got.stderr, want)
		}
	}
}

// However an image of Docker Hub is spelled, and with the mirror's address before
// it or not, it is the same one.
func TestWarmNames(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	publish(t, upstream, "library/nginx", "latest", kib)
	publish(t, upstream, "grafana/grafana", "1", kib)
	w := harness.StartWeir(t, fmt.Sprintf("[repository.\"docker.io\"]\ndefault = true\n[[repository.\"docker.io\".upstream]]\nurl = \"http://registry-1.docker.io\"\nproxy = %q\n", upstream.URL.String()))
	expectWarm(t, "cold", warm(t, w, "docker.io/library/nginx", "docker.io/grafana/grafana:1"), "images: 2 warm, 0 failed; new ")
	_, port, _ := strings.Cut(w.Addr, ":")
	got := warm(t, w, "nginx", "nginx:latest", "library/nginx", "docker.io/nginx", w.Addr+"/nginx", "localhost:"+port+"/docker.io/library/nginx", "grafana/grafana:1")
	expectWarm(t, "in other words", got, "images: 5 warm, 0 failed; new 0 objects, 0 B")

	// Without --url it is the mirror of the configuration.
	dir := t.TempDir()
	config := filepath.Join(dir, "config.toml")
	harness.WriteFile(t, config, "[server]\nport = "+port+"\n")
	expectWarm(t, "by the configuration", command(t, dir, "warm", "nginx"), "images: 1 warm, 0 failed; new 0 objects, 0 B")
	harness.WriteFile(t, config, "[server]\nport = 0\n")
	expectFailed(t, "any port", command(t, dir, "warm", "nginx"), 1, "or name the mirror with --url")
}

// An image that fails is named with its reason, and does not stop the others.
func TestWarmFailures(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	publish(t, upstream, "org/good", "v1", kib)
	bad := publish(t, upstream, "org/bad", "v1", kib)
	upstream.Remove("org/bad", bad.blobs[2])
	w := harness.StartWeir(t, block("mirror", upstream))
	got := warm(t, w, "mirror/org/none:v1", "mirror/org/bad:v1", "mirror/org/good:v1", "unknown/app")
	expectFailed(t, "some fail", got, 1,
		"failed mirror/org/none:v1: manifest v1: 404: ",
		"failed mirror/org/bad:v1: blob "+bad.blobs[2].String()+": 404: ",
		"failed unknown/app: manifest latest: 404: ",
		"warm mirror/org/good:v1: new 1", // the empty configuration may be there already
		"images: 1 warm, 3 failed; new ",
		"weir: failed images: 3\n")
	if quiet := warm(t, w, "--quiet", "mirror/org/good:v1"); quiet != (result{}) {
		t.Errorf("quiet: %+v", quiet)
	}

	// A tag that the upstream did not confirm is not known to be warm.
	upstream.Close()
	expectFailed(t, "stale", warm(t, w, "mirror/org/good:v1"), 1, "failed mirror/org/good:v1: manifest v1: the mirror could not confirm it")
	w.Kill()
	expectFailed(t, "no mirror", warm(t, w, "mirror/org/good:v1"), 1, "weir: no mirror answers at ", w.Addr)
}

// An interrupted run says so and leaves nothing behind that is not whole. The
// next one brings only the missing content.
func TestWarmInterrupted(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := publish(t, upstream, "org/app", "v1", mib)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Path(image.blobs[2].String()), upstreamtest.StallAfter(100*kib, gate))
	w := harness.StartWeir(t, block("mirror", upstream))
	var out testutil.LogBuffer
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "warm", "--url", w.URL, "mirror/org/app:v1")
	cmd.Stdout, cmd.Stderr = &out, &out
	harness.Must(t, cmd.Start())
	arrived(t, gate, 1)
	harness.Eventually(t, "the others are there", func() bool { return len(w.Stored(t, "blobs")) == 12 })
	harness.Must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	for _, want := range []string{"unfinished mirror/org/app:v1: new ", "images: 0 warm, 0 failed", "weir: interrupted. Run the command again to continue"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed %q, want %q", out.String(), want)
		}
	}
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	gate.Open()
	expectWarm(t, "again", warm(t, w, "mirror/org/app:v1"), "images: 1 warm, 0 failed")
	gets := 0
	for _, r := range asked(upstream) {
		if strings.HasPrefix(r, "GET ") && !strings.Contains(r, " bytes=") {
			gets++
		}
	}
	if gets != 13 {
		t.Errorf("%d contents were asked for, want each once", gets)
	}
	w.ExpectIntact(t)
}

// --jobs bounds how many images come at once, and allows that many.
func TestWarmJobs(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	var images []string
	for i := range 3 {
		repo := fmt.Sprint("org/app", i)
		publish(t, upstream, repo, "v1", kib)
		images = append(images, "mirror/"+repo+":v1")
	}
	gate := upstreamtest.NewGate()
	held := upstream.Fault(upstreamtest.Path("/manifests/v1"), upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("mirror", upstream))
	done := make(chan result)
	go func() { done <- warm(t, w, append(images, "--jobs", "3")...) }()
	arrived(t, gate, 3)
	gate.Open()
	expectWarm(t, "three at once", <-done, "images: 3 warm, 0 failed")
	held.Remove()

	upstream.ResetRequests()
	w = harness.StartWeir(t, block("mirror", upstream))
	expectWarm(t, "one after another", warm(t, w, append(images, "--jobs", "1")...), "images: 3 warm, 0 failed")
	var order []string
	for _, r := range upstream.Requests() {
		repo, _, _ := strings.Cut(strings.TrimPrefix(strings.Fields(r)[1], "/v2/org/"), "/")
		order = append(order, repo)
	}
	if order = slices.Compact(order); !slices.Equal(order, []string{"app0", "app1", "app2"}) {
		t.Errorf("asked in the order %q", order)
	}
}

// A real registry is asked for no content that is warm.
func TestWarmFromARealRegistry(t *testing.T) {
	t.Parallel()
	real := harness.StartDistribution(t, http.DefaultClient, "http", "", "")
	pusher := &harness.Pusher{Client: http.DefaultClient, Base: "http://" + real.Addr}
	images := map[string]*harness.Image{"amd64": harness.NewImage(t, 30*kib, 10*kib), "arm64": harness.NewImage(t, 20*kib)}
	index := digest.FromBytes(pusher.PushIndex(t, "org/app", "v1", images))
	w := harness.StartWeir(t, fmt.Sprintf("[repository.mirror]\n%s[[repository.mirror.upstream]]\nurl = \"http://%s\"\n", inOrder(nil), real.Addr))
	expectWarm(t, "cold", warm(t, w, "mirror/org/app:v1"), "images: 1 warm, 0 failed; new 8 objects, ")
	before := real.Served("GET", "")
	expectWarm(t, "warm", warm(t, w, "mirror/org/app:v1"), "new 0 objects, 0 B; already cached 8 objects, ")
	expectContent(t, "the tag", w.Get(t, manifestPath("mirror/org/app", "v1")), index, statusRevalidated)
	for _, image := range images {
		expectContent(t, "a manifest", w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusHit)
		for _, layer := range image.Layers {
			expectContent(t, "a layer", w.Get(t, blobPath("mirror/org/app", digest.FromBytes(layer))), digest.FromBytes(layer), statusHit)
		}
	}
	if n := real.Served("GET", "") - before; n != 0 {
		t.Errorf("a warm image cost %d GETs", n)
	}
}
