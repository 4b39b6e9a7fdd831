package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// Daemon is a server that another project wrote.
type Daemon struct {
	Cmd *exec.Cmd
	Log *testutil.LogBuffer
}

// StartDaemon runs a server until the test ends. The context of its command
// must end with the test too. SIGTERM then lets the server give up its mounts
// and children; the rest of its process group is killed after that.
func StartDaemon(t *testing.T, cmd *exec.Cmd) *Daemon {
	t.Helper()
	d := &Daemon{Cmd: cmd, Log: &testutil.LogBuffer{}}
	cmd.Stdout, cmd.Stderr = d.Log, d.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = Patience
	Must(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		<-exited
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(cmd.Path), d.Log)
		}
	})
	return d
}

// SocketDir makes a directory whose path is short enough for sockets, and
// removes it with the test. Something that is still mounted there is a failure:
// a server was not stopped properly.
func SocketDir(t *testing.T, pattern string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", pattern)
	Must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return dir
}
