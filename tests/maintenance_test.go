package tests

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// maintain runs a command on the data of a mirror, which may be running.
func maintain(t *testing.T, w *harness.Weir, args ...string) result {
	t.Helper()
	return command(t, t.TempDir(), append(args, configs(w)...)...)
}

func configs(w *harness.Weir) []string {
	return []string{"--config", filepath.Join(filepath.Dir(w.Config), "base.toml"), "--config", w.Config}
}

// expectResult fails the test unless a command ended with a code and printed
// texts on standard output.
func expectResult(t *testing.T, label string, got result, code int, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(got.stdout, text) {
			t.Errorf("%s: stdout %q, want %q", label, got.stdout, text)
		}
	}
	if got.code != code {
		t.Errorf("%s: exit code %d, want %d; stdout %q, stderr %q", label, got.code, code, got.stdout, got.stderr)
	}
}

func blobFile(w *harness.Weir, dgst digest.Digest) string {
	return filepath.Join(w.Data, "blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded())
}

// flip changes one byte of a stored blob on the disk, in the file itself.
func flip(t *testing.T, w *harness.Weir, dgst digest.Digest) {
	t.Helper()
	file, err := os.OpenFile(blobFile(w, dgst), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte{b[0] ^ 1}, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// Bit rot is found beside the running mirror, taken away, and mended by the next
// pull.
func TestVerify(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	rotten := addRandom(t, upstream, "org/app", 3*mib, 90)
	sound := addRandom(t, upstream, "org/app", mib, 91)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", upstream))
	for _, dgst := range []digest.Digest{rotten, sound} {
		expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	}
	expectContent(t, "cold manifest", w.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	expectResult(t, "all is well", maintain(t, w, "verify"), 0, "verified 3 objects, 4.0 MiB")

	flip(t, w, rotten)
	flip(t, w, image.Digest)
	got := maintain(t, w, "verify")
	expectResult(t, "bit rot", got, 1, "verified 1 object, 1.0 MiB",
		"quarantined "+rotten.String()+" (3.0 MiB): "+w.Data+"/quarantine/sha256-"+rotten.Encoded(),
		"quarantined "+image.Digest.String())
	if kept := w.Stored(t, "quarantine"); len(kept) != 2 {
		t.Errorf("in quarantine: %q", kept)
	}
	expectResult(t, "verified again", maintain(t, w, "verify"), 0, "verified 1 object")
	w.MetricIs(t, 1, "weir_store_objects") // the mirror has noticed

	upstream.ResetRequests()
	expectContent(t, "refetched", w.Get(t, blobPath("mirror/org/app", rotten)), rotten, statusStored)
	expectWire(t, upstream, "refetched", "GET "+blobPath("org/app", rotten)+" 200")
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "hit again", w.Get(t, blobPath("mirror/org/app", rotten)), rotten, statusHit)
	expectContent(t, "manifest", w.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	w.ExpectIntact(t)
	expectResult(t, "mended", maintain(t, w, "verify"), 0, "verified 3 objects")
}

// A manifest that rots while the mirror is down is noticed when it is read.
func TestRottenManifest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	first := harness.StartWeirIn(t, dir, block("mirror", upstream))
	expectContent(t, "cold", first.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
	first.Kill()
	flip(t, first, image.Digest)

	next := harness.StartWeirIn(t, dir, block("mirror", upstream))
	expectContent(t, "rotten", next.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, "")
	next.Logs(t, "was quarantined", image.Digest.String())
	expectContent(t, "mended", next.Get(t, manifestPath("mirror/org/app", image.Digest.String())), image.Digest, statusHit)
	next.ExpectIntact(t)
	if kept := next.Stored(t, "quarantine"); len(kept) != 1 {
		t.Errorf("in quarantine: %q", kept)
	}
}

// Content that goes away while clients read it costs no client a byte.
func TestGCWhileClientsPull(t *testing.T) {
	testutil.Long(t, "pulls while content is removed")
	t.Parallel()
	upstream := upstreamtest.New(t)
	var blobs []digest.Digest
	for i := range uint64(6) {
		blobs = append(blobs, addRandom(t, upstream, "org/app", 2*mib<<(i%3), 92+i)) // too large for the memory
	}
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", upstream))
	done := make(chan struct{})
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for i := client; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				path, want := blobPath("mirror/org/app", blobs[i%len(blobs)]), blobs[i%len(blobs)]
				if i%4 == 0 {
					path, want = manifestPath("mirror/org/app", "v1"), image.Digest
				}
				if got, err := fetch(w.URL + path); err != nil || got != want {
					t.Errorf("GET %s: %s, %v", path, got, err)
					return
				}
			}
		})
	}
	removed := 0
	for range 10 {
		got := maintain(t, w, "gc", "--max-size", "4MiB")
		expectResult(t, "gc", got, 0, "removed ")
		if !strings.HasPrefix(got.stdout, "removed 0 ") {
			removed++
		}
		expectResult(t, "verify", maintain(t, w, "verify"), 0, "verified ")
	}
	close(done)
	clients.Wait()
	if removed == 0 {
		t.Error("gc never had anything to remove")
	}
	w.MetricIs(t, 0, "weir_downloads")
	w.ExpectIntact(t)
	expectResult(t, "gc", maintain(t, w, "gc", "--max-size", "0"), 0, "kept 0 objects, 0 B")
	if left := w.Stored(t, "blobs"); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	for _, dgst := range blobs {
		expectContent(t, "after all went", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	}
}

// fetch returns the digest of an answer.
func fetch(url string) (digest.Digest, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	return digest.FromReader(resp.Body)
}

// gc removes the least recently used, and forgets repositories when asked to.
func TestGCPrunesTheCatalogue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	upstream := upstreamtest.New(t)
	dead := upstream.AddImage("org/dead", "v1", []byte("unused"))
	live := upstream.AddImage("org/live", "v1", []byte("in use"))
	w := harness.StartWeirIn(t, dir, block("mirror", upstream))
	expectContent(t, "dead", w.Get(t, manifestPath("mirror/org/dead", "v1")), dead.Digest, statusStored)
	expectContent(t, "live", w.Get(t, manifestPath("mirror/org/live", "v1")), live.Digest, statusStored)
	kept, err := os.Stat(blobFile(w, live.Digest))
	if err != nil {
		t.Fatal(err)
	}
	old := kept.ModTime().AddDate(0, -1, 0)
	if err := os.Chtimes(blobFile(w, dead.Digest), old, old); err != nil {
		t.Fatal(err)
	}
	catalog := func(w *harness.Weir) string { return string(w.Get(t, "/v2/_catalog").Body) }
	both := catalog(w)
	expectResult(t, "dry run", maintain(t, w, "gc", "--max-unused", "20d", "--prune-records", "--dry-run"), 0, "would remove 1 object", "tags: 1, links: 1, repositories: 1")
	expectResult(t, "gc", maintain(t, w, "gc", "--max-unused", "20d"), 0, "removed 1 object", fmt.Sprintf("kept 1 object, %d B", kept.Size()))
	if got := catalog(w); got != both || !strings.Contains(got, "org/dead") {
		t.Errorf("catalogue %s, was %s", got, both)
	}
	expectContent(t, "dead, from memory", w.Get(t, manifestPath("mirror/org/dead", dead.Digest.String())), dead.Digest, statusHit)
	w.Kill()
	expectResult(t, "prune", maintain(t, w, "gc", "--prune-records"), 0, "removed 0 objects", "removed tags: 1, links: 1, repositories: 1")

	next := harness.StartWeirIn(t, dir, block("mirror", upstream))
	if got := catalog(next); strings.Contains(got, "org/dead") || !strings.Contains(got, "org/live") {
		t.Errorf("catalogue %s", got)
	}
	expectContent(t, "live", next.Get(t, manifestPath("mirror/org/live", live.Digest.String())), live.Digest, statusHit)
	expectContent(t, "dead", next.Get(t, manifestPath("mirror/org/dead", "v1")), dead.Digest, statusStored)
	if got := catalog(next); got != both {
		t.Errorf("catalogue %s, want %s", got, both)
	}
}

