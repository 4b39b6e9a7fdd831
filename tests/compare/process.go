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
	"syscall"
	"time"

	"github.com/weirhq/weir/tests/load"
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
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		if fields := load.Stat(dir); len(fields) > 5 && fields[5-3] == strconv.Itoa(p.cmd.Process.Pid) {
			members = append(members, dir)
		}
	}
	return members
}

// cpu returns the processor time of the server in seconds.
func (p *process) cpu() float64 {
	var sum time.Duration
	for _, dir := range p.members() {
		user, system := load.CPU(dir)
		sum += user + system
	}
	return sum.Seconds()
}

// memory returns the sum of a value of load.Memory over the server and its children, in MiB.
func (p *process) memory(value string) float64 {
	var sum int64
	for _, dir := range p.members() {
		sum += load.Memory(dir, value)
	}
	return float64(sum) / mib
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
