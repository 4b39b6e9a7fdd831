package app

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// written is a file that keeps each write apart.
type written struct {
	mu     sync.Mutex
	writes []string
	stuck  chan struct{} // nil: writes do not wait
}

func (w *written) Write(p []byte) (int, error) {
	if w.stuck != nil {
		<-w.stuck
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

// sizes returns the number of lines of each write.
func (w *written) sizes() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sizes []int
	for _, text := range w.writes {
		sizes = append(sizes, strings.Count(text, "\n"))
	}
	return fmt.Sprint(sizes)
}

// Lines of requests wait for others, but not long. Another line, or a failure, is written at
// once, behind them.
func TestLinesOfRequestsAreWrittenTogether(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		synctest.Test(t, func(t *testing.T) {
			file := new(written)
			logger, lines := newBatchedLogger(file, format, slog.LevelInfo)
			of := logger.With("upstream", "ghcr.io").WithGroup("g")
			expect := func(when, want string) {
				t.Helper()
				if got := file.sizes(); got != want {
					t.Errorf("%s, %s: writes of %s lines, want %s", format, when, got, want)
				}
			}
			logger.Info("request", "method", "GET")
			of.Info("request", "method", "GET")
			expect("at once", "[]")
			time.Sleep(batchDelay + 1)
			expect("after the delay", "[2]")
			logger.Info("request", "method", "GET")
			of.Info("configuration reloaded")
			expect("after another line", "[2 2]")
			logger.Info("request", "method", "GET")
			logger.Warn("request", "method", "GET", "status", 502)
			expect("after a failure", "[2 2 2]")
			logger.Info("request", "method", "GET")
			lines.close()
			expect("at the end", "[2 2 2 1]")
			logger.Info("request", "method", "GET")
			expect("after the end", "[2 2 2 1 1]")
			time.Sleep(time.Second)
			expect("later", "[2 2 2 1 1]")
		})
	}
}

// While the log is not read, requests wait once a batch is full. No line is lost, and those of one
// request keep their order.
func TestFullBatchMakesRequestsWait(t *testing.T) {
	const clients, requests, size = 8, 200, 512
	file := &written{stuck: make(chan struct{})}
	lines := newBatch(file)
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			for i := range requests {
				_, _ = fmt.Fprintf(lines, "%d:%d %s\n", client, i, strings.Repeat("x", size)) // it cannot fail
			}
		})
	}
	full := false
	for ; !full; time.Sleep(time.Millisecond) {
		lines.mu.Lock()
		if len(lines.lines) > maxBatch {
			t.Fatalf("%d bytes wait", len(lines.lines))
		}
		full = len(lines.lines) > maxBatch-2*size
		lines.mu.Unlock()
	}
	close(file.stuck)
	group.Wait()
	lines.close()
	next := make(map[string]int)
	for line := range strings.Lines(strings.Join(file.writes, "")) {
		number, _, _ := strings.Cut(line, " ")
		client, i, _ := strings.Cut(number, ":")
		if i != fmt.Sprint(next[client]) {
			t.Fatalf("line %s of client %s, want %d", i, client, next[client])
		}
		next[client]++
	}
	if got := fmt.Sprint(next); got != "map[0:200 1:200 2:200 3:200 4:200 5:200 6:200 7:200]" {
		t.Error(got)
	}
}

// A line may be longer than a batch, and its memory is not kept.
func TestLongLineOfABatch(t *testing.T) {
	var file bytes.Buffer
	lines := newBatch(&file)
	long := strings.Repeat("x", 3*maxBatch) + "\n"
	for _, line := range []string{"before\n", long, "behind\n"} {
		if n, err := io.WriteString(lines, line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	lines.close()
	lines.writing.Lock() // the timer may end at the same moment
	defer lines.writing.Unlock()
	if file.String() != "before\n"+long+"behind\n" || cap(lines.lines) > 2*maxBatch || cap(lines.spare) > 2*maxBatch {
		t.Errorf("%d bytes; %d and %d are kept", file.Len(), cap(lines.lines), cap(lines.spare))
	}
}

// BenchmarkRequestLine measures the line of a request on its way into a pipe that is read.
func BenchmarkRequestLine(b *testing.B) {
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, r) // it ends with the pipe
		close(read)
	}()
	logger, lines := newBatchedLogger(w, "json", slog.LevelInfo)
	b.ReportAllocs()
	for b.Loop() {
		logger.LogAttrs(b.Context(), slog.LevelInfo, "request",
			slog.String("method", "GET"), slog.String("operation", "manifest"), slog.String("repository", "docker.io/library/alpine"),
			slog.String("reference", "sha256:beefdbd8a1da6d2915566fde36db9db0b524eb737fc57cd1367effd16dc0d06d"), slog.Int("status", 200), slog.Int64("bytes", 9218),
			slog.Duration("duration", 41*time.Microsecond), slog.String("cache", "hit"), slog.String("client", "10.1.2.3"), slog.String("user_agent", "containerd/v2.1.0"))
	}
	lines.close()
	w.Close()
	<-read
	r.Close()
}
