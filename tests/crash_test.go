package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A mirror that was killed in the middle of a download leaves nothing behind
// that the next one would serve, or keep. This test does not run beside others,
// since it is about time.
func TestCrash(t *testing.T) {
	s := newStalled(t, "")
	s.gate.Open()
	warm := addRandom(t, s.upstream, "org/app", mib, 70)
	image := s.upstream.AddImage("org/app", "v1", []byte("a layer"))
	expectContent(t, "warm blob", s.Get(t, blobPath("mirror/org/app", warm)), warm, statusStored)
	expectContent(t, "warm manifest", s.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
	s.MetricIs(t, 0, "weir_downloads")
	s.upstream.ClearFaults()
	gate := upstreamtest.NewGate()
	s.upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(stalledSize/2, gate)).Times(1)
	p := s.Pull(t, s.path)
	arrived(t, gate, 1)
	harness.Eventually(t, "half of the blob is on disk", func() bool { return len(s.Stored(t, "tmp")) == 2 })
	s.Kill()
	if p.Wait(t); p.Err == nil {
		t.Errorf("the client took %d of %d bytes for whole", p.Length, stalledSize)
	}
	if left := s.Stored(t, "tmp"); len(left) != 2 {
		t.Fatalf("the killed mirror left %q, want a lock and a spool", left)
	}
	s.upstream.ResetRequests()

	// A mirror that waits for something at its start is late each time. A machine that
	// has other work to do may hold up any process once.
	var start time.Time
	var next *harness.Weir
	for try := range 3 {
		start = time.Now()
		next = harness.StartWeirIn(t, s.dir, block("mirror", s.upstream))
		expect(t, "ready", next.Get(t, "/readyz"), http.StatusOK, "")
		took := time.Since(start)
		if took <= 5*time.Second {
			break
		}
		if try == 2 {
			t.Errorf("ready after %s, and late twice before", took)
			break
		}
		next.Kill() // which leaves its lock behind
	}
	harness.Eventually(t, "the leftovers are gone", func() bool { return len(next.Stored(t, "tmp")) == 1 })
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the leftovers are gone after %s", took)
	}
	next.Logs(t, "removed the leftovers of an ended process")
	expectContent(t, "warm blob", next.Get(t, blobPath("mirror/org/app", warm)), warm, statusHit)
	expectContent(t, "warm manifest", next.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusHit)
	expectWire(t, s.upstream, "warm")
	next.Pull(t, s.path).Whole(t, "the blob", s.digest)
	expectWire(t, s.upstream, "the blob", "GET "+blobPath("org/app", s.digest)+" 200")
	next.MetricIs(t, 0, "weir_downloads")
	next.ExpectIntact(t)
}

// After a power cut the files that were not flushed may have any bytes. The mirror serves
// none of them, fetches the torn content again, and keeps the rest.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for name, tear := range map[string]func(content []byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"cut":   func(content []byte) []byte { return content[:len(content)/2] },
		"zeros": func(content []byte) []byte { return make([]byte, len(content)) },
		"half zero": func(content []byte) []byte {
			return append(content[:len(content)/2], make([]byte, (len(content)+1)/2)...)
		},
		"intact": func(content []byte) []byte { return content },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			image := addScenario(t, upstream, 7)
			first := harness.StartWeirIn(t, t.TempDir(), block("mirror", upstream))
			image.pull(t, "before the power cut", first)
			first.Kill()
			torn := 0
			for _, file := range append(first.Stored(t, "blobs"), first.Stored(t, "records")...) {
				path := filepath.Join(first.Data, file)
				content, err := os.ReadFile(path)
				harness.Must(t, err)
				harness.WriteFile(t, path, string(tear(content)))
				// On a busy machine, some have been flushed by now.
				harness.Must(t, os.Chmod(path, 0o600|os.ModeSticky))
				torn++
			}
			if torn < 6 { // three blobs and their records
				t.Fatalf("%d files are stored", torn)
			}

			upstream.ResetRequests()
			next := harness.StartWeirIn(t, filepath.Dir(first.Data), block("mirror", upstream))
			image.pull(t, "after the power cut", next)
			image.pull(t, "and again", next)
			next.ExpectIntact(t)
			result := "damaged"
			if name == "intact" {
				result = "intact"
			}
			next.MetricIs(t, 3, "weir_store_suspects_total", "result", result)
			if fetched := slices.ContainsFunc(upstream.Requests(), func(request string) bool {
				return strings.HasPrefix(request, "GET "+blobPath(image.repo, image.layers[1]))
			}); fetched != (name != "intact") {
				t.Errorf("%q", upstream.Requests())
			}
		})
	}
}