// On a terminal there is a bar, and Ctrl-C ends it with a summary.
func TestVerifyOnATerminal(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream))
	for i := range uint64(4) {
		dgst := addRandom(t, upstream, "org/app", mib, 100+i)
		expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	}
	w.MetricIs(t, 0, "weir_downloads")
	verify, out := onTerminal(t, w, "verify")
	if err := verify.Wait(); err != nil {
		t.Errorf("verify: %v", err)
	}
	harness.Eventually(t, "the summary", func() bool { return strings.Contains(out.String(), "verified 4 objects, 4.0 MiB\r\n") })
	for _, want := range []string{"verifying 100% [", "4.0 MiB / 4.0 MiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the terminal shows %q, want %q", out, want)
		}
	}

	// It takes minutes to read a terabyte, even of nothing.
	huge := blobFile(w, digest.FromString("huge"))
	if err := os.MkdirAll(filepath.Dir(huge), 0o700); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, huge, "")
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	verify, out = onTerminal(t, w, "verify")
	harness.Eventually(t, "it is under way", func() bool { return strings.Contains(out.String(), "iB/s") })
	if err := verify.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = verify.Wait()
	if code := verify.ProcessState.ExitCode(); code != 1 {
		t.Errorf("interrupted: exit code %d", code)
	}
	harness.Eventually(t, "the summary", func() bool {
		return strings.Contains(out.String(), "\x1b[Kverified ") && strings.Contains(out.String(), "weir: interrupted")
	})
	if strings.Contains(out.String(), "quarantined") {
		t.Errorf("the terminal shows %q", out)
	}
	if left := w.Stored(t, "tmp"); len(left) != 1 {
		t.Errorf("left %q", left)
	}
}

