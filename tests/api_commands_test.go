package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// ask runs a command on a running mirror, and fails the test if the command does.
func ask(t *testing.T, w *harness.Weir, args ...string) string {
	t.Helper()
	got := command(t, t.TempDir(), append(args, "--url", w.URL)...)
	if got.code != 0 || got.stderr != "" {
		t.Fatalf("weir %s: %+v", args, got)
	}
	return got.stdout
}

// expectLines compares lines of columns, in which each run of blanks counts as one.
func expectLines(t *testing.T, label, got string, want ...string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", label, got, strings.Join(want, "\n"))
	}
}

// pulledMirror is a mirror from which clients have pulled two repositories: org/app, an image for
// two platforms of which one is cached, and org/tool, an image.
func pulledMirror(t *testing.T, settings string) (*harness.Weir, *upstreamtest.Registry, published) {
	t.Helper()
	upstream := upstreamtest.New(t)
	app := publish(t, upstream, "org/app", "v1", kib)
	tool := upstream.AddImage("org/tool", "v2", []byte("a layer"))
	w := harness.StartWeir(t, settings+block("mirror", upstream))
	for _, path := range []string{
		manifestPath("mirror/org/app", "v1"), manifestPath("mirror/org/app", app.amd64.Digest.String()), blobPath("mirror/org/app", app.blobs[0]),
		manifestPath("mirror/org/tool", "v2"), manifestPath("mirror/org/tool", tool.Digest.String()), manifestPath("mirror/org/tool", tool.Digest.String()),
	} {
		expect(t, path, w.Get(t, path), http.StatusOK, "")
	}
	return w, upstream, app
}

// ls lists repositories and tags, with a prefix and in the orders of their figures.
func TestLs(t *testing.T) {
	t.Parallel()
	w, _, app := pulledMirror(t, "")
	var repositories, tags []map[string]any
	harness.Must(t, json.Unmarshal([]byte(ask(t, w, "ls", "-o", "json")), &repositories))
	if len(repositories) != 2 {
		t.Fatalf("%v", repositories)
	}
	expectInside(t, repositories[0], map[string]string{"name": "mirror/org/app", "block": "mirror", "tags": "1", "pulls": "2"})
	head := "REPOSITORY TAGS SIZE PULLS LAST PULL"
	for args, want := range map[string]string{
		"ls": "mirror/org/app mirror/org/tool", "ls mirror/org/t": "mirror/org/tool", "ls --sort pulls": "mirror/org/tool mirror/org/app",
		"ls --sort size": "mirror/org/app mirror/org/tool", "ls org": "",
	} {
		got := command(t, t.TempDir(), append(strings.Fields(args), "--url", w.URL)...)
		var names []string
		for n, line := range strings.Split(strings.TrimSpace(got.stdout), "\n") {
			if cells := strings.Fields(line); n == 0 && want != "" && strings.Join(cells, " ") != head {
				t.Errorf("%s begins with %q", args, line)
			} else if n > 0 {
				names = append(names, cells[0])
			}
		}
		if strings.Join(names, " ") != want || got.code != 0 {
			t.Errorf("%s: %+v, want %s", args, got, want)
		}
	}
	// The tag was asked for once; later pulls are those of the digest.
	brief := app.index.Digest.String()[:len("sha256:")+12]
	if got := ask(t, w, "ls", "--tags", "mirror/org/app"); !regexp.MustCompile(`^IMAGE +DIGEST +PULLS +LAST PULL\nmirror/org/app:v1 +` + brief + ` +1 +[^\n]+\n$`).MatchString(got) {
		t.Errorf("tags:\n%s", got)
	}
	harness.Must(t, json.Unmarshal([]byte(ask(t, w, "ls", "--tags", "--sort", "size", "-o", "json")), &tags))
	if len(tags) != 2 {
		t.Fatalf("%v", tags)
	}
	expectInside(t, tags[0], map[string]string{"name": "mirror/org/app", "tag": "v1", "digest": app.index.Digest.String(), "pulls": "1"})
	size, _ := tags[0]["size"].(float64)
	if size < 2*kib || size > 5*kib { // two layers of the cached platform, and manifests
		t.Errorf("the size is %v", tags[0]["size"])
	}
	var report map[string]any
	harness.Must(t, json.Unmarshal([]byte(ask(t, w, "inspect", "mirror/org/app:v1", "-o", "json")), &report))
	expectInside(t, report, map[string]string{"manifest.size": fmt.Sprint(size), "manifest.uncounted": "1"})
}

