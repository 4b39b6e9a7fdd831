package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// onTmpfs returns a directory for a mirror whose data is on a small filesystem
// of its own.
func onTmpfs(t *testing.T, size string) (dir string) {
	t.Helper()
	testutil.Root(t)
	dir = t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o750); err != nil {
		t.Fatal(err)
	}
	mount(t, "tmpfs", data, "tmpfs", 0, "size="+size)
	return dir
}

// mount mounts a filesystem until the test ends.
func mount(t *testing.T, source, target, kind string, flags uintptr, options string) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		t.Fatalf("mount %s: %v", target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Errorf("umount %s: %v", target, err)
		}
	})
}

// A full disk costs the cache, not the clients: content that does not fit is
// served whole, straight from upstream, to all clients.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	large := addRandom(t, upstream, "org/app", 32*mib, 20)
	small := addRandom(t, upstream, "org/app", mib, 21)
	gate := upstreamtest.NewGate()
	upstream.Fault(upstreamtest.Blobs, upstreamtest.Hold(gate))
	w := harness.StartWeirIn(t, onTmpfs(t, "8m"), block("mirror", upstream))

	var pulls []*harness.Pulling
	for range 4 {
		pulls = append(pulls, w.Pull(t, blobPath("mirror/org/app", large)))
	}
	w.MetricIs(t, 4, "weir_download_readers")
	gate.Open()
	for i, p := range pulls {
		p.Whole(t, fmt.Sprint("client ", i), large)
	}
	w.MetricIs(t, 0, "weir_downloads")
	w.Pull(t, blobPath("mirror/org/app", large)).Whole(t, "one more", large)
	// The space behind its last byte is given back, when the last use of its file ends.
	harness.Eventually(t, "the disk has room again", func() bool {
		var fs syscall.Statfs_t
		harness.Must(t, syscall.Statfs(w.Data, &fs))
		return len(w.Stored(t, "tmp")) == 1 && int64(fs.Bavail)*fs.Bsize > 6*mib
	})
	if files := w.Stored(t, "blobs"); len(files) > 0 {
		t.Errorf("stored: %q", files)
	}
	if got := w.Log.Count("cannot store content"); got != 1 {
		t.Errorf("the log says %d times that the disk is full, want once", got)
	}
	if w.Log.Count("cannot store content", "no space left on device", "Free space on this filesystem") != 1 {
		t.Error("the log does not say why content cannot be stored, and how to mend that")
	}
	// Serving goes on, so the mirror is ready, and reports the fault.
	a := w.Get(t, "/readyz")
	expect(t, "ready", a, http.StatusOK, "")
	if !strings.Contains(string(a.Body), "content is served without being stored") || strings.Contains(string(a.Body), w.Data) {
		t.Errorf("/readyz says %q", a.Body)
	}

	expectContent(t, "content that fits", w.Get(t, blobPath("mirror/org/app", small)), small, statusStored)
	w.Logs(t, "content can be stored again")
	expectContent(t, "content that fitted", w.Get(t, blobPath("mirror/org/app", small)), small, statusHit)
	w.ExpectIntact(t)
}

