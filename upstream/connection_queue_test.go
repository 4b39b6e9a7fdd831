package upstream

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/oci"
)

// A connection is given back once, however often its request leaves.
func TestConnectionIsLeftOnce(t *testing.T) {
	l := newConnectionLimit(2, "registry.test", slog.New(slog.DiscardHandler))
	one, ok := l.tryEnter()
	if !ok {
		t.Fatal("no connection is free at first")
	}
	two, err := l.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.tryEnter(); ok {
		t.Error("a third request has one of two connections")
	}
	for range 3 {
		one()
	}
	if busy, waiting := l.load(); busy != 1 || waiting != 0 {
		t.Errorf("%d connections are busy and %d requests wait, with one left", busy, waiting)
	}
	two()
	if busy, _ := l.load(); busy != 0 {
		t.Errorf("%d connections are busy after all have left", busy)
	}
}

// A block whose requests have all been served or have left is forgotten, and one that has a request of
// either kind keeps its turn.
func TestQueueOfABlock(t *testing.T) {
	l := newConnectionLimit(1, "registry.test", slog.New(slog.DiscardHandler))
	leave, _ := l.tryEnter()
	short, _ := l.stand("block", kindShort, true)
	first, _ := l.stand("block", kindBlob, true)
	other, _ := l.stand("other", kindBlob, true)
	if !l.withdraw("block", kindBlob, first) || l.withdraw("block", kindBlob, first) {
		t.Error("a request leaves its queue once")
	}
	leave()
	select {
	case <-short:
	default:
		t.Error("the request that stays has lost its turn")
	}
	if len(l.blocks) != 1 || len(l.turns) != 1 {
		t.Errorf("%d blocks and %d turns, with one request that waits", len(l.blocks), len(l.turns))
	}
	l.leave()
	<-other
	if l.leave(); len(l.blocks) != 0 || len(l.turns) != 0 || l.busy != 0 || l.waiting != 0 {
		t.Errorf("%d blocks, %d turns, %d busy, %d waiting after the last request", len(l.blocks), len(l.turns), l.busy, l.waiting)
	}
}

// A request for a token waits for a connection, also if a segment, which would not wait, is the
// first to need it.
func TestTokensWaitAsTheyMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newConnectionLimit(1, "registry.test", slog.New(slog.DiscardHandler))
		leave, _ := l.tryEnter()
		blob, _ := l.stand("block", kindBlob, true)
		ctx := context.WithValue(t.Context(), visitKey{}, &visit{block: "block", blob: true, timer: newHeaderTimer(time.Minute, func() {})})
		entered := make(chan error)
		go func() {
			leave, err := l.enter(forToken(oci.WithSegment(ctx, "registry.test")))
			if err == nil {
				leave()
			}
			entered <- err
		}()
		synctest.Wait()
		leave()
		<-blob
		l.leave()
		if err := <-entered; err != nil {
			t.Error(err)
		}
	})
}

// Only an answer with a body keeps its connection: nothing may ever read or close the others.
func TestAnswersThatHoldAConnection(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		status int
		body   bool
		holds  bool
	}{
		"content":    {http.MethodGet, 200, true, true},
		"part":       {http.MethodGet, 206, true, true},
		"no content": {http.MethodGet, 200, false, false},
		"HEAD":       {http.MethodHead, 200, true, false},
		"redirect":   {http.MethodGet, 307, true, false},
		"refusal":    {http.MethodGet, 401, true, false},
		"failure":    {http.MethodGet, 503, true, false},
	} {
		resp := &http.Response{StatusCode: c.status, Body: http.NoBody, Request: &http.Request{Method: c.method}}
		if c.body {
			resp.Body = io.NopCloser(strings.NewReader("body"))
		}
		left := false
		if hold(resp, func() { left = true }); left == c.holds {
			t.Errorf("%s: left at once: %t", name, left)
		}
	}
}

// The time of a header timer stands still in each pause, and goes on after it.
func TestHeaderTimerPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var ended time.Duration
		timer := newHeaderTimer(10*time.Second, func() { ended = time.Since(began) })
		for range 2 {
			time.Sleep(3 * time.Second)
			timer.pause()
			time.Sleep(time.Hour)
			timer.resume()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := 2*time.Hour + 10*time.Second; ended != want {
			t.Errorf("it ended after %v, want %v", ended, want)
		}
	})
}

// A visit adds up its waits. The log tells once that requests wait, and once that they no longer do.
func TestWaitsAreNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visitOf(t.Context())
		v.noteWait(time.Second)
		if v.noteWait(time.Second); v.waited != 2*time.Second {
			t.Errorf("two waits of a second are %v", v.waited)
		}
		var log testutil.LogBuffer
		l := newConnectionLimit(1, "registry.test", slog.New(slog.NewTextHandler(&log, nil)))
		l.noteWait(noticeableWait)
		l.noteWait(noticeableWait)
		time.Sleep(2 * uncrowdedAfter)
		synctest.Wait()
		for _, text := range []string{"requests wait for a connection", "requests no longer wait"} {
			if n := strings.Count(log.String(), text); n != 1 {
				t.Errorf("%q is logged %d times in %s", text, n, log.String())
			}
		}
	})
}
