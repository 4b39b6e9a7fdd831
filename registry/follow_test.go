package registry_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// kernel is a ResponseWriter that is handed files, as that of net/http over HTTP/1.1. It
// keeps their bytes.
type kernel struct {
	*httptest.ResponseRecorder
	before func(*os.File) // a stretch is read
	byFile int64          // bytes
}

func (k *kernel) ReadFrom(r io.Reader) (int64, error) {
	part, _ := r.(*io.LimitedReader)
	if part == nil {
		return io.Copy(k.ResponseRecorder, r)
	}
	file, ok := part.R.(*os.File)
	if !ok {
		return io.Copy(k.ResponseRecorder, r)
	}
	if k.before != nil {
		k.before(file)
	}
	n, err := io.Copy(k.ResponseRecorder, r)
	k.byFile += n
	return n, err
}

// get asks the handler, and reports whether the answer was broken off.
func (k *kernel) get(t *testing.T, handler http.Handler, path string, header ...string) (aborted bool) {
	t.Helper()
	defer func() {
		switch failure := recover(); failure {
		case nil:
		case http.ErrAbortHandler:
			aborted = true
		default:
			panic(failure)
		}
	}()
	k.ResponseRecorder = httptest.NewRecorder()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	handler.ServeHTTP(k, req)
	return false
}

// inUserSpace are the bytes of a running download that are copied: the first ones, with the
// headers, and the tail.
const inUserSpace = 32<<10 + spool.TailHold

// TestSendfileOfADownload has the bytes of a running download reach the ResponseWriter as a
// file, so that the kernel can send them.
func TestSendfileOfADownload(t *testing.T) {
	const size = 1 << 20
	content, _ := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	for name, test := range map[string]struct {
		byteRange  string
		effects    []upstreamtest.Effect
		start, end int
		copied     int64
	}{
		"whole": {"", nil, 0, size, inUserSpace},
		// The tail is copied only if the size is known: the download has ended before its reader began.
		"of unknown size": {"", []upstreamtest.Effect{upstreamtest.Chunked()}, 0, size, inUserSpace},
		"a range":         {"bytes=1000-999999", nil, 1000, 1000000, 32 << 10},
		"in the tail":     {"bytes=-1000", nil, size - 1000, size, 1000},
		"in pieces":       {"", []upstreamtest.Effect{upstreamtest.CutEvery(300_000)}, 0, size, inUserSpace},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			m := newDiskMirror(t, block(t, r))
			dgst := r.AddRandomBlob("app", size, 1)
			r.Fault(upstreamtest.Blobs, test.effects...)
			w := new(kernel)
			var header []string
			if test.byteRange != "" {
				header = []string{"Range", test.byteRange}
			}
			if w.get(t, m.handler, "/v2/up.example/app/blobs/"+dgst.String(), header...) {
				t.Fatal("the answer was broken off")
			}
			if !bytes.Equal(w.Body.Bytes(), content[test.start:test.end]) {
				t.Errorf("%d bytes, and not those of the blob", w.Body.Len())
			}
			if status := w.Header().Get("Cache-Status"); !strings.Contains(status, "fwd=") {
				t.Errorf("no download ran: %s", status)
			}
			if copied := int64(w.Body.Len()) - w.byFile; copied > test.copied {
				t.Errorf("%d bytes were copied in user space, want %d at most", copied, test.copied)
			}
			m.settle()
		})
	}
}

// truncateOpen shortens a file that may have another name by now: the download may have ended.
func truncateOpen(f *os.File) { os.Truncate(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), 40<<10) }

// A lying upstream's last bytes are in no stretch, and a file that cannot be read breaks the
// answer off.
func TestSendfileOfABadDownload(t *testing.T) {
	const size = 1 << 20
	for name, test := range map[string]struct {
		effect upstreamtest.Effect
		before func(*os.File)
		most   int
	}{
		"corrupt":           {upstreamtest.Corrupt(size - 1), nil, size - spool.TailHold},
		"truncated":         {upstreamtest.Truncate(size / 2), nil, size / 2},
		"the file is short": {upstreamtest.Header("X", "x"), truncateOpen, size - 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			m := newDiskMirror(t, block(t, r))
			dgst := r.AddRandomBlob("app", size, 1)
			r.Fault(upstreamtest.Blobs, test.effect)
			w := &kernel{before: test.before}
			if !w.get(t, m.handler, "/v2/up.example/app/blobs/"+dgst.String()) {
				t.Error("the answer was not broken off")
			}
			if w.Body.Len() > test.most {
				t.Errorf("the client got %d bytes, want %d at most", w.Body.Len(), test.most)
			}
			m.settle()
		})
	}
}

// failing is a quota that is exceeded after some bytes.
type failing struct{ left int64 }

