// Package redistest runs real servers of Redis for tests, and makes them fail the
// ways real ones do: a server can be killed, frozen, thawed and started again.
//
// [Start] runs one server, [StartSentinel] a Sentinel that watches one, and
// [StartCluster] a cluster. A server listens on a free TCP port of the loopback
// interface, needs no password unless the test says so, persists nothing, and ends
// with the test. [Authority] issues certificates for TLS.
package redistest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/testutil"
)

// Server is a redis-server process. Its methods may be called concurrently;
// each fails the test if it cannot do its work.
type Server struct {
	t        testing.TB
	addr     string
	dir      string
	settings []string // arguments of redis-server
	sentinel bool
	ready    string // the line that says that it answers

	mu      sync.Mutex
	process *exec.Cmd     // nil while stopped
	drained chan struct{} // closed when the process's output has ended
}

// attempts is how many ports Start tries: another process may take a free port
// before the server does.
const attempts = 5

// Start runs a server until the test ends, and returns when it answers. Settings are
// arguments of redis-server, such as "--requirepass", "secret". It fails the test if
// redis-server is not installed.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	settings = append([]string{"--save", "", "--appendonly", "no"}, settings...)
	return start(&Server{t: t, dir: t.TempDir(), settings: settings, ready: "Ready to accept connections"})
}

// start runs a server on a free port.
func start(s *Server) *Server {
	t := s.t
	t.Helper()
	t.Cleanup(s.Stop)
	var err error
	for range attempts {
		s.addr = testutil.FreeAddr(t)
		if err = s.launch(); err == nil {
			return s
		}
	}
	t.Fatalf("redistest: redis-server does not start: %v", err)
	return nil
}

// Addr is the server's host and port, the same after a Restart.
func (s *Server) Addr() string { return s.addr }

// URL is the server's address as clients and configurations write it.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// Client returns a client of the server that does not retry, so that a failure
// is seen at once. It is closed with the test.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { client.Close() })
	return client
}

// Stop kills the server, frozen or not, and waits until it is gone. All its
// data is lost. To stop a stopped server does nothing.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// Restart stops the server if it runs and starts it on the same address, empty.
// It returns when the server answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if err := s.launch(); err != nil {
		s.t.Fatalf("redistest: redis-server does not start again: %v", err)
	}
}

// Pause freezes the server: the kernel still accepts connections, and no answer
// comes. It returns when the process has stopped.
func (s *Server) Pause() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signal(syscall.SIGSTOP)
	for {
		_, err := syscall.Wait4(s.process.Process.Pid, nil, syscall.WUNTRACED, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			s.t.Fatalf("redistest: waiting for redis-server to stop: %v", err)
		}
		return
	}
}

// Resume thaws a frozen server, which then answers the calls of the meantime.
func (s *Server) Resume() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signal(syscall.SIGCONT)
}

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil
}

func (s *Server) signal(signal syscall.Signal) {
	s.t.Helper()
	if s.process == nil {
		s.t.Fatalf("redistest: %v to a server that is stopped", signal)
	}
	if err := s.process.Process.Signal(signal); err != nil {
		s.t.Fatalf("redistest: %v: %v", signal, err)
	}
}

// launch starts the process and returns when it says that it is ready.
func (s *Server) launch() error {
	s.t.Helper()
	path := testutil.Program(s.t, "redis-server", "redis-server")
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	listen := []string{"--port", port}
	if slices.Contains(s.settings, "--tls-cert-file") {
		listen = []string{"--port", "0", "--tls-port", port}
	}
	arguments := slices.Concat(listen, []string{"--bind", "127.0.0.1", "--dir", s.dir, "--daemonize", "no"}, s.settings)
	if s.sentinel {
		// A Sentinel needs a file to keep its state in, and reads its rules from
		// there only.
		file := filepath.Join(s.dir, "sentinel.conf")
		if err := os.WriteFile(file, []byte(settingsFile(arguments)), 0o600); err != nil {
			return err
		}
		arguments = []string{file, "--sentinel"}
	}
	process := exec.Command(path, arguments...)
	stdout, err := process.StdoutPipe()
	if err != nil {
		return err
	}
	process.Stderr = process.Stdout
	if err := process.Start(); err != nil {
		return err
	}
	s.process, s.drained = process, make(chan struct{})
	var output bytes.Buffer
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		output.WriteString(line)
		if err != nil {
			close(s.drained)
			s.stop()
			return fmt.Errorf("it ended with %w after\n%s", err, output.String())
		}
		if strings.Contains(line, s.ready) {
			break
		}
	}
	// A server whose output is not read blocks on a full pipe.
	go func(drained chan<- struct{}) {
		defer close(drained)
		io.Copy(io.Discard, lines)
	}(s.drained)
	return nil
}

func (s *Server) stop() {
	if s.process == nil {
		return
	}
	s.process.Process.Kill() // works on a frozen process too; fails only on an ended one
	<-s.drained
	s.process.Wait() // its error says that the process was killed
	s.process = nil
}
