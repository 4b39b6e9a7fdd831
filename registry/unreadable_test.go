package registry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// damagedDisk is a store whose blobs cannot be read beyond an offset.
type damagedDisk struct {
	*storagetest.Memory
	readable int64
}

func (d damagedDisk) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	object, err := d.Memory.Open(ctx, dgst)
	if err == nil {
		object.Content = &damagedFile{ReadSeekCloser: object.Content, readable: d.readable}
	}
	return object, err
}

type damagedFile struct {
	io.ReadSeekCloser
	at, readable int64
}

func (f *damagedFile) Seek(offset int64, whence int) (int64, error) {
	at, err := f.ReadSeekCloser.Seek(offset, whence)
	f.at = at
	return at, err
}

func (f *damagedFile) Read(p []byte) (int, error) {
	if f.at >= f.readable {
		return 0, syscall.EIO
	}
	n, err := f.ReadSeekCloser.Read(p[:min(int64(len(p)), f.readable-f.at)])
	f.at += int64(n)
	return n, err
}

// A failed read of stored content is told with its digest and error, in each way of
// sending it. No client takes the part for the whole.
func TestUnreadableContent(t *testing.T) {
	const size, readable = 3 << 20, 1 << 20
	for name, c := range map[string]struct {
		ranges string
		http2  bool
		whole  bool // the client gets all that it asked for
	}{
		"HTTP/1.1":                  {},
		"HTTP/2":                    {http2: true},
		"a range beyond":            {ranges: "bytes=2000000-2000999"},
		"a range beyond, HTTP/2":    {ranges: "bytes=2000000-2000999", http2: true},
		"a range before":            {ranges: "bytes=0-999999", whole: true},
		"several ranges":            {ranges: "bytes=0-9,2000000-2000999"},
		"several ranges, HTTP/2":    {ranges: "bytes=0-9,2000000-2000999", http2: true},
		"several before, of HTTP/2": {ranges: "bytes=0-9,100000-199999", http2: true, whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			up := upstreamtest.New(t)
			dgst := up.AddRandomBlob("app", size, 1)
			memory := storagetest.NewMemory(t)
			m := newMirrorOver(t, damagedDisk{memory, readable}, memory.Records(), memory.Spools(), block(t, up))
			path := "/v2/up.example/app/blobs/" + dgst.String()
			if w := m.do(http.MethodGet, path); w.Body.Len() != size { // from the download
				t.Fatalf("cold: %d, %d bytes", w.Code, w.Body.Len())
			}
			m.settle()
			var mu sync.Mutex
			var told []error
			m.brokeOff = func(of digest.Digest, err error) bool {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, err)
				if of != dgst {
					t.Errorf("told of %s", of)
				}
				return true
			}
			s := m.server()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.ranges != "" {
				req.Header.Set("Range", c.ranges)
			}
			resp, err := client(t, c.http2).Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if (err == nil) != c.whole {
				t.Errorf("the client's error: %v", err)
			}
			s.Close() // waits for the handler
			if c.whole && len(told) != 0 || !c.whole && (len(told) != 1 || !errors.Is(told[0], syscall.EIO)) {
				t.Errorf("told %v", told)
			}
			if got := strings.Contains(m.log.String(), syscall.EIO.Error()); got == c.whole {
				t.Errorf("the log has the error: %v", got)
			}
		})
	}
}