// A record that does not make sense counts as none: the upstream is asked
// again.
func TestGarbageInRecords(t *testing.T) {
	t.Parallel()
	for name, garbage := range map[string]string{
		"empty": "", "binary": "\x00\xff\xfe garbage", "cut": `{"descriptor":{"mediaType":"appl`, "another": `{"a":1}`, "list": "[]", "null": "null",
		"wrong": `{"descriptor":{"mediaType":"text/plain","digest":"sha256:../../../etc/passwd","size":-1},"checked":"2030-01-01T00:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			upstream := upstreamtest.New(t)
			image := upstream.AddImage("org/app", "v1", []byte("a layer"))
			config := block("mirror", upstream, "immutable_tags = true")
			first := harness.StartWeirIn(t, dir, config)
			manifest := first.Get(t, manifestPath("mirror/org/app", "v1"))
			expectContent(t, "manifest", manifest, image.Digest, statusStored)
			layer := contentOf(t, manifest.Body)[1]
			expectContent(t, "layer", first.Get(t, blobPath("mirror/org/app", layer)), layer, statusStored)
			tags := first.Get(t, "/v2/mirror/org/app/tags/list").Body
			first.MetricIs(t, 0, "weir_downloads")
			first.Kill()
			spoiled := 0
			for _, name := range first.Stored(t, "records") {
				harness.WriteFile(t, filepath.Join(first.Data, name), garbage)
				spoiled++
			}
			if spoiled < 4 {
				t.Fatalf("%d records, want those of a tag, a list and two links", spoiled)
			}

			next := harness.StartWeirIn(t, dir, config)
			if a := next.Get(t, "/v2/_catalog"); a.Status != http.StatusOK {
				t.Errorf("catalog: %d %s", a.Status, a.Body)
			}
			upstream.ResetRequests()
			expectContent(t, "manifest", next.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, "")
			expectContent(t, "layer", next.Get(t, blobPath("mirror/org/app", layer)), layer, statusRevalidated)
			expectWire(t, upstream, "spoiled", "GET "+manifestPath("org/app", "v1")+" 200", "GET "+blobPath("org/app", layer)+" 200")
			expectContent(t, "mended manifest", next.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusHit)
			expectContent(t, "mended layer", next.Get(t, blobPath("mirror/org/app", layer)), layer, statusHit)
			expectWire(t, upstream, "mended")
			upstream.Close()
			a := next.Get(t, "/v2/mirror/org/app/tags/list")
			expect(t, "tags", a, http.StatusOK, statusStale)
			if string(a.Body) != string(tags) {
				t.Errorf("tags: %s, were %s", a.Body, tags)
			}
		})
	}
}

// Files that the mirror did not make do not bother it.
func TestForeignFilesInTheData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", mib, 71)
	for _, path := range []string{"blobs/README", "blobs/sha256/zz/file", "blobs/sha256/ab/short", "records/file", "records/mirror/org/app/_tags/x/y", "tmp/file", "lost+found/x"} {
		path = filepath.Join(dir, "data", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		harness.WriteFile(t, path, "not ours")
	}
	w := harness.StartWeirIn(t, dir, block("mirror", upstream))
	expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "warm", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusHit)
	w.MetricIs(t, 1, "weir_store_objects")
	w.MetricIs(t, mib, "weir_store_bytes")
	expect(t, "catalog", w.Get(t, "/v2/_catalog"), http.StatusOK, "")
}
