package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The command serves until its context ends, and the health check of the same
// configuration then answers for it.
func TestServe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	_, path := loadText(t, twoRepositories+"[server]\nbind_address = \"127.0.0.1\"\nport = "+port+"\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr testutil.LogBuffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"serve", "--config", path}, &stdout, &stderr) }()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(stdout.String(), "listening on"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not listen: %s", stderr.String())
		}
	}
	if code, out, errs := invoke(t, "healthcheck", "--config", path); code != exitFine || out != "healthy\n" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	// The address is taken now, which is no wrong usage.
	if code, _, errs := invoke(t, "serve", "--config", path); code != exitFailed || !strings.Contains(errs, "cannot listen (server.bind_address, server.port)") {
		t.Errorf("a second one: %d, %q", code, errs)
	}
	cancel()
	if code := <-ended; code != exitFine {
		t.Errorf("it ended with %d: %s", code, stderr.String())
	}
}

// The port that a mirror has left may belong to another program.
func TestHealthcheckOfAnother(t *testing.T) {
	text := func(body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	}
	for label, test := range map[string]struct {
		other http.Handler
		want  string
	}{
		"an error":            {http.NotFoundHandler(), "/healthz answers 404 Not Found"},
		"a redirect":          {http.RedirectHandler("/login", http.StatusFound), "/healthz answers 302 Found"},
		"a page":              {text("<html>ok</html>"), "another program"},
		"an empty answer":     {text(""), "another program"},
		"an answer and more":  {text("ok\nbut"), "another program"},
		"a word without line": {text("ok"), "another program"},
	} {
		server := httptest.NewServer(test.other)
		_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
		_, path := loadText(t, "[server]\nbind_address = \"127.0.0.1\"\nport = "+port+"\n")
		if code, stdout, stderr := invoke(t, "healthcheck", "--config", path); code != exitFailed || stdout != "" || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: %d, %q, %q", label, code, stdout, stderr)
		}
		server.Close()
	}
}