// When there is room again, caching goes on by itself.
func TestRoomAgain(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	dgst := addRandom(t, upstream, "org/app", 2*mib, 22)
	w := harness.StartWeirIn(t, onTmpfs(t, "8m"), block("mirror", upstream))
	filler := filepath.Join(w.Data, "filler")
	// It takes the last byte that there is.
	if err := os.WriteFile(filler, make([]byte, 9*mib), 0o600); err == nil {
		t.Fatal("the filler fits")
	}
	expectContent(t, "full: blob", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, "")
	expectContent(t, "full: manifest", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusPassed)
	if files := w.Stored(t, "blobs"); len(files) > 0 {
		t.Errorf("stored: %q", files)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	expectContent(t, "room: blob", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	expectContent(t, "room: manifest", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
	upstream.ResetRequests()
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "warm: blob", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusHit)
	expectContent(t, "warm: manifest", w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusHit)
	expectWire(t, upstream, "warm")
	w.ExpectIntact(t)
}

// The same holds for the space that the operator wants to keep.
func TestMinFree(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	large := addRandom(t, upstream, "org/app", 4*mib, 23)
	small := addRandom(t, upstream, "org/app", mib, 24)
	w := harness.StartWeirIn(t, onTmpfs(t, "8m"), "[blob_store.fs]\nmin_free = \"5MiB\"\n"+block("mirror", upstream))

	for range 2 {
		expectContent(t, "large", w.Get(t, blobPath("mirror/org/app", large)), large, "")
		w.MetricIs(t, 0, "weir_downloads")
	}
	if got := w.Log.Count("cannot store content", "min_free"); got != 1 {
		t.Errorf("the log says %d times that min_free is reached, want once", got)
	}
	expectContent(t, "small", w.Get(t, blobPath("mirror/org/app", small)), small, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	// A disk that takes small content and refuses large content is one problem.
	expectContent(t, "large again", w.Get(t, blobPath("mirror/org/app", large)), large, "")
	w.MetricIs(t, 0, "weir_downloads")
	if begins, ends := w.Log.Count("cannot store content"), w.Log.Count("can be stored again"); begins != 1 || ends != 0 {
		t.Errorf("the log has %d begins and %d ends of one trouble", begins, ends)
	}
	if files := w.Stored(t, "blobs"); len(files) != 1 || !strings.HasSuffix(files[0], small.Encoded()) {
		t.Errorf("stored: %q", files)
	}
}

// Content that an upstream announces or sends, and that is too large for the store, is no
// trouble of the store: content that fits is stored before and after it.
func TestHugeContentIsNoTrouble(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit     string
		announced int64 // -1: no length
		begin     int   // bytes that come
	}{
		"larger than what is free":          {"min_free = \"16MiB\"", 60 * mib, mib},
		"a part of a GiB":                   {"min_free = \"16MiB\"", 1043333120, mib},
		"the largest length of all":         {"min_free = \"16MiB\"", 1<<63 - 1, mib},
		"endless, to the last byte free":    {"min_free = \"16MiB\"", -1, 60 * mib},
		"larger than max_size":              {"max_size = \"32MiB\"", 40 * mib, mib},
		"the largest length, max_size":      {"max_size = \"32MiB\"", 1<<63 - 1, mib},
		"endless, to the last of max_size":  {"max_size = \"32MiB\"", -1, 40 * mib},
		"endless, with both limits":         {"max_size = \"48MiB\"\nmin_free = \"16MiB\"", -1, 60 * mib},
		"larger than free, with both":       {"max_size = \"1GiB\"\nmin_free = \"16MiB\"", 60 * mib, mib},
		"a tag's digest cannot be stored":   {"max_size = \"32MiB\"", 0, 0},
		"all but a byte of what could come": {"min_free = \"16MiB\"", 48*mib - 1, mib},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			image := upstream.AddImage("org/app", "v1", []byte("a layer"))
			blobs := []digest.Digest{addRandom(t, upstream, "org/app", mib, 90), addRandom(t, upstream, "org/app", mib, 91)}
			hostile, _ := tarpit(t, c.announced, c.begin)
			w := harness.StartWeirIn(t, onTmpfs(t, "64m"), "[blob_store.fs]\n"+c.limit+"\n"+block("mirror", upstream)+
				blockOf("hostile", nil, []string{fmt.Sprintf("url = %q", hostile.URL)}))
			healthy := func(when string) {
				t.Helper()
				if a := w.Get(t, "/readyz"); string(a.Body) != "ready\n" {
					t.Errorf("%s: /readyz says %q", when, a.Body)
				}
				w.MetricIs(t, 0, "weir_store_failing", "kind", "content")
			}
			expectContent(t, "before", w.Get(t, blobPath("mirror/org/app", blobs[0])), blobs[0], statusStored)
			w.MetricIs(t, 0, "weir_downloads")
			if c.begin == 0 {
				upstream.Fault(upstreamtest.All(upstreamtest.Manifests, upstreamtest.Method("HEAD")),
					upstreamtest.Header("Docker-Content-Digest", digest.SHA384.FromString("x").String()))
				for range 2 {
					a := w.Do(t, http.MethodHead, manifestPath("mirror/org/app", "v1"))
					if got := a.Header.Get("Docker-Content-Digest"); a.Status != http.StatusOK || got != image.Digest.String() {
						t.Errorf("HEAD: %d, %s", a.Status, got)
					}
				}
			} else {
				for i := range 3 {
					leave(t, w, blobPath("hostile/org/app", invented(900+i)), int64(max(c.begin-2*mib, 0)))
					healthy("during it")
				}
			}
			expectContent(t, "after", w.Get(t, blobPath("mirror/org/app", blobs[1])), blobs[1], "")
			healthy("after it")
		})
	}
}

