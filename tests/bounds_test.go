package tests

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// heapAfter returns the bytes that a mirror's heap holds after more garbage collections
// than anything unreachable survives. It starts with GOGC=10, so each one is cheap.
func heapAfter(t *testing.T, w *harness.Weir) int {
	t.Helper()
	least := w.Metric(t, "go_memstats_heap_inuse_bytes")
	for range 12 { // each makes garbage for a collection or two
		least = min(least, w.Metric(t, "go_memstats_heap_inuse_bytes"))
	}
	return int(least)
}

// concurrently calls f for 0 to n-1, a few at once.
func concurrently(n int, f func(i int)) {
	var all sync.WaitGroup
	places := make(chan struct{}, 8)
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			f(i)
		})
	}
	all.Wait()
}

// Headers of megabytes from a hostile upstream are not kept, whichever they are, and cost
// its neighbours nothing. Before, 4 challenges took 28 MiB for as long as Weir ran.
func TestHugeHeaders(t *testing.T) {
	testutil.Long(t, "reads headers of many MiB")
	t.Parallel()
	long := strings.Repeat("x", 3*mib)
	names := []string{"challenge", "type", "link", "location", "digest", "unknown"}
	honest := upstreamtest.New(t)
	config := block("honest", honest)
	for _, name := range names {
		upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{}))
		value := map[string]upstreamtest.Effect{
			"challenge": upstreamtest.Header("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x",more=%q`, upstream.TokenURL(), long)),
			"type":      upstreamtest.Header("Content-Type", "application/vnd."+long+"+json"),
			"link":      upstreamtest.Header("Link", "</v2/app/tags/list?last="+long+`>; rel="next"`),
			"location":  upstreamtest.Header("Location", "/"+long),
			"digest":    upstreamtest.Header("Docker-Content-Digest", "sha256:"+long),
			"unknown":   upstreamtest.Header("X-Other", long),
		}
		effects := []upstreamtest.Effect{value[name]}
		switch name {
		case "challenge":
			effects = append(effects, upstreamtest.Status(401, ""))
		case "location":
			effects = append(effects, upstreamtest.Status(307, ""))
		case "type": // the HEAD of a manifest
			effects = append(effects, upstreamtest.Header("Docker-Content-Digest", digest.FromString("x").String()), upstreamtest.Status(200, ""))
		case "link":
			effects = append(effects, upstreamtest.Status(200, `{"tags":["v1"]}`))
		}
		upstream.Fault(func(r *http.Request) bool { return !upstreamtest.Tokens(r) }, effects...)
		config += block(name, upstream)
	}
	w := harness.StartWeir(t, config, "GOGC=10")
	image := honest.AddImage("app", "v1", []byte("a layer"))
	before := heapAfter(t, w)
	concurrently(4*len(names), func(i int) {
		name := names[i%len(names)]
		method, path := http.MethodHead, fmt.Sprintf("/v2/%s/app%d/manifests/v1", name, i)
		if name == "link" {
			method, path = http.MethodGet, fmt.Sprintf("/v2/%s/app%d/tags/list", name, i)
		}
		if a := w.Do(t, method, path); a.Status < 400 {
			t.Errorf("%s is %d", path, a.Status)
		}
	})
	expectContent(t, "a neighbour", w.Get(t, manifestPath("honest/app", "v1")), image.Digest, statusStored)
	if after := heapAfter(t, w); after-before > 8*mib {
		t.Errorf("the heap has grown from %d to %d MiB", before/mib, after/mib)
	} else {
		t.Logf("the heap has grown from %d to %d MiB", before/mib, after/mib)
	}
}

// The lines of a client's requests are not kept with the names in them. Before, 300
// remembered "not found" took 21 MiB.
func TestHugeRequestLines(t *testing.T) {
	testutil.Long(t, "sends request lines of many MiB")
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream, `negative_ttl = "1h"`, "immutable_tags = true", `immutable_tags_exclusions = ["^x"]`), "GOGC=10")
	before := heapAfter(t, w)
	pad := strings.Repeat("x", 50*kib)
	concurrently(300, func(i int) {
		accept := fmt.Sprintf("text/%s, application/vnd.t%d+json", pad[:8*kib], i)
		path := fmt.Sprintf("/v2/mirror/app/manifests/v%d?pad=%s", i, pad)
		if a := w.Get(t, path, "Accept", accept); a.Status != 404 {
			t.Errorf("%.40s is %d", path, a.Status)
		}
	})
	after := heapAfter(t, w)
	t.Logf("the heap has grown from %d to %d MiB", before/mib, after/mib)
	if after-before > 8*mib {
		t.Errorf("the heap has grown from %d to %d MiB", before/mib, after/mib)
	}
}

// Every answer tells browsers to believe its type: those of the API, errors, content, and
// the pages of the mirror itself.
func TestNoSniffing(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("app", "v1", []byte("<script>"))
	w := harness.StartWeir(t, block("mirror", upstream))
	for _, path := range []string{
		"/v2/", "/v2/mirror/app/manifests/v1", "/v2/mirror/app/manifests/none", "/v2/mirror/app/tags/list", "/v2/_catalog", "/v2/nonsense",
		"/v2/mirror/app/referrers/" + image.Digest.String(), "/v2/other/app/manifests/v1", "/", "/healthz", "/readyz", "/metrics", "/favicon.ico", "/x/../y",
		blobPath("mirror/app", image.Digest),
	} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			a := w.Do(t, method, path)
			if got := a.Header.Values("X-Content-Type-Options"); len(got) != 1 || got[0] != "nosniff" {
				t.Errorf("%s %s: %d, X-Content-Type-Options: %q", method, path, a.Status, got)
			}
		}
	}
}

// A manifest whose media type is a page's, or megabytes long, is served as the image that
// it is, so no browser gets a page. Its records and the memory for it stay small.
func TestOddMediaTypes(t *testing.T) {
	testutil.Long(t, "reads media types of many MiB")
	t.Parallel()
	upstream := upstreamtest.New(t)
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("mirror", upstream, `tag_ttl = "1h"`), "GOGC=10")
	const images = 6
	for i := range images {
		own := []string{"text/html", "application/vnd." + strings.Repeat(fmt.Sprint(i), 2*mib) + "+json", "image/svg+xml"}[i%3]
		upstream.AddManifest("app", fmt.Sprint("v", i), "text/html",
			fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q},"layers":[]}`, own, digest.FromString("x")))
	}
	before := heapAfter(t, w)
	for i := range images {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodGet} {
			a := w.Do(t, method, manifestPath("mirror/app", fmt.Sprint("v", i)))
			if got := a.Header.Get("Content-Type"); a.Status != 200 || got != ocispec.MediaTypeImageManifest {
				t.Errorf("%s of v%d is %d, a %.80s", method, i, a.Status, got)
			}
		}
	}
	// The manifests themselves are too large for the memory of small content.
	if grown := heapAfter(t, w) - before; grown > 6*mib {
		t.Errorf("the heap has grown by %d MiB", grown/mib)
	} else {
		t.Logf("the heap has grown by %d MiB", grown/mib)
	}
	size := 0
	for _, path := range files(t, filepath.Join(w.Data, "records")) {
		info, err := os.Stat(path)
		harness.Must(t, err)
		if info.Mode().IsRegular() {
			size += int(info.Size())
		}
	}
	if size == 0 || size > 64*kib {
		t.Errorf("the records have %d KiB", size/kib)
	}
}

