package tests

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

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
			return strings.Contains(out.String(), bar) && strings.Contains(out.String(), "B / 3.0 MiB")
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

// A command that ends early leaves a clean terminal: no bar, no "^C", and the cursor at
// the begin of a line. A failure and SIGTERM leave it as Ctrl-C does.
func TestWarmLeavesTheTerminalClean(t *testing.T) {
	testutil.Long(t, "interrupts warming on terminals")
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(*testing.T, *exec.Cmd, *os.File, *upstreamtest.Gate)
		last []string // the lines at the end, with # for any number
	}{
		"Ctrl-C": {
			func(t *testing.T, _ *exec.Cmd, terminal *os.File, _ *upstreamtest.Gate) {
				_, err := terminal.Write([]byte{3}) // the terminal sends SIGINT, and echoes ^C
				harness.Must(t, err)
			}, []string{"images: 0 warm, 0 failed; #", "weir: interrupted. Run the command again to continue; nothing is transferred twice", ""},
		},
		"SIGTERM": {
			func(t *testing.T, cmd *exec.Cmd, _ *os.File, _ *upstreamtest.Gate) {
				harness.Must(t, cmd.Process.Signal(syscall.SIGTERM))
			}, []string{"images: 0 warm, 0 failed; #", "weir: interrupted. Run the command again to continue; nothing is transferred twice", ""},
		},
		"failure": {
			func(_ *testing.T, _ *exec.Cmd, _ *os.File, gate *upstreamtest.Gate) { gate.Open() }, []string{"images: 0 warm, 1 failed; #", "weir: failed images: 1", ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := upstreamtest.New(t)
			gate := upstreamtest.NewGate()
			image := publish(t, upstream, "org/app", "v1", mib)
			effects := []upstreamtest.Effect{upstreamtest.StallAfter(100*kib, gate)}
			if name == "failure" {
				effects = append(effects, upstreamtest.Corrupt(mib-1))
			}
			upstream.Fault(upstreamtest.Path(image.blobs[0].String()), effects...)
			w := harness.StartWeir(t, block("mirror", upstream))
			cmd := exec.CommandContext(t.Context(), harness.Binary(t), "warm", "--url", w.URL, "mirror/org/app:v1")
			terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
			harness.Must(t, err)
			defer terminal.Close()
			out := new(testutil.LogBuffer)
			read := make(chan struct{})
			go func() {
				defer close(read)
				_, _ = io.Copy(out, terminal)
			}()
			harness.Eventually(t, "a bar", func() bool { return strings.Contains(out.String(), "B / 3.0 MiB") })
			c.end(t, cmd, terminal, gate)
			_ = cmd.Wait()
			<-read
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			shown := screen(out.String())
			for i, want := range c.last {
				got := ""
				if at := len(shown) - len(c.last) + i; at >= 0 {
					got = shown[at]
				}
				if prefix, any := strings.CutSuffix(want, "#"); got != want && !(any && strings.HasPrefix(got, prefix)) {
					t.Errorf("the end of the terminal is %q, want %q in %q", got, want, shown)
				}
			}
			if all := strings.Join(shown, "\n"); strings.Contains(all, "^C") || strings.Contains(all, "[") {
				t.Errorf("leftovers: %q", shown)
			}
		})
	}
}

// screen returns the lines that a terminal shows after an output, as far as programs
// here use its control sequences: it moves the cursor up, and erases to the end of the
// line or of the screen.
func screen(output string) []string {
	lines, row, column := []string{""}, 0, 0
	sequence := regexp.MustCompile(`^\x1b\[(\d*)([A-Za-z])`)
	for len(output) > 0 {
		if found := sequence.FindStringSubmatch(output); found != nil {
			count, _ := strconv.Atoi(found[1])
			switch found[2] {
			case "A":
				row = max(row-max(count, 1), 0)
			case "J":
				lines = lines[:row+1]
				lines[row] = cut(lines[row], column)
			case "K":
				lines[row] = cut(lines[row], column)
			}
			output = output[len(found[0]):]
			continue
		}
		r, size := utf8.DecodeRuneInString(output)
		output = output[size:]
		switch r {
		case '\r':
			column = 0
		case '\n':
			if row++; row == len(lines) {
				lines = append(lines, "")
			}
		default:
			line := []rune(lines[row])
			for len(line) <= column {
				line = append(line, ' ')
			}
			line[column] = r
			lines[row] = string(line)
			column++
		}
	}
	return lines
}

// cut returns the first columns of a line.
func cut(line string, columns int) string {
	if runes := []rune(line); len(runes) > columns {
		return string(runes[:columns])
	}
	return line
}
