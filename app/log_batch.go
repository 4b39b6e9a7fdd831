package app

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// batchDelay is how long the line of a request waits for others. It is far below what a
	// reader of the log notices, and holds some hundred lines of a busy mirror.
	batchDelay = 10 * time.Millisecond
	// maxBatch bounds the bytes of the lines that wait, unless a single line is longer.
	maxBatch = 64 << 10
)

// batch gathers the lines of a log and writes them together, since a system call for each
// request costs more than the rest of its line. Lines wait for the batchDelay at most, and
// their order stays that in which they came.
//
// If the file accepts nothing, such as a pipe without a reader, a full batch makes its loggers wait,
// as they did without one. So no line is lost, and memory is bounded by two batches.
type batch struct {
	w io.Writer

	writing sync.Mutex // held while lines are taken and written; before mu
	spare   []byte     // for the next lines, guarded by writing

	mu     sync.Mutex
	lines  []byte
	timer  *time.Timer // ends the delay
	closed bool        // lines do not wait any more
}

func newBatch(w io.Writer) *batch {
	b := &batch{w: w}
	b.timer = time.AfterFunc(batchDelay, b.flush)
	b.timer.Stop()
	return b
}

// Write adds a line.
func (b *batch) Write(line []byte) (int, error) {
	b.mu.Lock()
	for len(b.lines) > 0 && len(b.lines)+len(line) > maxBatch {
		b.mu.Unlock()
		b.flush()
		b.mu.Lock()
	}
	if len(b.lines) == 0 && !b.closed {
		b.timer.Reset(batchDelay)
	}
	b.lines = append(b.lines, line...)
	closed := b.closed
	b.mu.Unlock()
	if closed {
		b.flush()
	}
	return len(line), nil
}

// flush writes the lines that wait. A line that cannot be written is lost: there is no other
// place to say so.
func (b *batch) flush() {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	lines := b.lines
	b.lines = b.spare[:0]
	b.mu.Unlock()
	if len(lines) > 0 {
		_, _ = b.w.Write(lines)
	}
	b.spare = nil
	if cap(lines) <= 2*maxBatch { // a long line must not keep its memory
		b.spare = lines
	}
}

// close writes the lines that wait, and lets later ones wait no longer.
func (b *batch) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.timer.Stop()
	b.flush()
}

// batchHandler writes lines through a batch. The lines of requests wait in it; all others, and
// those of requests that the mirror failed, are written at once, together with all before
// them. So whatever ends the process, no line that says why is lost.
type batchHandler struct {
	slog.Handler
	batch *batch
}

func (h batchHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return batchHandler{h.Handler.WithAttrs(attrs), h.batch}
}

func (h batchHandler) WithGroup(name string) slog.Handler {
	return batchHandler{h.Handler.WithGroup(name), h.batch}
}

func (h batchHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Message != requestMessage || r.Level > slog.LevelInfo {
		h.batch.flush()
	}
	return err
}
