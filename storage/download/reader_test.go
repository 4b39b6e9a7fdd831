package download_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/download"
)

// A range far ahead is fetched by itself at once, just as much as is wanted,
// and the download goes on undisturbed.
func TestRangeFarAhead(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(20 << 20), step: make(chan int)}
	dgst := digest.FromBytes(o.body)
	front := s.reader(t, t.Context(), dgst, o.source(ours))
	defer front.Close()
	o.step <- 1 // the download is under way, and stuck

	direct := &origin{body: o.body}
	ahead := s.reader(t, t.Context(), dgst, direct.source(ours))
	defer ahead.Close()
	size, err := ahead.Wait(10<<20, 10<<20+1000)
	if err != nil || size != int64(len(o.body)) {
		t.Fatalf("size %d, %v", size, err)
	}
	// As http.ServeContent does.
	ahead.Seek(0, io.SeekEnd)
	ahead.Seek(0, io.SeekStart)
	ahead.Seek(10<<20, io.SeekStart)
	got := make([]byte, 1000)
	if _, err := io.ReadFull(ahead, got); err != nil || !bytes.Equal(got, o.body[10<<20:10<<20+1000]) {
		t.Fatalf("the range: %v", err)
	}
	if want := fmt.Sprintf("[%d+1000]", 10<<20); fmt.Sprint(direct.asked()) != want {
		t.Errorf("upstream was asked %v, want %v", direct.asked(), want)
	}
	go func() {
		for range len(o.body) >> 20 {
			o.step <- 1 << 20
		}
	}()
	if got, err := readAll(front); err != nil || !bytes.Equal(got, o.body) {
		t.Errorf("the front: %d bytes, %v", len(got), err)
	}
	if len(o.asked()) != 1 {
		t.Errorf("the download was asked for %v, want once", o.asked())
	}
}

// Who announced a range far ahead and then reads from the start, as
// http.ServeContent does where a condition does not hold, waits for the
// download, however early that is.
func TestRangeFarAheadReadFromTheStart(t *testing.T) {
	s := newSetup(t, func(o *download.Options) { o.MaxFetches = 1 })
	blocker := &origin{body: random(1000), step: make(chan int)}
	first := s.reader(t, t.Context(), digest.FromBytes(blocker.body), blocker.source(ours))
	defer first.Close()
	o := &origin{body: random(5 << 20)}
	r := s.reader(t, t.Context(), digest.FromBytes(o.body), o.source(ours))
	defer r.Close()
	// The wait is also one for the place of a stream of its own.
	go func() { blocker.step <- 1000 }()
	if _, err := r.Wait(4<<20, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, o.body) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// A range that is longer than a window continues with the next one, which a rate limit
// may not refuse.
func TestRangeContinuesWithTheNextWindow(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(20 << 20), step: make(chan int)}
	dgst := digest.FromBytes(o.body)
	front := s.reader(t, t.Context(), dgst, o.source(ours))
	defer front.Close()
	o.step <- 1 // the download is under way, and stuck

	direct := &origin{body: o.body}
	ahead := s.reader(t, t.Context(), dgst, direct.source(ours))
	defer ahead.Close()
	if _, err := ahead.Wait(10<<20, -1); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(ahead); err != nil || !bytes.Equal(got, o.body[10<<20:]) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if want := fmt.Sprintf("[%d+%d %d+%d of a body under way]", 10<<20, 8<<20, 18<<20, 2<<20); fmt.Sprint(direct.asked()) != want {
		t.Errorf("upstream was asked %v, want %v", direct.asked(), want)
	}
}

// An open-ended range is fetched in windows, and returns to the download as
// soon as that has caught up.
func TestRangeReturnsToTheDownload(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(20 << 20), step: make(chan int)}
	dgst := digest.FromBytes(o.body)
	front := s.reader(t, t.Context(), dgst, o.source(ours))
	defer front.Close()
	o.step <- 1

	direct := &origin{body: o.body}
	ahead := s.reader(t, t.Context(), dgst, direct.source(ours))
	defer ahead.Close()
	if _, err := ahead.Wait(5<<20, -1); err != nil {
		t.Fatal(err)
	}
	close(o.step)
	if _, err := readAll(front); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(ahead)
	if err != nil || !bytes.Equal(got, o.body[5<<20:]) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if want := fmt.Sprintf("[%d+%d]", 5<<20, 8<<20); fmt.Sprint(direct.asked()) != want {
		t.Errorf("upstream was asked %v, want one window %v", direct.asked(), want)
	}
}

func TestReaderWaitsEndWithItsContext(t *testing.T) {
	s := newSetup(t, func(o *download.Options) { o.OnUnattended = (*download.Download).Abandon })
	o := &origin{body: random(1000), step: make(chan int)}
	ctx, cancel := context.WithCancel(t.Context())
	r := s.reader(t, ctx, digest.FromBytes(o.body), o.source(ours))
	defer r.Close()
	cancel()
	if _, err := r.Wait(0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A reader of another repository's download has its own source for failures. The
// end of a blob whose size is not announced is none.
func TestForeignReaderComesToTheEnd(t *testing.T) {
	s := newSetup(t, nil)
	o := &origin{body: random(300 << 10), noSize: true, step: make(chan int)}
	dgst := digest.FromBytes(o.body)
	first := s.reader(t, t.Context(), dgst, o.source(theirs))
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	second := s.reader(t, ctx, dgst, (&origin{refuse: errCut}).source(ours))
	defer second.Close()
	go func() { o.step <- 200 << 10; o.step <- 100 << 10 }()
	got, err := readAll(second)
	if err != nil || !bytes.Equal(got, o.body) {
		t.Errorf("got %d of %d bytes, %v", len(got), len(o.body), err)
	}
	if ctx.Err() != nil {
		t.Error("the reader found the end only when its context ended")
	}
}
