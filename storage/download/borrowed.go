package download

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/weirhq/weir/oci"
)

const (
	// turn is how long a reader's own stream keeps its place while others wait for one.
	// A window takes less, unless its client or its upstream is slow.
	turn = 10 * time.Second
	// lookInterval is how often a reader that waits for a place looks whether the download
	// has caught up with it. A wait is rare, and shorter ones are not worth a signal.
	lookInterval = 250 * time.Millisecond
)

// errCaughtUp ends the wait for a place of a reader whose download has caught up with it,
// or has ended.
var errCaughtUp = errors.New("storage: the download has caught up with the reader")

// borrowed is a stream of a reader's own source. It counts among the downloads that run
// at once, so that clients that ask for ranges far ahead, and do not read them, take
// neither connections nor places without limit. It gives its place back at the end of its
// turn if others wait, even if its client does not read at that time, and later continues
// at its offset with another request.
type borrowed struct {
	reader *Reader

	mu     sync.Mutex // held by Read, and by the timer at the end of a turn
	off    int64
	length int64   // that are left; -1: to the end
	stream *Stream // nil while the place is given back
	slot   *lease  // of the stream, with
	share  *lease  // of the places that readers may have together
	since  time.Time
	timer  *time.Timer
	closed bool
}

// borrow opens a reader's source at its offset, for length bytes or, if that is -1, to the
// end.
func (r *Reader) borrow(length int64) (*Stream, error) {
	b := &borrowed{reader: r, off: r.off, length: length}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.open(); err != nil {
		return nil, err
	}
	stream := *b.stream
	stream.ReadCloser = b
	return &stream, nil
}

func (b *borrowed) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.length == 0 { // the source is not opened again for nothing
		return 0, io.EOF
	}
	if b.stream != nil && time.Since(b.since) >= turn && b.contended() {
		b.giveBack()
	}
	for {
		if b.stream == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
		}
		n, err := b.stream.Read(p)
		// The place was wanted while the source let the reader wait.
		if n == 0 && err != nil && b.yielded() {
			b.giveBack()
			continue
		}
		b.slot.bytes.Add(int64(n))
		b.share.bytes.Add(int64(n))
		b.off += int64(n)
		if b.length >= 0 {
			b.length -= int64(n)
		}
		return n, err
	}
}

// Close closes the stream and gives the place back.
func (b *borrowed) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.giveBack()
	return nil
}

// open waits for a place and opens the source at the offset. The caller holds the mutex,
// as for all methods below but endTurn. A rate limit that began meanwhile does not cut off
// the rest of a body of which the client has a part.
func (b *borrowed) open() error {
	r := b.reader
	for {
		if err := b.acquire(); err != nil {
			return err
		}
		ctx := b.share.bind(b.slot.bind(r.ctx).ctx).ctx
		if r.begun {
			ctx = oci.WithContinuation(ctx)
		}
		stream, err := r.src.Open(ctx, b.off, b.length)
		if err == nil {
			b.stream, b.since = stream, time.Now()
			b.timer = time.AfterFunc(turn, b.endTurn)
			return nil
		}
		yielded := b.yielded()
		b.release()
		if !yielded {
			return err
		}
	}
}

// endTurn closes the stream of a client that does not read while others wait.
func (b *borrowed) endTurn() {
	if !b.mu.TryLock() { // a Read is under way
		time.AfterFunc(time.Second, b.endTurn)
		return
	}
	defer b.mu.Unlock()
	switch {
	case b.closed || b.stream == nil || time.Since(b.since) < turn:
	case b.contended():
		b.giveBack()
	default:
		b.timer.Reset(turn)
	}
}

// contended reports whether others wait for the place.
func (b *borrowed) contended() bool {
	group := b.reader.download.group
	return group.streams.contended() || group.slots.contended()
}

// giveBack closes the stream, if it is open, and gives its place back.
func (b *borrowed) giveBack() {
	if b.stream == nil {
		return
	}
	b.timer.Stop()
	b.stream.Close()
	b.stream = nil
	b.release()
}

// acquire takes a place. It returns errCaughtUp as soon as a reader that is far ahead of
// a running download needs none.
func (b *borrowed) acquire() error {
	group, namespace := b.reader.download.group, b.reader.src.Repository.Namespace
	ctx, cancel := context.WithCancelCause(b.reader.ctx)
	running := b.reader.download.view().err == nil
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	if running {
		watch.Go(func() { lookAround(ctx, b.caughtUp, cancel) })
	}
	var err error
	if b.share, err = group.streams.acquire(ctx, namespace); err != nil {
		return err
	}
	if b.slot, err = group.slots.acquire(ctx, namespace); err != nil {
		b.share.release()
		return err
	}
	// The place may be the download's own, which has ended.
	if running && b.caughtUp() {
		b.release()
		return errCaughtUp
	}
	return nil
}

// lookAround cancels the wait for a place with errCaughtUp once none is needed any more.
func lookAround(ctx context.Context, caughtUp func() bool, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if caughtUp() {
				cancel(errCaughtUp)
			}
		}
	}
}

// caughtUp reports whether the download has come near to the offset, or has failed.
func (b *borrowed) caughtUp() bool {
	v := b.reader.download.view()
	return v.err != nil || locate(b.off, v) != far
}

// yielded reports whether the stream has to end because its place is wanted.
func (b *borrowed) yielded() bool { return b.slot.yielded() || b.share.yielded() }

// release gives the place back.
func (b *borrowed) release() {
	b.slot.release()
	b.share.release()
}