// inspect shows an image down to its layers, and which of them are cached. It asks no upstream.
func TestInspect(t *testing.T) {
	t.Parallel()
	w, upstream, app := pulledMirror(t, "")
	asked := len(upstream.Requests())
	got := ask(t, w, "inspect", w.Addr+"/mirror/org/app:v1") // as in a pull
	for _, want := range []string{
		"(?m)^mirror/org/app:v1$", "digest +" + app.index.Digest.String(), "pulls +1, last 20", "clients +127.0.0.1 \\(", "cached +the manifest, and 1 of its 2 parts",
		"size +[0-9.]+ KiB, without 1 manifest of which the size is not known",
		"linux/amd64 +" + app.amd64.Digest.String()[:19] + " +[0-9.]+ KiB +2 +1 +yes", "linux/arm64 +" + app.arm64.Digest.String()[:19] + " +- +- +- +no",
		"Layers of " + app.amd64.Digest.String()[:19], app.blobs[0].String()[:19] + " +1.0 KiB +yes", app.blobs[1].String()[:19] + " +1.0 KiB +no",
	} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	var report map[string]any
	harness.Must(t, json.Unmarshal([]byte(ask(t, w, "inspect", "mirror/org/app@"+app.amd64.Digest.String(), "-o", "json")), &report))
	expectInside(t, report, map[string]string{
		"image": "mirror/org/app@" + app.amd64.Digest.String(), "manifest.cached": "true", "manifest.layers.0.cached": "true", "manifest.layers.1.cached": "false",
	})
	for image, want := range map[string]string{
		"mirror/org/app": "weir ls --tags mirror/org/app\n", "org/app": "weir ls --tags mirror/org/app\n", "mirror/org/ap": "those that are, run weir ls\n",
	} {
		if missing := command(t, t.TempDir(), "inspect", image, "--url", w.URL); missing.code != 1 || !strings.HasSuffix(missing.stderr, want) {
			t.Errorf("inspect %s: %+v, want %q", image, missing, want)
		}
	}
	if more := upstream.Requests()[asked:]; len(more) > 0 {
		t.Errorf("asked the upstream: %q", more)
	}
}

// refresh checks a tag at its upstream.
func TestRefreshCommand(t *testing.T) {
	t.Parallel()
	w, upstream, app := pulledMirror(t, "")
	expectLines(t, "the same", ask(t, w, "refresh", "mirror/org/app:v1"), "mirror/org/app:v1 unchanged "+app.index.Digest.String())
	moved := upstream.AddImage("org/app", "v1", []byte("another layer"))
	expectLines(t, "another one", ask(t, w, "refresh", "mirror/org/app:v1"), "mirror/org/app:v1 moved "+moved.Digest.String())
	if gone := command(t, t.TempDir(), "refresh", "mirror/org/app:v0", "--url", w.URL); gone.code != 1 || !strings.Contains(gone.stderr, "mirror/org/app:v0: the upstream has no such tag") {
		t.Errorf("%+v", gone)
	}
}

// Without --url, the mirror is that of the configuration: at the address for operators if there is
// one, with the mirror's own certificate. A user logs in.
func TestCommandsFindTheMirror(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	admin := testutil.FreeAddr(t)
	settings := "[server]\nport = 0\nbind_address = \"127.0.0.1\"\nadmin_address = \"" + admin + "\"\n[server.tls]\nself_signed = true\n" + usersOf
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, settings+block("mirror", upstream))
	configs := []string{"--config", filepath.Join(dir, "base.toml"), "--config", w.Config}
	run := func(env string, args ...string) result {
		return commandWith(t, dir, []string{"WEIR_CLIENT_PASSWORD=" + env}, append(args, configs...)...)
	}
	if got := run("secret", "refresh", "mirror/org/app:v1", "--username", "alice"); got.code != 0 || !strings.Contains(got.stdout, "fetched") {
		t.Errorf("%+v", got)
	}
	if got := run("secret", "ls", "--username", "alice"); got.code != 0 || !strings.Contains(got.stdout, "mirror/org/app") {
		t.Errorf("%+v", got)
	}
	if got := run("wrong", "ls", "--username", "alice"); got.code != 1 || !strings.Contains(got.stderr, "Check the user alice and the password in WEIR_CLIENT_PASSWORD") {
		t.Errorf("%+v", got)
	}
	if got := run("", "ls"); got.code != 1 || !strings.Contains(got.stderr, "Log in with --username") {
		t.Errorf("%+v", got)
	}
	// Its other address has no API.
	got := command(t, dir, "ls", "--url", w.URL, "--ca", filepath.Join(w.Data, "tls", "server.crt"))
	if got.code != 1 || !strings.Contains(got.stderr, "with server.admin_address, its API is at that address") {
		t.Errorf("%+v", got)
	}
}