// leave has a client read some bytes of an answer.
func leave(t *testing.T, w *harness.Weir, path string, bytes int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+path, nil)
	harness.Must(t, err)
	resp, err := http.DefaultClient.Do(req)
	harness.Must(t, err)
	defer resp.Body.Close()
	if n, err := io.CopyN(io.Discard, resp.Body, bytes); err != nil {
		t.Errorf("%d of %d bytes, %v", n, bytes, err)
	}
}

// A filesystem that has become read-only is told by /readyz, and pulls go on.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	warm := addRandom(t, upstream, "org/app", mib, 25)
	cold := addRandom(t, upstream, "org/app", 2*mib, 26)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeirIn(t, onTmpfs(t, "8m"), block("mirror", upstream))
	expectContent(t, "before", w.Get(t, blobPath("mirror/org/app", warm)), warm, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	expect(t, "ready", w.Get(t, "/readyz"), http.StatusOK, "")

	// The mirror holds a file open for writing, which a remount would refuse,
	// so the same tree is laid over itself.
	if err := syscall.Mount(w.Data, w.Data, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	lid := func() error { return syscall.Unmount(w.Data, syscall.MNT_DETACH) }
	if err := syscall.Mount("", w.Data, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err, lid())
	}
	a := w.Get(t, "/readyz")
	expect(t, "not ready", a, http.StatusServiceUnavailable, "")
	if !strings.Contains(string(a.Body), "read-only file system") || !strings.Contains(string(a.Body), "blob_store.fs.root_dir") {
		t.Errorf("not ready: %s", a.Body)
	}
	if strings.Contains(string(a.Body), w.Data) {
		t.Errorf("/readyz names a path: %s", a.Body)
	}
	w.Logs(t, "not ready: no file can be created in the store", `"level":"ERROR"`, w.Data, "read-only file system")
	expect(t, "alive", w.Get(t, "/healthz"), http.StatusOK, "")
	expectContent(t, "warm", w.Get(t, blobPath("mirror/org/app", warm)), warm, statusHit)
	expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", cold)), cold, "")
	expectContent(t, "manifest", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusPassed)

	if err := lid(); err != nil {
		t.Fatal(err)
	}
	expect(t, "ready again", w.Get(t, "/readyz"), http.StatusOK, "")
	expectContent(t, "cold again", w.Get(t, blobPath("mirror/org/app", cold)), cold, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "warm again", w.Get(t, blobPath("mirror/org/app", cold)), cold, statusHit)
	w.ExpectIntact(t)
}

// An upstream that fails is covered by the cache as far as it reaches, and the
// client is told.
func TestStale(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		fail    func(*upstreamtest.Registry)
		warning string
		status  int // of content that is not cached
	}{
		{"down", (*upstreamtest.Registry).Close, "unavailable", http.StatusBadGateway},
		{"broken", func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(500, "")) }, "unavailable", http.StatusBadGateway},
		{"limited", func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Any, upstreamtest.Status(429, "")) }, "rate", http.StatusTooManyRequests},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			image := upstream.AddImage("org/app", "v1", []byte("a layer"))
			upstream.AddReferrer("org/app", image, "application/example", []byte("{}"))
			w := harness.StartWeir(t, block("mirror", upstream))
			manifest := w.Get(t, manifestPath("mirror/org/app", "v1"))
			expectContent(t, "fresh", manifest, image.Digest, statusStored)
			layer := contentOf(t, manifest.Body)[1]
			expectContent(t, "fresh blob", w.Get(t, blobPath("mirror/org/app", layer)), layer, statusStored)
			lists := []string{"/v2/mirror/org/app/tags/list", "/v2/mirror/org/app/referrers/" + image.Digest.String()}
			fresh := make([]harness.Answer, len(lists))
			for i, path := range lists {
				fresh[i] = w.Get(t, path)
				expect(t, "fresh "+path, fresh[i], http.StatusOK, "")
			}
			w.MetricIs(t, 0, "weir_downloads")

			c.fail(upstream)
			warned := func(label string, a harness.Answer) {
				t.Helper()
				if got := a.Header.Get("Warning"); !strings.HasPrefix(got, `299 - "`) || !strings.Contains(got, c.warning) || !strings.Contains(got, "ago") {
					t.Errorf("%s: Warning %q, want one that names the reason and the age", label, got)
				}
			}
			a := w.Get(t, manifestPath("mirror/org/app", "v1"))
			expectContent(t, "stale", a, image.Digest, statusStale)
			warned("stale", a)
			a = w.Do(t, http.MethodHead, manifestPath("mirror/org/app", "v1"))
			expect(t, "stale HEAD", a, http.StatusOK, statusStale)
			warned("stale HEAD", a)
			for i, path := range lists {
				a := w.Get(t, path)
				expect(t, "stale "+path, a, http.StatusOK, statusStale)
				warned(path, a)
				if string(a.Body) != string(fresh[i].Body) {
					t.Errorf("%s: %s, was %s", path, a.Body, fresh[i].Body)
				}
			}
			expectContent(t, "by digest", w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusHit)
			expectContent(t, "blob", w.Get(t, blobPath("mirror/org/app", layer)), layer, statusHit)
			expect(t, "not cached", w.Get(t, manifestPath("mirror/org/app", "v2")), c.status, "")
		})
	}
}