// onTerminal starts a command on the data of a mirror, on a terminal, whose
// output it returns as it comes.
func onTerminal(t *testing.T, w *harness.Weir, args ...string) (*exec.Cmd, *testutil.LogBuffer) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), append(args, configs(w)...)...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	out := new(testutil.LogBuffer)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(out, terminal) // ends with EIO when all writers have closed
	}()
	t.Cleanup(func() {
		terminal.Close()
		<-read
	})
	return cmd, out
}

// Where a pipe takes the output there are lines, without control characters.
func TestVerifyInAPipe(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", mib, 110)
	w := harness.StartWeir(t, block("mirror", upstream))
	expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	got := maintain(t, w, "verify")
	if got.stdout != "verified 1 object, 1.0 MiB\n" || got.stderr != "verifying 1 object, 1.0 MiB\n" || got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := maintain(t, w, "verify", "--quiet"); got != (result{}) {
		t.Errorf("quiet: %+v", got)
	}
	for _, args := range []string{"verify --jobs 0", "verify --frob", "gc", "gc --max-size many", "gc now"} {
		if got := maintain(t, w, strings.Fields(args)...); got.code != 2 || got.stdout != "" || !strings.HasPrefix(got.stderr, "weir: ") {
			t.Errorf("weir %s: %+v", args, got)
		}
	}
	got = command(t, t.TempDir(), "verify") // without data
	if got.code != 2 || !strings.Contains(got.stderr, "there is no store in") {
		t.Errorf("without a store: %+v", got)
	}
}

// weir gc evicts from each block what exceeds its own max_size, and nothing else, also if no other limit is set.
func TestGCToCapsOfBlocks(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	var capped, free []digest.Digest
	for i := range 3 {
		capped = append(capped, addRandom(t, upstream, "capped", 3*mib, uint64(200+i)))
		free = append(free, addRandom(t, upstream, "free", 3*mib, uint64(210+i)))
	}
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("a", upstream)+block("b", upstream))
	for i := range capped {
		for _, path := range []string{blobPath("a/capped", capped[i]), blobPath("b/free", free[i])} {
			expect(t, path, w.Get(t, path), http.StatusOK, "")
		}
	}
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for i, dgst := range capped { // the first one was used last
		used := time.Now().Add(-time.Duration(i+1) * time.Hour)
		harness.Must(t, os.Chtimes(blobFile(w, dgst), used, used))
	}
	expectResult(t, "without limits", maintain(t, w, "gc"), 2)
	harness.WriteFile(t, w.Config, block("a", upstream, `max_size = "6MiB"`)+block("b", upstream))
	expectResult(t, "a dry run", maintain(t, w, "gc", "--dry-run"), 0, "would remove 1 object, 3.0 MiB; kept 5 objects")
	expectResult(t, "gc", maintain(t, w, "gc"), 0, "removed 1 object, 3.0 MiB; kept 5 objects")
	expectResult(t, "once more", maintain(t, w, "gc"), 0, "removed 0 objects")
	for i, dgst := range append(free, capped...) {
		if _, err := os.Stat(blobFile(w, dgst)); (err == nil) != (i < 5) {
			t.Errorf("content %d: %v", i, err)
		}
	}
}
