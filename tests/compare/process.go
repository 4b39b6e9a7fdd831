package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience bounds how long a server may take to start.
const patience = 30 * time.Second

// process is a running server. Its group has its children too.
type process struct {
	cmd  *exec.Cmd
	addr string
}

// startProcess runs a program until it accepts connections at an address. It writes its log into
// a file of the directory.
func startProcess(ctx context.Context, dir, addr string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, addr: addr}
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(200 * time.Microsecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return p, nil
		}
	}
	text, err := os.ReadFile(log.Name())
	return nil, errors.Join(fmt.Errorf("%s does not listen at %s:\n%s", args[0], addr, text), err, p.stop())
}

// stop ends the server and waits for its end.
func (p *process) stop() error {
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		return err
	}
	err := p.cmd.Wait()
	var status *exec.ExitError
	if errors.As(err, &status) {
		return nil // a server that a signal ends may say so
	}
	return err
}

// members returns the directories in /proc of the server and its children.
func (p *process) members() []string {
	var members []string
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		if fields := statOf(path); len(fields) > 5 && fields[5-3] == strconv.Itoa(p.cmd.Process.Pid) {
			members = append(members, filepath.Dir(path))
		}
	}
	return members
}

// statOf returns the fields of a proc_pid_stat(5) file from the third one on.
func statOf(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.Fields(rest)
}

// cpu returns the processor time of the server in seconds. The kernel's clock ticks 100 times
// a second.
func (p *process) cpu() float64 {
	ticks := 0
	for _, dir := range p.members() {
		fields := statOf(filepath.Join(dir, "stat"))
		for _, field := range []int{14, 15} {
			if len(fields) > field-3 {
				n, _ := strconv.Atoi(fields[field-3])
				ticks += n
			}
		}
	}
	return float64(ticks) / 100
}

// memory returns the sum of a value of proc_pid_status(5) over the server and its children, in
// MiB: VmHWM is the peak of resident memory, VmRSS its present size.
func (p *process) memory(value string) float64 {
	kib := 0
	for _, dir := range p.members() {
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, value+":"); ok {
				n, _ := strconv.Atoi(strings.Fields(rest)[0])
				kib += n
			}
		}
	}
	return float64(kib) / 1024
}

// freeAddr returns an address of the loopback interface at which nothing listens.
func freeAddr() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