// A tag that is gone upstream is gone here, unless the operator wants to keep
// tags.
func TestTagThatIsGone(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("strict", upstream, `negative_ttl = "0s"`)+
		block("keeping", upstream, `serve_stale_on = ["unavailable", "rate_limited", "not_found"]`, `negative_ttl = "0s"`)+
		block("impatient", upstream, `max_stale = "1ms"`))
	for _, name := range []string{"strict", "keeping", "impatient"} {
		expectContent(t, name, w.Get(t, manifestPath(name+"/org/app", "v1")), image.Digest, "")
	}
	upstream.Untag("org/app", "v1")
	expect(t, "strict", w.Get(t, manifestPath("strict/org/app", "v1")), http.StatusNotFound, "")
	expectContent(t, "keeping", w.Get(t, manifestPath("keeping/org/app", "v1")), image.Digest, statusStale)

	upstream.Close()
	// The tag has been forgotten, the content has not.
	expect(t, "strict, down", w.Get(t, manifestPath("strict/org/app", "v1")), http.StatusBadGateway, "")
	expectContent(t, "strict, by digest", w.Get(t, manifestPath("strict/org/app", image.Digest.String())), image.Digest, statusHit)
	expectContent(t, "keeping, down", w.Get(t, manifestPath("keeping/org/app", "v1")), image.Digest, statusStale)
	expect(t, "impatient, down", w.Get(t, manifestPath("impatient/org/app", "v1")), http.StatusBadGateway, "")
}

// An offline namespace serves cached content, and sends no request upstream.
func TestOffline(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeirIn(t, dir, block("mirror", upstream))
	manifest := w.Get(t, manifestPath("mirror/org/app", "v1"))
	expectContent(t, "online", manifest, image.Digest, statusStored)
	layer := contentOf(t, manifest.Body)[1]
	expectContent(t, "online", w.Get(t, blobPath("mirror/org/app", layer)), layer, statusStored)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	upstream.ResetRequests()

	w = harness.StartWeirIn(t, dir, block("mirror", upstream, "offline = true"))
	expectContent(t, "tag", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusHit)
	expectContent(t, "digest", w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusHit)
	expectContent(t, "blob", w.Get(t, blobPath("mirror/org/app", layer)), layer, statusHit)
	for path, code := range map[string]string{
		manifestPath("mirror/org/app", "v2"):                              "MANIFEST_UNKNOWN",
		manifestPath("mirror/org/app", "sha256:"+strings.Repeat("0", 64)): "MANIFEST_UNKNOWN",
		"/v2/mirror/org/app/blobs/sha256:" + strings.Repeat("0", 64):      "BLOB_UNKNOWN",
		manifestPath("mirror/org/other", image.Digest.String()):           "MANIFEST_UNKNOWN",
	} {
		a := w.Get(t, path)
		expect(t, path, a, http.StatusNotFound, "")
		if a.ErrorCode() != code || !strings.Contains(string(a.Body), "offline") {
			t.Errorf("%s: %s, want %s and that the namespace is offline", path, a.Body, code)
		}
	}
	a := w.Get(t, "/v2/_catalog")
	expect(t, "catalog", a, http.StatusOK, "")
	if !slices.Equal(strings.Fields(string(a.Body)), []string{`{"repositories":["mirror/org/app"]}`}) {
		t.Errorf("catalog: %s", a.Body)
	}
	expectWire(t, upstream, "offline")
}
