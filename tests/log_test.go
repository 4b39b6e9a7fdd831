package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
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

// serveCommand returns the command that serves a configuration below dir on a free
// port.
func serveCommand(t *testing.T, dir, config string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(dir, "weir.toml")
	harness.WriteFile(t, file, fmt.Sprintf("[server]\nport = 0\n[blob_store.fs]\nroot_dir = %q\nmin_free = \"0B\"\n", filepath.Join(dir, "data"))+config)
	return exec.CommandContext(t.Context(), harness.Binary(t), "serve", "--config", file)
}

// A container engine puts standard output and standard error into one stream: all of
// its lines are JSON.
func TestAllOutputIsJSON(t *testing.T) {
	t.Parallel()
	cmd := serveCommand(t, t.TempDir(), block("mirror", upstreamtest.New(t)))
	output := new(testutil.LogBuffer)
	cmd.Stdout, cmd.Stderr = output, output
	harness.Must(t, cmd.Start())
	harness.Eventually(t, "it listens", func() bool { return output.Count(`"msg":"listening on http://127.0.0.1:`, `"url":"`) == 1 })
	harness.Must(t, cmd.Process.Signal(os.Interrupt))
	harness.Must(t, cmd.Wait())
	for line := range strings.Lines(output.String()) {
		var event struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.Time == "" || event.Level == "" || event.Msg == "" {
			t.Errorf("%v: %s", err, line)
		}
	}
	// The first line of the mirror itself says what runs.
	if output.Count(`"msg":"listening"`, `"version":"`, `"go":"go1.`, `"repositories":["mirror (1)"]`, `"configuration":"`, `"max_concurrent_fetches":64`) != 1 {
		t.Errorf("no start line:\n%s", output)
	}
	if output.Count(`"msg":"shutting down`, `"limit_s":30}`) != 1 {
		t.Errorf("durations are no seconds:\n%s", output)
	}
}

// On a terminal the log is for people: one short line, coloured, and a sentence for a
// request.
func TestLogOnATerminal(t *testing.T) {
	t.Parallel()
	const faint, green, off = "\x1b[2m", "\x1b[92m", "\x1b[0m"
	for name, c := range map[string]struct{ env, want string }{
		"colours":  {"NO_COLOR=", faint + `\d\d:\d\d:\d\d` + off + " " + green + "INF" + off + ` GET mirror/org/app:v1 200 ` + faint + "cache=" + off + "miss " + faint + "size=" + off},
		"NO_COLOR": {"NO_COLOR=1", `(?m)^\d\d:\d\d:\d\d INF GET mirror/org/app:v1 200 cache=miss size="\d+ B" took=[\d.]+(ms|s) client=127\.0\.0\.1 upstream=\S+\r?$`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			upstream.AddImage("org/app", "v1", []byte("a layer"))
			cmd := serveCommand(t, t.TempDir(), block("mirror", upstream))
			cmd.Env = append(os.Environ(), "TERM=xterm-256color", c.env)
			terminal, err := pty.Start(cmd)
			harness.Must(t, err)
			defer terminal.Close()
			screen, read := new(testutil.LogBuffer), make(chan struct{})
			go func() {
				_, _ = io.Copy(screen, terminal) // fails with EIO at the end
				close(read)
			}()
			var url string
			harness.Eventually(t, "it listens", func() bool {
				found := regexp.MustCompile(`weir: listening on (http://\S+)`).FindStringSubmatch(screen.String())
				if found != nil {
					url = found[1]
				}
				return found != nil
			})
			w := &harness.Weir{URL: url}
			w.Get(t, manifestPath("mirror/org/app", "v1"))
			w.Get(t, "/v2/mirror/org/app/manifests/%1b%5D0;title%07%E2%80%AEgnp")
			harness.Must(t, cmd.Process.Signal(os.Interrupt))
			harness.Must(t, cmd.Wait())
			<-read
			if !regexp.MustCompile(strings.ReplaceAll(c.want, "\x1b[", "\x1b\\[")).MatchString(screen.String()) {
				t.Errorf("no line is like %q:\n%q", c.want, screen)
			}
			if strings.Contains(screen.String(), "\x1b]") || strings.Contains(screen.String(), "\a") || strings.Contains(screen.String(), "\u202e") {
				t.Errorf("a path controls the terminal: %q", screen)
			}
			if strings.Contains(screen.String(), "{\"time\"") || strings.Contains(screen.String(), "level=") {
				t.Errorf("the log is not for people: %q", screen)
			}
		})
	}
}

// The line of a request names its client, behind trusted proxies only, and bounds the
// client's words.
func TestLogOfClients(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n": `"client":"198.51.100.7","peer":"127.0.0.1"`,
		"[global]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.2\"]\n":     `"client":"198.51.100.7","peer":"127.0.0.1"`,
		"[server]\ntrusted_proxies = [\"10.0.0.0/8\"]\n":                  `"client":"127.0.0.1","user_agent"`,
		"": `"client":"127.0.0.1","user_agent"`,
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			w := harness.StartWeir(t, key+block("mirror", upstreamtest.New(t)))
			req, err := http.NewRequestWithContext(t.Context(), "GET", w.URL+"/v2/a%1b%5D0;title%07%E2%80%AE/"+strings.Repeat("x", 10000), nil)
			harness.Must(t, err)
			req.Header["X-Forwarded-For"] = []string{"1.1.1.1", "198.51.100.7", "10.0.0.2"}
			req.Header.Set("Forwarded", "for=2.2.2.2")
			req.Header.Set("User-Agent", "evil\u202e/"+strings.Repeat("9", 10000))
			resp, err := http.DefaultClient.Do(req)
			harness.Must(t, err)
			resp.Body.Close()
			w.Logs(t, `"msg":"request"`, `"operation":"other"`, `"path":"/v2/a\\x1b]0;title\\a\\u202e/xxx`, `xxx..."`, want, `"user_agent":"evil\\u202e/999`, `999..."`)
			for line := range strings.Lines(w.Log.String()) {
				if len(line) > 2000 {
					t.Errorf("a line has %d bytes: %.300s", len(line), line)
				}
			}
			w.Get(t, "/v2/")
			w.Get(t, "/metrics")
			w.Logs(t, `"level":"DEBUG"`, `"operation":"ping"`, `"path":"/v2/"`)
			w.Logs(t, `"level":"DEBUG"`, `"path":"/metrics"`)
		})
	}
}
