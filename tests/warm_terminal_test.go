package tests

import (
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// On a terminal there is a bar for each image.
func TestWarmOnATerminal(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	gate := upstreamtest.NewGate()
	for _, repo := range []string{"org/one", "org/two"} {
		image := publish(t, upstream, repo, "v1", mib)
		upstream.Fault(upstreamtest.Path(image.blobs[0].String()), upstreamtest.StallAfter(100*kib, gate))
	}
	w := harness.StartWeir(t, block("mirror", upstream))
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "warm", "--url", w.URL, "mirror/org/one:v1", "mirror/org/two:v1")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	harness.Must(t, err)
	defer terminal.Close()
	out := new(testutil.LogBuffer)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(out, terminal) // ends with EIO when all writers have closed
	}()
	for _, bar := range []string{"mirror/org/one:v1 ", "mirror/org/two:v1 "} {
		harness.Eventually(t, "a bar", func() bool {
			return strings.Contains(out.String(), bar) && strings.Contains(out.String(), "MiB / 3.0 MiB")
		})
	}
	gate.Open()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	<-read
	for _, want := range []string{"warm mirror/org/one:v1: new 1", "warm mirror/org/two:v1: new 1", "images: 2 warm, 0 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the terminal shows %q, want %q", out, want)
		}
	}
}