// The printed configuration is complete, can be loaded again, and shows no secret.
func TestCheckPrintsTheConfiguration(t *testing.T) {
	_, path := loadText(t, `
[[repository."a".upstream]]
url = "https://registry.example"
username = "reader"
password = "hunter2"
`)
	code, stdout, stderr := invoke(t, "check", "--config", path)
	if code != exitFine || !strings.Contains(stdout, `url = "https://registry.example"`) || !strings.Contains(stdout, "shutdown_drain_secs") {
		t.Errorf("%d, %s, %s", code, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, "hunter2") {
		t.Errorf("it prints the password: %s", stdout)
	}
	again := filepath.Join(t.TempDir(), "again.toml")
	write(t, again, stdout)
	if _, err := config.Load(again); err != nil {
		t.Errorf("what is printed cannot be loaded: %v", err)
	}
}

// onlineConfig names one upstream that works and one that is gone.
func onlineConfig(t *testing.T) (cfg *config.Config, path string, fine *upstreamtest.Registry) {
	t.Helper()
	fine, gone := upstreamtest.New(t), upstreamtest.New(t)
	gone.Close()
	fine.AddImage("app", "v1", []byte("a layer"))
	cfg, path = loadText(t, fmt.Sprintf("[[repository.\"fine\".upstream]]\nurl = %q\n[[repository.\"gone\".upstream]]\nurl = %q\n", fine.URL, gone.URL))
	return cfg, path, fine
}

// A failed upstream fails the command, in both forms of the report.
func TestCheckOnline(t *testing.T) {
	_, path, fine := onlineConfig(t)
	code, stdout, stderr := invoke(t, "check", "--online", "--output", "json", "--image", "fine/app:v1", "--config", path)
	var results []check.Result
	if err := json.Unmarshal([]byte(stdout), &results); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if code != exitFailed || stderr != "weir: upstreams that failed: 1 of 2\n" || len(results) != 2 {
		t.Fatalf("%d, %+v, %q", code, results, stderr)
	}
	if r := results[0]; r.Upstream != fine.Host || r.Status != check.StatusOK || r.Image != "app:v1" || r.Head == nil || !*r.Head {
		t.Errorf("%+v", r)
	}
	if r := results[1]; r.Status != check.StatusFailed || len(r.Errors) != 1 || !strings.HasSuffix(r.Errors[0], `Nothing listens there. Check url of repository."gone".upstream[0]`) {
		t.Errorf("%+v", r)
	}
	code, stdout, _ = invoke(t, "check", "--online", "--config", path)
	if code != exitFailed || !strings.HasPrefix(stdout, "BLOCK  UPSTREAM ") || !strings.Contains(stdout, "\n  error: ") {
		t.Errorf("%d, %s", code, stdout)
	}
}

// Without --image the upstream is asked for content that the mirror has cached.
func TestCheckOnlineAsksForCachedContent(t *testing.T) {
	cfg, path, _ := onlineConfig(t)
	records, err := disk.Open(cfg.BlobStore.FS.RootDir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo := storage.RepoID{Namespace: "fine", Name: "app"}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	if err := catalog.New(records.Records(), catalog.Options{}).PutTag(t.Context(), repo, "v1", catalog.Tag{Descriptor: desc, Checked: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := records.Close(); err != nil {
		t.Fatal(err)
	}
	_, stdout, stderr := invoke(t, "check", "--online", "--config", path)
	if !strings.Contains(stdout, "app:v1") || strings.Contains(stderr, "warning:") {
		t.Errorf("%s, %s", stdout, stderr)
	}
}

// An interrupted check prints no report, since its failures would be its own.
func TestCheckOnlineInterrupted(t *testing.T) {
	_, path, _ := onlineConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	code := run(ctx, []string{"check", "--online", "--config", path}, &stdout, &stderr)
	if code != exitFailed || stdout.String() != "" || stderr.String() != "weir: interrupted\n" {
		t.Errorf("%d, %q, %q", code, stdout.String(), stderr.String())
	}
}

// failingWriter is a pipe whose reader has gone.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

// A report that cannot be written fails the command, even if all upstreams are fine.
func TestReportCannotBeWritten(t *testing.T) {
	results := []check.Result{{Upstream: "a", Status: check.StatusOK, Remarks: []string{"slow"}}}
	for _, output := range []string{"table", "json"} {
		err := report(results, output, failingWriter{})
		if f, ok := errors.AsType[failure](err); !ok || f.code != exitFailed || !errors.Is(f.error, os.ErrClosed) {
			t.Errorf("%s: %v", output, err)
		}
	}
}

// The limits of gc come from the configuration, flag by flag. A limit of 0 means no
// limit there, and nothing left as a flag.
func TestGCLimits(t *testing.T) {
	size, unused := config.Size(0), config.Duration(time.Hour)
	for name, c := range map[string]struct {
		opts gcOptions
		fs   config.FS
		want string
	}{
		"nothing":            {gcOptions{}, config.FS{}, "- -"},
		"configuration":      {gcOptions{}, config.FS{MaxSize: 10, MaxUnused: config.DurationLimit(time.Minute)}, "10 1m0s"},
		"flag of 0":          {gcOptions{maxSize: &size}, config.FS{MaxSize: 10}, "0 -"},
		"flag beside":        {gcOptions{maxUnused: &unused}, config.FS{MaxSize: 10}, "10 1h0m0s"},
		"flag over the file": {gcOptions{maxUnused: &unused}, config.FS{MaxUnused: config.DurationLimit(time.Minute)}, "- 1h0m0s"},
	} {
		limits := c.opts.limits(int64(c.fs.MaxSize), time.Duration(c.fs.MaxUnused))
		got := []string{"-", "-"}
		if limits.MaxBytes != nil {
			got[0] = fmt.Sprint(*limits.MaxBytes)
		}
		if limits.MaxUnused != nil {
			got[1] = limits.MaxUnused.String()
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
	}
}

// An amount is written for people: one object, and thousands with commas.
func TestDescribe(t *testing.T) {
	for want, a := range map[string]struct{ objects, bytes int64 }{
		"0 objects, 0 B": {}, "1 object, 1 B": {1, 1}, "1,234 objects, 1.0 GiB": {1234, 1 << 30},
	} {
		if got := describe(amount(a.objects, a.bytes)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// All names of this machine are one host if the ports are equal.
func TestSameHost(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"mirror:8000", "mirror:8000"}: true, {"localhost:8000", "127.0.0.1:8000"}: true, {"[::1]:8000", "localhost:8000"}: true,
		{"localhost:8000", "localhost:9000"}: false, {"mirror:8000", "localhost:8000"}: false, {"localhost", "127.0.0.1:8000"}: false, {"mirror", "mirror"}: true,
	} {
		if sameHost(pair[0], pair[1]) != want {
			t.Errorf("%v: %t", pair, !want)
		}
	}
}

// A file that came into being since the files were compared is not replaced, and one
// that cannot be read stops everything before a file is written.
func TestWriteFilesReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "there")
	write(t, path, "mine")
	if err := writeNew(clientconfig.File{Path: path, Content: "other"}); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	var stdout strings.Builder
	err := writeFiles(dir, []clientconfig.File{{Path: "/a", Content: "a"}, {Path: "/b", Content: "b"}}, &stdout)
	if err == nil || stdout.String() != "" {
		t.Errorf("%v, wrote %q", err, stdout.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was written: %v", err)
	}
}

// A configuration that cannot be used is wrong usage for every command that needs
// one, and all of its problems are told. The health check asks the running mirror.
func TestEveryCommandRefusesAWrongConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	write(t, path, "[server]\nport = 70000\n[log]\nlevel = \"loud\"\n")
	for _, command := range []string{"serve", "check", "check --online", "warm alpine", "verify", "gc", "client-config docker"} {
		code, stdout, stderr := invoke(t, append(strings.Fields(command), "--config", path)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, "server.port") || !strings.Contains(stderr, "log.level") {
			t.Errorf("%s: %d, %q, %q", command, code, stdout, stderr)
		}
	}
}

// The specs of a configuration with overlapping names cannot be probed.
func TestNamedImagesOfOverlappingNamespaces(t *testing.T) {
	if _, err := namedImages([]namespace.Spec{{Key: "a"}, {Key: "a"}}, nil); err == nil {
		t.Error("two namespaces with one key")
	}
}

// The help has a title for commands that it lists, and none where another system has no such
// command.
func TestTitlesOfHelp(t *testing.T) {
	hidden := func(name string) *cobra.Command {
		return &cobra.Command{Use: name, Hidden: true, Run: func(*cobra.Command, []string) {}}
	}
	shown := &cobra.Command{Use: "shown", Run: func(*cobra.Command, []string) {}}
	root := &cobra.Command{Use: "weir"}
	addGroup(root, "Nothing here:", hidden("a"), hidden("b"))
	addGroup(root, "Something here:", hidden("c"), shown)
	if help := root.UsageString(); strings.Contains(help, "Nothing here:") || !strings.Contains(help, "Something here:\n  shown") {
		t.Error(help)
	}
	root.SetArgs([]string{"a"})
	if err := root.Execute(); err != nil {
		t.Error(err)
	}
}
