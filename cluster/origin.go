package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.opentelemetry.io/otel/trace"
)

// ErrTurn says that it is the turn of this replica to ask the upstreams.
var ErrTurn = errors.New("cluster: it is the turn of this replica")

// errAlone says that this replica downloads by itself, without a turn.
var errAlone = errors.New("cluster: no replica delivers the content")

// maxRounds bounds how often Redis is asked for one Open. Each round either finds a further
// replica that fails, or a replica that was faster.
const maxRounds = 4

// Stream is a blob of another replica, from an offset on.
type Stream struct {
	io.ReadCloser
	Size int64  // of the whole; -1 if the replica does not know it yet
	Host string // of the replica
	// Reject reports that the bytes were wrong.
	Reject func()
}

// Open opens a blob at a replica that has it, or downloads it. It returns ErrTurn if
// there is none: the lease is this replica's now, until the download calls the function that
// Open registers with want.OnEnd. After any other error the caller asks the upstreams too,
// and no replica waits for it.
func (c *Cluster) Open(ctx context.Context, want Want) (*Stream, error) {
	failed := "" // the value of a lease whose holder did not deliver
	for range maxRounds {
		have, held, err := c.look(ctx, want)
		if err != nil {
			if want.OnEnd != nil {
				c.opts.Metrics.lease(alone)
			}
			return nil, err
		}
		if stream := c.readStored(ctx, want, have); stream != nil {
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		switch {
		case want.OnEnd == nil:
			return nil, errAlone
		case held.value == "" || held.value == failed:
			taken, err := c.take(ctx, want, failed, have)
			if taken {
				return nil, ErrTurn
			}
			if err != nil {
				c.opts.Metrics.lease(alone)
				return nil, err
			}
			continue // another replica was or is faster
		case !held.readable, c.holds(held.key):
			// Of another version, or that of another download of the same content here.
			c.opts.Metrics.lease(alone)
			return nil, errAlone
		case held.note.URL == c.opts.URL: // of an earlier process
			failed = held.value
			continue
		}
		stream, err := c.peers.open(ctx, held.note.URL, want, held)
		if err == nil {
			c.opts.Metrics.lease(followed)
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c.opts.Logger.Debug("a replica that is downloading content does not deliver it", "replica", held.note.URL, "digest", want.Digest, "error", err)
		if errors.Is(err, errBusy) { // it works, and downloads
			break
		}
		failed = held.value
	}
	c.opts.Metrics.lease(alone)
	return nil, errAlone
}

// named is a key that names a replica.
type named struct {
	key, value string // the value is empty if there is no such key
	note       note
	readable   bool // the note is
}

// look reads the keys of a blob.
func (c *Cluster) look(ctx context.Context, want Want) (have, held named, err error) {
	err = c.gate.call(ctx, func(ctx context.Context, b board, prefix string) error {
		have.key, held.key = haveKey(prefix, want.Digest), leaseKey(prefix, want)
		entries, err := b.Read(ctx, have.key, held.key)
		if err == nil {
			have.value, held.value = entries[0].value, entries[1].value
		}
		return err
	})
	for _, n := range []*named{&have, &held} {
		n.note, n.readable = c.readNote(n.key, n.value)
	}
	return have, held, err
}

// readStored reads from a replica that has the content, if Redis knows one.
func (c *Cluster) readStored(ctx context.Context, want Want, have named) *Stream {
	if !have.readable {
		return nil
	}
	err := fmt.Errorf("%w any more", ErrNotHere) // of this replica, whose store was searched
	if have.note.URL != c.opts.URL {
		var stream *Stream
		if stream, err = c.peers.open(ctx, have.note.URL, want, named{}); err == nil {
			c.opts.Metrics.lease(followed)
			return stream
		}
	}
	c.opts.Logger.Debug("a replica that had content does not deliver it", "replica", have.note.URL, "digest", want.Digest, "error", err)
	if ctx.Err() == nil && !errors.Is(err, errBusy) {
		c.untell(ctx, want.Digest, have.value)
	}
	return nil
}

// stillHolds reports whether a lease has a value. It returns an error if Redis does not say.
func (c *Cluster) stillHolds(ctx context.Context, held named) (bool, error) {
	still := false
	err := c.gate.call(ctx, func(ctx context.Context, b board, _ string) error {
		entries, err := b.Read(ctx, held.key)
		still = err == nil && entries[0].value == held.value
		return err
	})
	return still, err
}

// linkTo makes the span of a context refer to the trace of a download at another replica.
func linkTo(ctx context.Context, other trace.SpanContext) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() && other.IsValid() {
		span.AddLink(trace.Link{SpanContext: other})
	}
}
