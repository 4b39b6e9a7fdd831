package harness

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a server that a test kills and starts again. Its methods may be
// called from any goroutine; they mark the test as failed if they cannot do
// their work.
type Process struct {
	t       testing.TB
	name    string
	log     string // path
	command func() *exec.Cmd
	ready   func(stdout io.Reader) bool

	mu  sync.Mutex
	cmd *exec.Cmd // nil while it is stopped
}

// NewProcess returns a server that is not started yet, and kills it with the
// test. Its standard error goes to a file. The command is made again for each
// start, which returns when ready does; ready may read the standard output.
func NewProcess(t testing.TB, name string, command func() *exec.Cmd, ready func(stdout io.Reader) bool) *Process {
	t.Helper()
	p := &Process{t: t, name: name, log: filepath.Join(t.TempDir(), name+".log"), command: command, ready: ready}
	t.Cleanup(func() { p.Kill() })
	return p
}

// Start starts the server unless it runs, and returns how long it took to be
// ready.
func (p *Process) Start() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return 0
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Error(err)
		return 0
	}
	defer log.Close()
	cmd := p.command()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Error(err)
		return 0
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		p.t.Error(err)
		return 0
	}
	p.cmd = cmd
	if !p.ready(stdout) {
		p.t.Errorf("%s does not start:\n%s", p.name, p.Log())
	}
	took := time.Since(begun)
	// A server whose output is not read blocks on a full pipe.
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	return took
}

// Kill ends the server without any notice, if it runs.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // its error says that the process was killed
	p.cmd = nil
}

// Terminate asks the server to end, as a supervisor does, and returns when it has. A server
// that does not is killed, and the test fails.
func (p *Process) Terminate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	killed := time.AfterFunc(2*Patience, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait() // an exit code other than 0 is told by the state
	if !killed.Stop() {
		p.t.Errorf("%s does not end:\n%s", p.name, p.tail())
	}
	p.cmd = nil
}

// Signal sends a signal to the server, if it runs.
func (p *Process) Signal(signal os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(signal)
	}
}

// tail returns the end of the log.
func (p *Process) tail() string {
	log := p.Log()
	return log[max(0, len(log)-8<<10):]
}

// Log returns the standard error of all starts.
func (p *Process) Log() string {
	log, err := os.ReadFile(p.log)
	if err != nil && !os.IsNotExist(err) {
		p.t.Error(err)
	}
	return string(log)
}
