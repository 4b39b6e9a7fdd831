package registry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// TestBrokenBody has an upstream that breaks off or lies: the client must see
// that what it got is not whole, in every protocol.
func TestBrokenBody(t *testing.T) {
	const size = 2 << 20
	for name, effects := range map[string][]upstreamtest.Effect{
		"breaks off":                  {upstreamtest.CutAfter(size / 2)},
		"corrupt":                     {upstreamtest.Corrupt(size - 1)},
		"truncated":                   {upstreamtest.Truncate(size / 2)},
		"corrupt, of unknown size":    {upstreamtest.Corrupt(size - 1), upstreamtest.Chunked()},
		"truncated, of unknown size":  {upstreamtest.Truncate(size / 2), upstreamtest.Chunked()},
		"breaks off, of unknown size": {upstreamtest.CutAfter(size / 2), upstreamtest.Chunked()},
	} {
		for protocol, h2c := range map[string]bool{"HTTP/1.1": false, "h2c": true} {
			t.Run(name+" over "+protocol, func(t *testing.T) {
				r, m := pair(t)
				dgst := r.AddRandomBlob("app", size, 1)
				r.Fault(upstreamtest.Blobs, effects...).Times(1)
				var asked atomic.Int32
				r.Fault(func(*http.Request) bool { return asked.Add(1) > 1 }, upstreamtest.Status(403, ""))
				resp, err := client(t, h2c).Get(m.server().URL + "/v2/up.example/app/blobs/" + dgst.String())
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if resp.StatusCode != 200 || err == nil || len(got) >= size {
					t.Errorf("%s: %s with %d bytes, %v", resp.Proto, resp.Status, len(got), err)
				}
				if chunked := strings.Contains(name, "unknown size"); chunked != (resp.ContentLength < 0) {
					t.Errorf("Content-Length %d", resp.ContentLength)
				}
				m.settle()
				if _, err := m.store.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("it was stored: %v", err)
				}
			})
		}
	}
}

// panicking is a store that panics where it is told to.
type panicking struct {
	*storagetest.Memory
	stat, commit bool
}

func (s *panicking) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	if s.stat {
		panic("a bug")
	}
	return s.Memory.Stat(ctx, dgst)
}

func (s *panicking) Commit(ctx context.Context, dgst digest.Digest, content *spool.Spool) error {
	if s.commit {
		panic("a bug")
	}
	return s.Memory.Commit(ctx, dgst, content)
}

func TestPanic(t *testing.T) {
	r := upstreamtest.New(t)
	store := &panicking{Memory: storagetest.NewMemory(t)}
	m := newMirrorOver(t, store, store.Records(), store.Spools(), block(t, r))
	image := r.AddImage("app", "v1", []byte("a layer"))
	path := "/v2/up.example/app/manifests/" + image.Digest.String()

	store.commit = true // in a lookup that several requests may share
	wantError(t, m.do("GET", path), 500, "UNKNOWN")
	store.commit = false
	wantStatus(t, m.do("GET", path), 200)
	store.stat = true // in the handler itself
	wantError(t, m.do("GET", path), 500, "UNKNOWN")
	store.stat = false
	wantStatus(t, m.do("GET", path), 200)

	text := m.log.String()
	for _, want := range []string{"a bug", "abort_test.go", "Please report"} {
		if strings.Count(text, want) < 2 {
			t.Errorf("the log does not say %q twice", want)
		}
	}
	var statuses []any
	for _, line := range m.log.requests(t) {
		statuses = append(statuses, line["status"])
	}
	if len(statuses) != 4 || statuses[0] != 500.0 || statuses[2] != 500.0 {
		t.Errorf("the access log has %v", statuses)
	}
}

// panicWriter panics after the answer has begun.
type panicWriter struct{ http.ResponseWriter }

func (panicWriter) Write([]byte) (int, error) { panic("a bug") }

func TestPanicInTheMiddle(t *testing.T) {
	_, m := pair(t)
	inner := m.handler
	s := m.server()
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(panicWriter{w}, r) })
	if resp, err := client(t, false).Get(s.URL + "/v2/"); err == nil {
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("a whole answer: %s %q", resp.Status, body)
		}
	}
	if lines := m.log.requests(t); len(lines) != 1 || !strings.Contains(m.log.String(), "a bug") {
		t.Errorf("the log has %v", lines)
	}
}
