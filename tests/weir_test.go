package tests

import (
	"bufio"
	"bytes"
	"flag"
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

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// binary is the path of the mirror that TestMain has built.
var binary string

func TestMain(m *testing.M) {
	if program, supervised := os.LookupEnv(supervisedVar); supervised {
		fmt.Fprintln(os.Stderr, execSupervised(program))
		os.Exit(1)
	}
	flag.Parse()
	dir, err := os.MkdirTemp("", "weir-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-race", "-o", binary, "github.com/weirhq/weir/cmd/weir")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the mirror:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds every wait for something that ought to happen at once.
const patience = 30 * time.Second

// weir is a running mirror.
type weir struct {
	URL    string // http://127.0.0.1:port
	Addr   string // 127.0.0.1:port
	Config string // path of the file that the test's configuration is in
	Data   string // blob_store.fs.root_dir

	cmd    *exec.Cmd
	log    *logBuffer
	exited chan struct{}
}

// startWeir runs the mirror with a configuration, on a free port and with data
// below the test's directory unless the configuration says otherwise, and stops
// it with the test. A log line about a data race or a panic fails the test.
func startWeir(t *testing.T, config string, env ...string) *weir {
	t.Helper()
	return startWeirIn(t, t.TempDir(), config, env...)
}

// startWeirIn is startWeir with a directory of the caller's, so that a second
// mirror can find what a first one has left.
func startWeirIn(t *testing.T, dir, config string, env ...string) *weir {
	t.Helper()
	return startWeirAs(t, dir, config, func(*exec.Cmd) {}, env...)
}

// startWeirAs is startWeirIn with a last word about the command.
func startWeirAs(t *testing.T, dir, config string, prepare func(*exec.Cmd), env ...string) *weir {
	t.Helper()
	w := &weir{
		Config: filepath.Join(dir, "config.toml"),
		Data:   filepath.Join(dir, "data"),
		log:    &logBuffer{},
		exited: make(chan struct{}),
	}
	base := filepath.Join(dir, "base.toml")
	writeFile(t, base, fmt.Sprintf("[server]\nport = 0\n[log]\nformat = \"json\"\nlevel = \"debug\"\n[blob_store.fs]\nroot_dir = %q\nmin_free = \"0B\"\n", w.Data))
	writeFile(t, w.Config, config)
	w.cmd = exec.Command(binary, "serve", "--config", base, "--config", w.Config)
	w.cmd.Env = append(os.Environ(), env...)
	w.cmd.Stderr = w.log
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	prepare(w.cmd)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		_ = w.cmd.Wait()
		close(w.exited)
	}()
	t.Cleanup(func() {
		w.kill()
		log := w.log.String()
		if strings.Contains(log, "DATA RACE") || strings.Contains(log, "goroutine panicked") || strings.Contains(log, `"panic"`) {
			t.Error("the mirror raced or panicked")
		}
		if t.Failed() {
			t.Logf("the mirror's end: %v; its log:\n%s", w.cmd.ProcessState, log)
		}
	})
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "weir: listening on ")
	if err != nil || !ok {
		<-w.exited
		t.Fatalf("the mirror did not start: printed %q\n%s", line, w.log)
	}
	w.URL, w.Addr = url, strings.TrimPrefix(url, "http://")
	return w
}

// terminate sends SIGTERM and returns the exit code.
func (w *weir) terminate(t *testing.T) int {
	t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return w.wait(t)
}

// wait returns the exit code.
func (w *weir) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-w.exited:
		return w.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the mirror does not end")
		return 0
	}
}

// kill ends the mirror without any notice.
func (w *weir) kill() {
	_ = w.cmd.Process.Kill()
	<-w.exited
}

// answer is what a request got, read to its end.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	Err    error // of reading the body
}

// get requests a path of the mirror. Headers are name, value, name, value...
func (w *weir) get(t *testing.T, path string, headers ...string) answer {
	t.Helper()
	return w.do(t, http.MethodGet, path, headers...)
}

func (w *weir) do(t *testing.T, method, path string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, a.Err = io.ReadAll(resp.Body)
	return a
}

// metric returns the sum of a metric's samples whose labels are among those
// given as name, value, name, value...
func (w *weir) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(w.get(t, "/metrics").Body))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		have := make(map[string]string)
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i+1 < len(labels); i += 2 {
			matches = matches && have[labels[i]] == labels[i+1]
		}
		if matches {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// eventually waits for something that the mirror does by itself, and fails the
// test when it does not.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// logBuffer is a log that is written to and read from at once.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// count returns how many lines hold all of the given texts.
func (b *logBuffer) count(texts ...string) int {
	n := 0
	for line := range strings.Lines(b.String()) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			n++
		}
	}
	return n
}