// Lists that a hostile registry makes large cost their own clients an error, and no
// neighbour anything. Before, one list of 31 MiB of {} took 6 GB.
func TestHugeLists(t *testing.T) {
	testutil.Long(t, "reads lists of many MiB")
	t.Parallel()
	const size = 7 * mib // below the bound of bytes, so that the others hold
	fill := func(before, value, after string) string {
		return before + strings.Repeat(value+",", size/(len(value)+1)) + value + after
	}
	index := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[`
	bodies := map[string]string{
		"objects":     fill(index, "{}", "]}"),
		"annotations": fill(index+`{"annotations":{`, `"a":""`, "}}]}"),
		"features":    fill(index+`{"platform":{"os.features":[`, `""`, "]}}]}"),
		"keys":        fill(index+`],`, `"manifests":[{}]`, "}"),
		"deep":        strings.Repeat("[", size),
		"tags":        fill(`{"tags":[`, `"a"`, "]}"),
		"endless":     fill(index, "{}", "]}") + strings.Repeat(" ", 4*mib),
	}
	honest := upstreamtest.New(t)
	image := honest.AddImage("app", "v1", []byte("a layer"))
	config := block("honest", honest)
	for name, body := range bodies {
		upstream := upstreamtest.New(t)
		upstream.Fault(upstreamtest.Any, upstreamtest.Status(200, body), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex))
		config += block(name, upstream)
	}
	w := harness.StartWeir(t, config, "GOGC=10")
	before := w.Metric(t, "go_memstats_heap_sys_bytes")
	var all sync.WaitGroup
	for name := range bodies {
		for i := range 3 {
			all.Go(func() {
				path := fmt.Sprintf("/v2/%s/app%d/referrers/%s", name, i, image.Digest)
				if name == "tags" {
					path = fmt.Sprintf("/v2/tags/app%d/tags/list", i)
				}
				if a := w.Get(t, path); a.Status != 502 {
					t.Errorf("%s is %d with %d bytes", path, a.Status, len(a.Body))
				}
			})
		}
	}
	expectContent(t, "a neighbour", w.Get(t, manifestPath("honest/app", "v1")), image.Digest, statusStored)
	all.Wait()
	// It never shrinks, so it is the most that there was.
	if grown := int(w.Metric(t, "go_memstats_heap_sys_bytes") - before); grown > 300*mib {
		t.Errorf("the heap has grown by %d MiB", grown/mib)
	} else {
		t.Logf("the heap has grown by %d MiB", grown/mib)
	}
}

// Images that are kept warm have manifests, or lists of referrers, that would take gigabytes
// when they are decoded. Their warming fails, and the mirror goes on.
func TestHugeWarmings(t *testing.T) {
	testutil.Long(t, "reads manifests of many MiB")
	t.Parallel()
	fill := func(size int, before, value, after string) string {
		return before + strings.Repeat(value+",", size/(len(value)+1)) + value + after
	}
	index := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[`
	forms := func(size int) map[string]string {
		return map[string]string{
			"objects":     fill(size, index, "{}", "]}"),
			"annotations": fill(size, index+`{"annotations":{`, `"a":""`, "}}]}"),
			"features":    fill(size, index+`{"platform":{"os.features":[`, `""`, "]}}]}"),
			"keys":        fill(size, index+`],`, `"manifests":[{}]`, "}"),
			"deep":        index + strings.Repeat("[", size),
		}
	}
	honest := upstreamtest.New(t)
	image := honest.AddImage("app", "v1", []byte("a layer"))
	config, images := block("honest", honest), 0
	// Below the bounds of bytes, so that the others hold.
	for part, bodies := range map[string]map[string]string{"manifests": forms(4 * mib), "referrers": forms(7 * mib)} {
		for form, body := range bodies {
			upstream := upstreamtest.New(t)
			upstream.AddImage("app", "v1", []byte("a layer"))
			upstream.Fault(upstreamtest.Path("/"+part+"/"), upstreamtest.Status(200, body), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex))
			key := part + "-" + form
			config += block(key, upstream) + fmt.Sprintf("[[repository.%q.warm]]\nimages = [\"app:v1\"]\n", key)
			images++
		}
	}
	w := harness.StartWeir(t, config, "GOGC=10")
	failing := func() int { return int(w.Metric(t, "weir_warm_failing")) }
	if !harness.Within(2*time.Minute, func() bool { return failing() == images }) {
		t.Errorf("%d of %d warmings have failed", failing(), images)
	}
	expectContent(t, "a neighbour", w.Get(t, manifestPath("honest/app", "v1")), image.Digest, statusStored)
	// It never shrinks, so it is the most that there was.
	heap := int(w.Metric(t, "go_memstats_heap_sys_bytes"))
	if t.Logf("the heap has %d MiB", heap/mib); heap > 200*mib {
		t.Errorf("the heap has %d MiB", heap/mib)
	}
}

// Many registries send the worst lists that are allowed, all at once, and the memory does not
// grow with their number. Before, 24 of them with four clients each took 4.4 GiB.
func TestWorstListsOfManyRegistries(t *testing.T) {
	testutil.Long(t, "reads lists of 8 MiB")
	t.Parallel()
	tags := make([]string, 99_000)
	for i := range tags {
		tags[i] = fmt.Sprintf(`"%080d"`, i)
	}
	var annotations []string
	for letter := 'a'; letter < 'u'; letter++ {
		annotations = append(annotations, fmt.Sprintf(`"%c":"abcdefghijk"`, letter))
	}
	referrers := make([]string, 9900)
	for i := range referrers {
		referrers[i] = fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":2,"annotations":{%s}}`,
			ocispec.MediaTypeImageManifest, digest.FromString(fmt.Sprint(i)), strings.Join(annotations, ","))
	}
	lists := map[string]string{
		"/tags/list": `{"tags":[` + strings.Join(tags, ",") + `]}`,
		"/referrers/" + digest.FromString("x").String(): `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[` + strings.Join(referrers, ",") + `]}`,
	}
	const registries, clients = 10, 3
	var config strings.Builder
	for i := range registries {
		upstream := upstreamtest.New(t)
		for path, list := range lists {
			upstream.Fault(upstreamtest.Path(path), upstreamtest.Status(200, list), upstreamtest.Header("Content-Type", ocispec.MediaTypeImageIndex))
		}
		config.WriteString(block(fmt.Sprint("r", i), upstream))
	}
	// The race detector would take most of the memory.
	shipped := harness.BuildShipped(t)
	for path := range lists {
		w := harness.StartWeirAs(t, t.TempDir(), config.String(), func(cmd *exec.Cmd) { cmd.Path = shipped })
		before := peak(t, w)
		var all sync.WaitGroup
		for i := range registries * clients {
			all.Go(func() {
				if a := w.Get(t, fmt.Sprintf("/v2/r%d/app%d%s", i%registries, i, path)); a.Status != 200 || len(a.Body) < 4*mib {
					t.Errorf("%.20s is %d with %d bytes", path, a.Status, len(a.Body))
				}
			})
		}
		all.Wait()
		grown := peak(t, w) - before
		if t.Logf("%.20s: the memory has grown by %d MiB", path, grown/mib); grown > 400*mib {
			t.Errorf("%.20s: the memory has grown by %d MiB", path, grown/mib)
		}
	}
}
