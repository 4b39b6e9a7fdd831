package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/storage/maintain"
)

// Each mistake of a command line is named before the mirror is asked.
func TestWarmJobErrors(t *testing.T) {
	_, path := loadText(t, "[server]\nport = 0\n")
	list := filepath.Join(t.TempDir(), "list")
	write(t, list, "# images\n\nalpine\nUPPER # wrong\n")
	const url = "http://mirror:8000"
	for want, flags := range map[string]struct {
		warmFlags
		images []string
	}{
		"--jobs is 0":                        {warmFlags{mirror: url}, []string{"alpine"}},
		"--platform: \"linux\"":              {warmFlags{mirror: url, jobs: 1, platforms: []string{"linux"}}, []string{"alpine"}},
		"--url must be a URL such as":        {warmFlags{mirror: "mirror:8000", jobs: 1}, []string{"alpine"}},
		"server.port is 0":                   {warmFlags{jobs: 1}, []string{"alpine"}},
		`"UPPER" is not`:                     {warmFlags{mirror: url, jobs: 1}, []string{"UPPER"}},
		"line 4 of " + list + `: "UPPER" is`: {warmFlags{mirror: url, jobs: 1, files: []string{list}}, nil},
		"--file: open /missing:":             {warmFlags{mirror: url, jobs: 1, files: []string{"/missing"}}, nil},
		"no image is given":                  {warmFlags{mirror: url, jobs: 1}, nil},
	} {
		_, err := flags.job([]string{path}, flags.images, strings.NewReader(""))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A mistake in a list is found by its line, whatever surrounds it.
func TestMistakesInLists(t *testing.T) {
	const mark = "\ufeff"
	for list, want := range map[string]string{
		"a\nb\nc\nd\ne\nUPPER\n":                `line 6 of standard input: "UPPER" is not an image`,
		"# a comment\r\n\r\n  UPPER\r\n":        `line 3 of standard input: "UPPER" is not an image`,
		"alpine\nghcr.io/org/app:":              `line 2 of standard input: "ghcr.io/org/app:" is not an image`,
		mark + "UPPER\n":                        `line 1 of standard input: "UPPER" is not an image`,
		"alpine nginx\n":                        `line 1 of standard input: "alpine nginx" is not an image`,
		"alpine\n" + strings.Repeat("x", 1<<17): "line 2 of standard input is longer than 65536 bytes",
	} {
		flags := warmFlags{mirror: "http://mirror:8000", jobs: 1, files: []string{"-"}}
		if _, err := flags.job(nil, nil, strings.NewReader(list)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", list, err, want)
		}
		file := filepath.Join(t.TempDir(), "list")
		write(t, file, list)
		flags.files = []string{file}
		if _, err := flags.job(nil, nil, nil); err == nil || !strings.HasPrefix(err.Error(), strings.Replace(want, "standard input", file, 1)) {
			t.Errorf("%.20q: %v, want %s", list, err, want)
		}
	}
	flags := warmFlags{mirror: "http://mirror:8000", jobs: 1, files: []string{"-"}}
	if job, err := flags.job(nil, nil, strings.NewReader(mark+"alpine\r\nnginx")); err != nil || !slices.Equal(job.images, []string{"alpine", "nginx"}) {
		t.Errorf("a list of Windows: %+v, %v", job, err)
	}
}

// Images come from the arguments, from files and from standard input, each once. The
// mirror's address may stand before a name.
func TestWarmJobImages(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	write(t, list, "# images\nghcr.io/org/app:1.2 # the app\n\n  alpine  \n")
	flags := warmFlags{mirror: "http://localhost:8000", jobs: 1, files: []string{list, "-"}, platforms: []string{"linux/amd64"}}
	job, err := flags.job(nil, []string{"alpine", "127.0.0.1:8000/nginx", "localhost:9000/nginx"}, strings.NewReader("busybox:1\n"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed []string
	for _, image := range job.parsed {
		parsed = append(parsed, image.String())
	}
	if want := []string{"alpine:latest", "nginx:latest", "localhost:9000/nginx:latest", "ghcr.io/org/app:1.2", "busybox:1"}; !slices.Equal(parsed, want) {
		t.Errorf("%q, want %q", parsed, want)
	}
	if want := []string{"alpine", "127.0.0.1:8000/nginx", "localhost:9000/nginx", "ghcr.io/org/app:1.2", "busybox:1"}; !slices.Equal(job.images, want) {
		t.Errorf("%q, want %q", job.images, want)
	}
	if len(job.options.Platforms) != 1 || job.options.Platforms[0].OS != "linux" {
		t.Errorf("%v", job.options.Platforms)
	}
}

// serverTime is a time long ago.
var serverTime = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)

func amount(objects, bytes int64) maintain.Amount {
	return maintain.Amount{Objects: objects, Bytes: bytes}
}

// warmedMirror answers as a mirror that has an image without layers.
func warmedMirror(t *testing.T) *httptest.Server {
	t.Helper()
	config := []byte("{}")
	body, err := json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Status", "weir; hit")
		switch {
		case r.URL.Path == "/v2/":
		case r.URL.Path == "/healthz":
			_, _ = w.Write([]byte(app.Alive))
		case strings.HasPrefix(r.URL.Path, "/v2/app/manifests/"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			_, _ = w.Write(body)
		case strings.HasPrefix(r.URL.Path, "/v2/app/blobs/"):
			http.ServeContent(w, r, "", serverTime, strings.NewReader(string(config)))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"errors":[{"code":"NAME_UNKNOWN","message":"no such image"}]}`))
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// The result of each image and the sum are printed. One failure fails the command.
func TestWarmCommand(t *testing.T) {
	mirror := warmedMirror(t)
	code, stdout, stderr := invoke(t, "warm", "--url", mirror.URL, "--referrers=false", "app")
	if want := "warm app: new 0 objects, 0 B; already cached 2 objects, "; code != exitFine || !strings.HasPrefix(stdout, want) ||
		!strings.Contains(stdout, "images: 1 warm, 0 failed; ") {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
	code, stdout, stderr = invoke(t, "warm", "--url", mirror.URL, "--referrers=false", "--quiet", "app", "other")
	if code != exitFailed || stdout != "failed other: 404: no such image\n" && !strings.Contains(stdout, "no such image") ||
		strings.Contains(stdout, "warm app") || !strings.Contains(stderr, "failed images: 1") {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
	mirror.Close()
	if code, _, stderr := invoke(t, "warm", "--url", mirror.URL, "app"); code != exitFailed || !strings.Contains(stderr, "no mirror answers at ") {
		t.Errorf("%d, %q", code, stderr)
	}
}

// An interrupted run says that it can go on.
func TestWarmInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sum := &warmSum{}
	var out strings.Builder
	if err := sum.conclude(ctx, &out); err == nil || !strings.Contains(err.Error(), "Run the command again") {
		t.Error(err)
	}
}

// The health check asks the address of the configuration, and fails if no mirror
// answers there.
func TestHealthcheck(t *testing.T) {
	mirror := warmedMirror(t)
	_, port, err := net.SplitHostPort(mirror.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1", "0.0.0.0"} {
		_, path := loadText(t, "[server]\nbind_address = "+strconv.Quote(address)+"\nport = "+port+"\n")
		if code, stdout, stderr := invoke(t, "healthcheck", "--config", path); code != exitFine || stdout != "healthy\n" {
			t.Errorf("%s: %d, %q, %q", address, code, stdout, stderr)
		}
		if address == "0.0.0.0" {
			mirror.Close()
			if code, _, stderr := invoke(t, "healthcheck", "--config", path); code != exitFailed || !strings.Contains(stderr, "no mirror answers: ") {
				t.Errorf("%d, %q", code, stderr)
			}
		}
	}
	_, path := loadText(t, "[server]\nport = 0\n")
	if code, _, stderr := invoke(t, "healthcheck", "--config", path); code != exitFailed || !strings.Contains(stderr, "Set a fixed port") {
		t.Errorf("%d, %q", code, stderr)
	}
}

// A mirror that is alive and not ready says why, and another program nothing.
func TestHealthcheckOfOneThatIsNotReady(t *testing.T) {
	for body, want := range map[string]string{
		"not ready: cannot write to the store. Check the volume\n": "weir: the mirror is not ready: cannot write to the store. Check the volume\n",
		"gone": "no mirror answers: ",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, body, http.StatusServiceUnavailable) }))
		_, port, err := net.SplitHostPort(server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, path := loadText(t, "[server]\nport = "+port+"\n")
		if code, _, stderr := invoke(t, "healthcheck", "--ready", "--config", path); code != exitFailed || !strings.Contains(stderr, want) {
			t.Errorf("%q: %d, %q", body, code, stderr)
		}
		server.Close()
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := invoke(t, "version")
	if code != exitFine || !strings.HasPrefix(stdout, "weir ") || !strings.Contains(stdout, "go1.") {
		t.Errorf("%d, %q", code, stdout)
	}
}

// Wrong usage has an exit code of its own, and the error names the command.
func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"the command is missing. Run weir --help for a list":      nil,
		`unknown command "sing"`:                                  {"sing"},
		`unknown command "sing" for "weir auth"`:                  {"auth", "sing"},
		`unknown command "sing" for "weir completion"`:            {"completion", "sing"},
		"the command is missing. Run weir completion":             {"completion"},
		`there is no command "sing"`:                              {"help", "sing"},
		`there is no command "auth sing"`:                         {"help", "auth", "sing"},
		`got "weir.toml". Its usage is: weir serve [flags]. Name`: {"serve", "weir.toml"},
		"not accept 2 arguments. Its usage is: weir inspect":      {"inspect", "one", "two"},
		"not accept 0 arguments. Its usage is: weir rm IMAGE":     {"rm"},
		"unknown flag: --loud":                                    {"serve", "--loud"},
		"--image needs --online":                                  {"check", "--image", "alpine"},
		`--output is "xml"`:                                       {"check", "--online", "--output", "xml"},
		"--timeout is 0s":                                         {"check", "--online", "--timeout", "0s"},
		"--jobs is 0":                                             {"verify", "--jobs", "0"},
		"the configuration is invalid":                            {"serve", "--config", "/missing.toml"},
		"weir client-config needs exactly one client (d":          {"client-config"},
	} {
		if code, _, stderr := invoke(t, args...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: %d, %q, want %s", args, code, stderr, want)
		}
	}
}

// Without a terminal, progress is a line at the start and one now and then.
func TestProgressWithoutTerminal(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "progress")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := newProgress(file, "verifying", amount(4, 4<<20))
	p.advance(amount(1, 1<<20)) // too soon for a line
	p.(*lines).last = serverTime
	p.advance(amount(1, 1<<20))
	p.end(true)
	content, err := os.ReadFile(file.Name())
	if want := "verifying 4 objects, 4.0 MiB\nverifying: 25% (1 object, 1.0 MiB)\n"; err != nil || string(content) != want {
		t.Errorf("%q, %v", content, err)
	}
}

// With --detach the mirror gets the images as they were written, and the ID of its job is printed.
func TestWarmDetached(t *testing.T) {
	var sent string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method+" "+r.URL.Path != "POST /api/v1/warm" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		sent = string(body)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(sent, "denied") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors": [{"code": "DENIED", "message": "you may not"}]}`)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id": "abc\u001b[2Jdef"}`)
	}))
	t.Cleanup(server.Close)
	list := filepath.Join(t.TempDir(), "images")
	write(t, list, "nginx # comment\ndocker.io/library/redis:8\n")
	host := strings.TrimPrefix(server.URL, "http://")
	code, stdout, stderr := invoke(t, "warm", "--detach", "--url", server.URL, "--platform", "linux/amd64", "--file", list, host+"/ghcr.io/org/app:v1", "nginx")
	if code != exitFine || strings.Contains(stdout, "\x1b") || !strings.HasPrefix(stdout, "abc") || stderr != "" {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
	if want := `{"images":["ghcr.io/org/app:v1","nginx","docker.io/library/redis:8"],"platforms":["linux/amd64"]}`; strings.TrimSpace(sent) != want {
		t.Errorf("the mirror got %s, want %s", sent, want)
	}
	sent = ""
	for says, args := range map[string][]string{
		"you may not": {"denied"}, "cannot be used with --detach": {"--jobs", "3", "nginx"}, "no image is given": nil, "--platform": {"--platform", "x/y/z/w", "nginx"},
	} {
		if code, stdout, stderr := invoke(t, append([]string{"warm", "--detach", "--url", server.URL}, args...)...); code == exitFine || stdout != "" || !strings.Contains(stderr, says) {
			t.Errorf("%q: %d, %q, %q", args, code, stdout, stderr)
		}
	}
}