// rm takes tags and whole repositories out of the cache. It asks on a terminal, and needs --yes
// without one. A pull then fetches the image again.
func TestRm(t *testing.T) {
	t.Parallel()
	w, upstream, app := pulledMirror(t, "")
	if got := command(t, t.TempDir(), "rm", "mirror/org/app", "--url", w.URL); got.code != 2 || !strings.Contains(got.stderr, "Confirm with --yes") {
		t.Errorf("without a terminal: %+v", got)
	}
	for answer, want := range map[string]string{"n": "nothing was removed", "": "nothing was removed"} {
		code, out := answering(t, answer+"\n", "rm", "mirror/org/app", "--url", w.URL)
		if code != 1 || !strings.Contains(out, "mirror/org/app: the whole repository, 1 tag, ") || !strings.Contains(out, want) {
			t.Errorf("the answer %q: %d, %q", answer, code, out)
		}
	}
	if got := ask(t, w, "ls", "mirror/org/app", "--tags"); !strings.Contains(got, "mirror/org/app:v1") {
		t.Errorf("it was removed: %s", got)
	}
	if code, out := answering(t, "y\n", "rm", w.Addr+"/mirror/org/app:v1", "--url", w.URL); code != 0 || !strings.Contains(out, "removed mirror/org/app:v1: 1 tag, ") {
		t.Errorf("the answer y: %d, %q", code, out)
	}
	got := command(t, t.TempDir(), "rm", "--yes", "mirror/org/app:v1", "mirror/org/tool", "--url", w.URL)
	if got.code != 1 || !strings.HasPrefix(got.stdout, "removed mirror/org/tool: 1 tag, 1 manifest, ") ||
		!strings.Contains(got.stderr, "failed mirror/org/app:v1: no part of the image is cached") || !strings.Contains(got.stderr, "failed images: 1 of 2") {
		t.Errorf("one of two: %+v", got)
	}
	before := len(upstream.Requests())
	expectContent(t, "a pull afterwards", w.Get(t, manifestPath("mirror/org/app", "v1")), app.index.Digest, statusStored)
	if len(upstream.Requests()) == before {
		t.Error("the manifest was still cached")
	}
}

// answering runs a command on a terminal with an input, and returns its exit code and all that the
// terminal shows.
func answering(t *testing.T, input string, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	harness.Must(t, err)
	defer terminal.Close()
	_, err = io.WriteString(terminal, input)
	harness.Must(t, err)
	var shown testutil.LogBuffer
	_, _ = io.Copy(&shown, terminal) // ends with EIO when the command has ended
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), shown.String()
}

// stats shows the mirror's figures once without a terminal, and follows them on one until Ctrl-C,
// which leaves the terminal as it was.
func TestStats(t *testing.T) {
	t.Parallel()
	upstream, gate := upstreamtest.New(t), upstreamtest.NewGate()
	blob := addRandom(t, upstream, "org/app", mib, 7)
	upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(512*kib, gate))
	w := harness.StartWeir(t, block("mirror", upstream))
	var document map[string]any
	harness.Must(t, json.Unmarshal([]byte(ask(t, w, "stats", "-o", "json")), &document))
	expectInside(t, document, map[string]string{"status.ready": "true", "status.store.kind": "disk", "status.upstreams.0.blocks.0": "mirror", "downloads.downloads": "[]"})
	pulling := w.Pull(t, blobPath("mirror/org/app", blob))
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "stats", "--url", w.URL)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	harness.Must(t, err)
	defer terminal.Close()
	shown, read := new(testutil.LogBuffer), make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(shown, terminal) // ends with EIO when the command has ended
	}()
	half := regexp.MustCompile(`mirror/org/app +` + blob.String()[:19] + ` +` + upstream.Host + ` +512 KiB / 1\.0 MiB +0 B/s +1`)
	harness.Eventually(t, "the stalled download is shown, with its rate", func() bool { return half.MatchString(shown.String()) })
	gate.Open()
	pulling.Whole(t, "the blob", blob)
	_, err = terminal.Write([]byte{3}) // the terminal sends SIGINT
	harness.Must(t, err)
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
	<-read
	if got := shown.String(); !strings.HasPrefix(got, "\x1b[?1049h") || !strings.HasSuffix(got, "\x1b[?1049l") {
		t.Errorf("the terminal is left with another screen: %q", got)
	}
	got := ask(t, w, "stats")
	for _, want := range []string{w.URL + " +ready, weir ", `store \(disk\) +1\.0 MiB in 1 objects`, "LAST +REQUESTS +CACHED", "  minute +1 ", "Upstreams:\n  NAME +STATE", "  " + upstream.Host} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// pin keeps an image and unpin ends that. Without an image, pin lists the pins.
func TestPinCommand(t *testing.T) {
	t.Parallel()
	w, _, _ := pulledMirror(t, "[blob_store.fs]\nmax_size = \"1GiB\"\n")
	if got := ask(t, w, "pin", "mirror/org/tool:v2"); !strings.HasPrefix(got, "pinned mirror/org/tool:v2: ") {
		t.Errorf("%s", got)
	}
	if got := ask(t, w, "pin"); !regexp.MustCompile(`^IMAGE +DIGEST +SIZE +SINCE +BY\nmirror/org/tool:v2 +sha256:[^\n]+\n\n1 pin: `).MatchString(got) {
		t.Errorf("%s", got)
	}
	if got := ask(t, w, "unpin", "mirror/org/tool:v2"); !strings.HasPrefix(got, "unpinned mirror/org/tool:v2: ") {
		t.Errorf("%s", got)
	}
	if got := ask(t, w, "pin"); !strings.HasPrefix(got, "IMAGE") || !strings.Contains(got, "\n0 pins: 0 B") {
		t.Errorf("%s", got)
	}
	if got := command(t, t.TempDir(), "unpin", "mirror/org/tool:v2", "--url", w.URL); got.code != 1 || !strings.Contains(got.stderr, "mirror/org/tool:v2: ") {
		t.Errorf("%+v", got)
	}
}
