//go:build unix

package credhelper

import (
	"os/exec"
	"syscall"
)

// endWithChildren has the end of the context end all processes of a helper. It may be a script,
// whose own children must end with it.
func endWithChildren(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
