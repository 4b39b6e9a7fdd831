package upstream

import (
	"context"
	"io"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// stream is the body of one answer. A Read that waits longer than the timeout
// fails. No time limit runs between two reads, since a slow reader is no fault of
// the upstream.
type stream struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	body    io.ReadCloser
	timer   *time.Timer // cancels ctx
	timeout time.Duration
	count   func(n int)
	span    trace.Span // of the try; ends with the body
	read    int        // bytes
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, timeout time.Duration, count func(n int), span trace.Span) *stream {
	timer := time.AfterFunc(timeout, func() { cancel(errStalled) })
	timer.Stop()
	return &stream{ctx: ctx, cancel: cancel, body: body, timer: timer, timeout: timeout, count: count, span: span}
}

// Read returns the cause of ctx's end as its error if ctx has ended.
func (s *stream) Read(p []byte) (int, error) {
	s.timer.Reset(s.timeout)
	n, err := s.body.Read(p)
	s.timer.Stop()
	s.count(n)
	s.read += n
	if err != nil && err != io.EOF {
		if cause := context.Cause(s.ctx); cause != nil {
			err = cause
		}
		noteBroken(s.span, err)
	}
	return n, err
}

// Close closes the body and ends the span of the try.
func (s *stream) Close() error {
	s.timer.Stop()
	err := s.body.Close()
	s.cancel(nil)
	if s.span.IsRecording() {
		s.span.SetAttributes(semconv.HTTPResponseBodySize(s.read))
	}
	s.span.End()
	return err
}
