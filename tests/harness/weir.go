package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// Weir is a running mirror.
type Weir struct {
	URL    string // http://127.0.0.1:port, or https:// with TLS
	Addr   string // 127.0.0.1:port
	Config string // path of the file that the test's configuration is in
	Data   string // blob_store.fs.root_dir

	// Client sends the requests of Get, Do and Metric; nil: the default one.
	Client *http.Client

	Cmd    *exec.Cmd
	Log    *testutil.LogBuffer
	Exited chan struct{}
}

// StartWeir runs the mirror with a configuration, on a free port and with data
// below the test's directory unless the configuration says otherwise, and stops
// it with the test. A log line about a data race or a panic fails the test.
func StartWeir(t *testing.T, config string, env ...string) *Weir {
	t.Helper()
	return StartWeirIn(t, t.TempDir(), config, env...)
}

// StartWeirIn is StartWeir with a directory of the caller's, so that a second
// mirror can find the data of a first one.
func StartWeirIn(t *testing.T, dir, config string, env ...string) *Weir {
	t.Helper()
	return StartWeirAs(t, dir, config, func(*exec.Cmd) {}, env...)
}

// StartWeirAs is StartWeirIn with a last word about the command.
func StartWeirAs(t *testing.T, dir, config string, prepare func(*exec.Cmd), env ...string) *Weir {
	t.Helper()
	w := &Weir{
		Config: filepath.Join(dir, "config.toml"),
		Data:   filepath.Join(dir, "data"),
		Log:    &testutil.LogBuffer{},
		Exited: make(chan struct{}),
	}
	base := filepath.Join(dir, "base.toml")
	WriteFile(t, base, fmt.Sprintf("[server]\nport = 0\n[log]\nformat = \"json\"\nlevel = \"debug\"\n[blob_store.fs]\nroot_dir = %q\nmin_free = \"0B\"\n", w.Data))
	WriteFile(t, w.Config, config)
	w.Cmd = exec.Command(Binary(t), "serve", "--config", base, "--config", w.Config)
	w.Cmd.Env = append(os.Environ(), env...)
	w.Cmd.Stderr = w.Log
	stdout, err := w.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	prepare(w.Cmd)
	if err := w.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		_ = w.Cmd.Wait()
		close(w.Exited)
	}()
	t.Cleanup(func() {
		w.Kill()
		log := w.Log.String()
		if strings.Contains(log, "DATA RACE") || strings.Contains(log, "goroutine panicked") || strings.Contains(log, `"panic"`) {
			t.Error("the mirror raced or panicked")
		}
		if t.Failed() {
			t.Logf("the mirror's end: %v; its log:\n%s", w.Cmd.ProcessState, log)
		}
	})
	url, ok := announced(line)
	if err != nil || !ok {
		<-w.Exited
		t.Fatalf("the mirror did not start: printed %q\n%s", line, w.Log)
	}
	_, w.Addr, _ = strings.Cut(url, "://")
	w.URL = url
	return w
}

// announced returns the URL in the line that a mirror prints at its start: JSON, as its
// log is, or a sentence.
func announced(line string) (url string, ok bool) {
	var record struct{ URL string }
	if json.Unmarshal([]byte(line), &record) == nil {
		return record.URL, record.URL != ""
	}
	return strings.CutPrefix(strings.TrimSpace(line), "weir: listening on ")
}

// Terminate sends SIGTERM and returns the exit code.
func (w *Weir) Terminate(t *testing.T) int {
	t.Helper()
	if err := w.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return w.Wait(t)
}

// Wait returns the exit code.
func (w *Weir) Wait(t *testing.T) int {
	t.Helper()
	select {
	case <-w.Exited:
		return w.Cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		t.Fatal("the mirror does not end")
		return 0
	}
}

// Kill ends the mirror without any notice.
func (w *Weir) Kill() {
	_ = w.Cmd.Process.Kill()
	<-w.Exited
}

// ClientConfig writes the files that point a client at the mirror below a
// directory of the test, as its command does, and returns that directory.
func (w *Weir) ClientConfig(t *testing.T, client string) string {
	t.Helper()
	dir := t.TempDir()
	Run(t, exec.CommandContext(t.Context(), Binary(t), "client-config", client, "--config", w.Config, "--url", w.URL, "--dir", dir))
	return dir
}
