package credhelper

import "os/exec"

// endWithChildren leaves the command as it is: the mirror, which runs helpers, runs on Linux.
func endWithChildren(*exec.Cmd) {}
