package acme

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/weirhq/weir/internal/printable"
)

// Hook changes records by a program of the operator, which is run as
// HOOK present|cleanup NAME VALUE. Its exit code is 0 if the record is as it is to be.
// Its standard error is a part of the error message. It ends with the context, and so do
// the programs that it has started.
type Hook struct{ Command []string }

// Present implements [Records].
func (h Hook) Present(ctx context.Context, name, value string) error {
	return h.run(ctx, "present", name, value)
}

// CleanUp implements [Records].
func (h Hook) CleanUp(ctx context.Context, name, value string) error {
	return h.run(ctx, "cleanup", name, value)
}

func (h Hook) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, h.Command[0], append(h.Command[1:len(h.Command):len(h.Command)], args...)...)
	var output limited
	cmd.Stderr = &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A child of the program may keep the output open.
	const grace = time.Second
	cmd.WaitDelay = grace
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if text := printable.Line(string(output), maxReply); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return fmt.Errorf("%s: %w", h.Command[0], err)
}

// limited keeps the start of an output.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	*l = append(*l, p[:min(len(p), maxReply-len(*l))]...)
	return len(p), nil
}