func (*failing) Check(string, int64) error { return nil }
func (f *failing) Reserve(_ string, n, _ int64, _ bool) (int64, error) {
	if f.left -= n; f.left < 0 {
		return 0, spool.ErrNoSpace
	}
	return 0, nil
}
func (*failing) Release(string, int64)                  {}
func (*failing) MakeRoom(string, int64) bool            { return false }
func (*failing) Removable(string, int64) (int64, error) { return 0, nil }

// The store fails in the middle of a download, and then the client leaves in the middle of
// another one. In the first case it gets all bytes, in the second the store does.
func TestSendfileAndFailures(t *testing.T) {
	const size = 1 << 20
	content, _ := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	r := upstreamtest.New(t)
	store := storagetest.NewMemory(t)
	quota := &failing{size / 2}
	m := newMirrorOver(t, store, store.Records(), spool.NewDir(t.TempDir(), 0, quota), block(t, r))
	dgst := r.AddRandomBlob("app", size, 1)
	path := "/v2/up.example/app/blobs/" + dgst.String()
	w := new(kernel)
	if w.get(t, m.handler, path) || !bytes.Equal(w.Body.Bytes(), content) {
		t.Errorf("the store failed, and the client got %d bytes", w.Body.Len())
	}
	if w.byFile == 0 {
		t.Error("no byte was sent by the kernel")
	}
	m.settle()
	if n := len(r.Requests()); n != 2 {
		t.Errorf("%d requests upstream, want that of the download and that of the rest: %v", n, r.Requests())
	}
	quota.left = 10 * size
	gone := &leavingKernel{kernel{ResponseRecorder: httptest.NewRecorder()}}
	m.handler.ServeHTTP(gone, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	m.settle()
	if info, err := store.Stat(t.Context(), dgst); err != nil || info.Size != size {
		t.Errorf("after the client left, the store has %v, %v", info, err)
	}
	if n := len(r.Requests()); n != 3 {
		t.Errorf("%d requests upstream, want one more", n)
	}
}

// leavingKernel is a client that leaves in the first stretch.
type leavingKernel struct{ kernel }

func (k *leavingKernel) ReadFrom(r io.Reader) (int64, error) {
	n, _ := io.CopyN(io.Discard, r, 1000)
	return n, errors.New("the connection was reset")
}

// TestTrickle has an upstream that sends some bytes, and then none for long. The client must
// get those that have come, in every protocol.
func TestTrickle(t *testing.T) {
	const size = 1 << 20
	content, _ := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	for _, protocol := range []string{"HTTP/1.1", "HTTP/1.1 over TLS", "h2c", "h2 over TLS"} {
		for _, chunked := range []bool{false, true} {
			for _, come := range []int{100, 300_001} {
				// Of a blob of unknown size the last bytes may always be the tail.
				visible := come
				if chunked {
					if visible -= spool.TailHold; visible <= 0 {
						continue
					}
				}
				r, m := pair(t)
				dgst := r.AddRandomBlob("app", size, 1)
				gate := upstreamtest.NewGate()
				effects := []upstreamtest.Effect{upstreamtest.StallAfter(int64(come), gate)}
				if chunked {
					effects = append(effects, upstreamtest.Chunked())
				}
				r.Fault(upstreamtest.Blobs, effects...)
				server, c := m.serverOf(protocol)
				resp, err := c.Get(server.URL + "/v2/up.example/app/blobs/" + dgst.String())
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, visible)
				timer := time.AfterFunc(time.Minute, func() { resp.Body.Close() })
				if n, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, content[:visible]) {
					t.Errorf("%s, chunked %v: %d of the %d bytes that have come, %v", protocol, chunked, n, visible, err)
				}
				gate.Open()
				rest, err := io.ReadAll(resp.Body)
				timer.Stop()
				resp.Body.Close()
				if err != nil || !bytes.Equal(rest, content[visible:]) {
					t.Errorf("%s, chunked %v: the rest has %d bytes, %v", protocol, chunked, len(rest), err)
				}
				m.settle()
				c.CloseIdleConnections()
				server.Close()
			}
		}
	}
}

// serverOf serves the mirror in a protocol, and returns a client of it.
func (m *mirror) serverOf(protocol string) (*httptest.Server, *http.Client) {
	if !strings.Contains(protocol, "TLS") {
		return m.server(), client(m.t, protocol == "h2c")
	}
	s := httptest.NewUnstartedServer(m.handler)
	s.EnableHTTP2 = strings.HasPrefix(protocol, "h2")
	s.StartTLS()
	m.t.Cleanup(s.Close)
	transport := s.Client().Transport.(*http.Transport)
	transport.TLSClientConfig.MinVersion = tls.VersionTLS12
	return s, s.Client()
}
