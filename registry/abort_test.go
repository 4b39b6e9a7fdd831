package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

// In HTTP/1.0, a body without a length ends with its connection, as one that breaks off does. So
// such a client gets a length, or an error.
func TestBodyOfUnknownSizeInHTTP10(t *testing.T) {
	const size = 2 << 20
	for name, effects := range map[string][]upstreamtest.Effect{
		"whole":      {upstreamtest.Chunked()},
		"breaks off": {upstreamtest.CutAfter(size / 2), upstreamtest.Chunked()},
		"corrupt":    {upstreamtest.Corrupt(size - 1), upstreamtest.Chunked()},
		"truncated":  {upstreamtest.Truncate(size / 2), upstreamtest.Chunked()},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := pair(t)
			dgst := r.AddRandomBlob("app", size, 1)
			r.Fault(upstreamtest.Blobs, effects...).Times(1)
			var asked atomic.Int32
			r.Fault(func(*http.Request) bool { return asked.Add(1) > 1 }, upstreamtest.Status(403, ""))
			conn, err := net.Dial("tcp", strings.TrimPrefix(m.server().URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET /v2/up.example/app/blobs/%s HTTP/1.0\r\nHost: x\r\n\r\n", dgst); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			switch {
			case err != nil || resp.ContentLength < 0:
				t.Errorf("%s with Content-Length %d: %d bytes, %v", resp.Status, resp.ContentLength, len(got), err)
			case name == "whole" && (resp.StatusCode != 200 || digest.FromBytes(got) != dgst):
				t.Errorf("%s with %d bytes", resp.Status, len(got))
			case name != "whole" && resp.StatusCode < 400:
				t.Errorf("%s with %d bytes", resp.Status, len(got))
			case resp.StatusCode >= 400 && strings.Contains(resp.Header.Get("Cache-Control"), "immutable"):
				t.Errorf("the error may be kept: %v", resp.Header)
			}
		})
	}
}

// A blob whose size is not known yet is answered like one that is stored, but for ranges near its
// start: with the whole, or as the conditions want it. A range further ahead is asked of the upstream. A Range in another unit than bytes is ignored.
func TestRequestsForABlobOfUnknownSize(t *testing.T) {
	const size = 3 << 20
	for _, c := range []struct {
		header, value string
		status        int // without a size
		stored        int
	}{
		{"Range", "bytes=100-199", 200, 206}, {"Range", "bytes=100-", 200, 206}, {"Range", "bytes=2500000-2500099", 206, 206}, {"Range", "bytes=-5", 200, 206},
		{"Range", "bytes=0-1,5-6", 200, 206}, {"Range", "bytes=9000000-", 416, 416}, {"Range", "items=0-5", 200, 200}, {"Range", "Bytes=0-5", 200, 206},
		{"If-None-Match", "TAG", 304, 304}, {"If-None-Match", `"x", W/TAG`, 304, 304}, {"If-None-Match", "*", 304, 304}, {"If-None-Match", `"x"`, 200, 200},
		{"If-Match", `"x"`, 412, 412}, {"If-Match", "W/TAG", 412, 412}, {"If-Match", `"x", TAG`, 200, 200}, {"If-Match", "*", 200, 200},
	} {
		t.Run(c.header+" "+c.value, func(t *testing.T) {
			r, m := pair(t)
			dgst := r.AddRandomBlob("app", size, 1)
			r.Fault(upstreamtest.Blobs, upstreamtest.Chunked())
			for _, want := range []int{c.status, c.stored} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.server().URL+"/v2/up.example/app/blobs/"+dgst.String(), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set(c.header, strings.ReplaceAll(c.value, "TAG", `"`+dgst.String()+`"`))
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != want {
					t.Errorf("%s with %d bytes, %v, want %d", resp.Status, len(got), err, want)
				}
				if resp.StatusCode == 200 && digest.FromBytes(got) != dgst {
					t.Errorf("200 with %d other bytes", len(got))
				}
				m.settle()
				if _, err := m.store.Stat(t.Context(), dgst); err != nil { // as for 304, which downloads nothing
					whole, err := http.Get(m.server().URL + "/v2/up.example/app/blobs/" + dgst.String())
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, whole.Body)
					whole.Body.Close()
					m.settle()
				}
			}
		})
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
