package cluster_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/cluster"
)

// tracedContents has a blob whose download is traced.
type tracedContents struct {
	contents *contents
	span     trace.Span
	follower trace.SpanContext
}

func (c *tracedContents) Open(ctx context.Context, want cluster.Want, stored bool) (*cluster.Content, error) {
	content, err := c.contents.Open(ctx, want, stored)
	if err == nil {
		content.Link = func(follower trace.SpanContext) trace.SpanContext {
			c.follower = follower
			return c.span.SpanContext()
		}
	}
	return content, err
}

// The traces of a download and of its follower refer to each other.
func TestTracesAreLinked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewSpanRecorder()
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
		_, holding := tracer.Start(t.Context(), "holder")
		ctx, following := tracer.Start(t.Context(), "follower")

		b := newBench(t)
		traced := &tracedContents{contents: &contents{bytes: map[digest.Digest]*growing{}}, span: holding}
		one, two := b.start("one", func(o *cluster.Options) { o.Contents = traced }), b.start("two")
		dgst, bytes := body(1000)
		one.turn(t, dgst, 0)
		g := newGrowing(len(bytes))
		g.add(bytes)
		traced.contents.set(dgst, g)
		stream, err := two.Open(ctx, two.want(dgst, 0))
		if err != nil {
			t.Fatal(err)
		}
		all(t, stream, bytes)
		following.End()
		if traced.follower.SpanID() != following.SpanContext().SpanID() {
			t.Errorf("the holder's follower is %v", traced.follower)
		}
		if links := spans.Ended()[0].Links(); len(links) != 1 || links[0].SpanContext.SpanID() != holding.SpanContext().SpanID() {
			t.Errorf("the follower links to %v", links)
		}
	})
}
