package upstream

import (
	"context"
	"io"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/internal/bulk"
)

const (
	// smallBodyTime is how long the body of a manifest or a list may take at any speed.
	// Clients wait about as long.
	smallBodyTime = 60 * time.Second
	// smallBodySpeed is the average, in bytes per second, that such a body needs to go on
	// after that: a quarter of a slow line's.
	smallBodySpeed = 16 << 10
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
	pace    throttle
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, timeout time.Duration, count func(n int), span trace.Span, pace throttle) *stream {
	timer := time.AfterFunc(timeout, func() { cancel(errStalled) })
	timer.Stop()
	return &stream{ctx: ctx, cancel: cancel, body: body, timer: timer, timeout: timeout, count: count, span: span, pace: pace}
}

// Read returns the cause of ctx's end as its error if ctx has ended.
func (s *stream) Read(p []byte) (int, error) {
	p, err := s.pace.await(s.ctx, p)
	if err != nil {
		noteBroken(s.span, err)
		return 0, err
	}
	s.timer.Reset(s.timeout)
	n, err := s.body.Read(p)
	s.timer.Stop()
	s.pace.spend(n)
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

// shortDocument is the length of a manifest or a list, in bytes, up to which any number is
// in memory at once. Nearly all are shorter.
const shortDocument = 256 << 10

// document is the body of a manifest or a list. Each single Read of it has a time limit, but
// a body that drips would never end: after smallBodyTime it needs an average of
// smallBodySpeed. One that is not short needs a place, see [bulk.Enter].
type document struct {
	ctx   context.Context
	body  io.Reader
	began time.Time
	bytes int64
	err   error // of the body
}

func newDocument(ctx context.Context, body io.Reader) *document {
	return &document{ctx: ctx, body: body, began: time.Now()}
}

// Read waits for a place before it reads more than a short document. It returns errTooSlow
// if the body has become too slow.
func (d *document) Read(p []byte) (int, error) {
	switch {
	case d.err != nil:
		return 0, d.err
	case d.bytes < shortDocument:
		p = p[:min(int64(len(p)), shortDocument-d.bytes)]
	default:
		if d.err = d.enter(); d.err != nil {
			return 0, d.err
		}
	}
	stop := bulk.Watch(d.ctx, d.interrupt)
	n, err := d.body.Read(p)
	stop()
	d.bytes += int64(n)
	age := time.Since(d.began)
	slow := age > smallBodyTime && float64(d.bytes) < age.Seconds()*smallBodySpeed
	if err == nil && (slow || bulk.Advance(d.ctx, n) != nil) {
		err = errTooSlow
	}
	d.err = err
	return n, err
}

// interrupt ends a Read of the body that waits for bytes.
func (d *document) interrupt() {
	if s, ok := d.body.(*stream); ok {
		s.cancel(errTooSlow)
	}
}

// enter waits for a place, which is no fault of the registry.
func (d *document) enter() error {
	waited := time.Now()
	err := bulk.Enter(d.ctx)
	d.began = d.began.Add(time.Since(waited))
	return err
}
