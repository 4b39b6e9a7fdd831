package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weirhq/weir/tests/load"
)

// mirror is the process that is measured.
type mirror struct {
	addr   string
	binary string
	config string
	cmd    *exec.Cmd
}

// startMirror builds and runs a mirror with further tables in its configuration.
func startMirror(ctx context.Context, dir, upstream, tables string) (*mirror, error) {
	// Mirrors beside each other have one binary, which is linked once.
	m := &mirror{binary: filepath.Join(filepath.Dir(dir), "weir"), config: filepath.Join(dir, "config.toml")}
	if err := m.configure(dir, upstream, tables); err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", m.binary, "github.com/weirhq/weir/cmd/weir")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building the mirror: %w", err)
	}
	return m, m.start(ctx)
}

// configure writes the configuration of a mirror that keeps its data in dir.
func (m *mirror) configure(dir, upstream, tables string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	config := fmt.Sprintf(`[server]
port = 0
[log]
level = "info"
format = "json"
[blob_store.fs]
root_dir = %q
%s[repository."bench"]
[[repository."bench".upstream]]
url = %q
`, filepath.Join(dir, "data"), tables, upstream)
	return os.WriteFile(m.config, []byte(config), 0o600)
}

// start runs the mirror with a log that is written, as in real life, but to
// nowhere.
func (m *mirror) start(ctx context.Context) error {
	m.cmd = exec.CommandContext(ctx, m.binary, "serve", "--config", m.config)
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the mirror did not start: %w", err)
	}
	var announced struct{ URL string }
	if err := json.Unmarshal([]byte(line), &announced); err != nil {
		return fmt.Errorf("the mirror did not tell its address: %w", err)
	}
	_, m.addr, _ = strings.Cut(announced.URL, "://")
	return nil
}

func (m *mirror) stop()      { m.daemon().stop() }
func (m *mirror) cpu() usage { return m.daemon().cpu() }

func (m *mirror) daemon() *daemon { return &daemon{m.cmd} }

// process is a server that is measured.
type process interface{ cpu() usage }

// daemon is a process that SIGTERM ends.
type daemon struct{ cmd *exec.Cmd }

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

func (m *mirror) restart(ctx context.Context) error {
	m.stop()
	return m.start(ctx)
}

// usage is processor time.
type usage struct{ user, system time.Duration }

// since is the time used since before, divided by n.
func (u usage) since(before usage, n float64) string { return u.minus(before, n).String() }

// minus returns the time used since before, divided by n.
func (u usage) minus(before usage, n float64) usage {
	return usage{time.Duration(float64(u.user-before.user) / n), time.Duration(float64(u.system-before.system) / n)}
}

// total returns seconds.
func (u usage) total() float64 { return (u.user + u.system).Seconds() }

func (u usage) String() string {
	return fmt.Sprintf("%.3f s (%.3f user, %.3f system)", u.total(), u.user.Seconds(), u.system.Seconds())
}

func (d *daemon) proc() string { return fmt.Sprintf("/proc/%d", d.cmd.Process.Pid) }

func (d *daemon) cpu() usage {
	user, system := load.CPU(d.proc())
	return usage{user, system}
}

// memory returns the peak of the mirror's resident memory, and how much of it are pages of the
// program's file, which the kernel can drop and processes share.
func (d *daemon) memory() (peak, program int64) {
	return load.Memory(d.proc(), "VmHWM"), load.Memory(d.proc(), "RssFile")
}
