package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/cluster"
)

// inFile is a download whose bytes are in a file, but for the last ones.
type inFile struct {
	file   *os.File
	at     int64
	size   int64
	tail   int64 // bytes at the end that are read
	pause  time.Duration
	failed error // in place of the tail
}

func (f *inFile) Open(context.Context, cluster.Want, bool) (*cluster.Content, error) {
	return &cluster.Content{ReadCloser: f, Size: f.size}, nil
}

// Stretch returns 1000 bytes at a time, or as many as there are if it does not pause.
func (f *inFile) Stretch(limit int64) *io.LimitedReader {
	n := f.size - f.tail - f.at
	if f.pause > 0 {
		time.Sleep(f.pause)
		n = min(n, 1000)
	}
	if limit >= 0 {
		n = min(n, limit)
	}
	if n <= 0 {
		return nil
	}
	if _, err := f.file.Seek(f.at, io.SeekStart); err != nil {
		return nil
	}
	return &io.LimitedReader{R: f.file, N: n}
}

func (f *inFile) Advance(n int64) { f.at += n }

func (f *inFile) Read(p []byte) (int, error) {
	switch {
	case f.at >= f.size:
		return 0, io.EOF
	case f.failed != nil:
		return 0, f.failed
	}
	n, err := f.file.ReadAt(p[:min(int64(len(p)), f.size-f.at)], f.at)
	f.at += int64(n)
	return n, err
}

func (f *inFile) Close() error { return nil }

// kernel is a writer that takes files, as that of net/http does.
type kernel struct {
	*httptest.ResponseRecorder
	byFile   int64
	deadline time.Time
	late     int // writes
}

func (k *kernel) SetWriteDeadline(at time.Time) error {
	k.deadline = at
	return nil
}

func (k *kernel) wrote() {
	if left := time.Until(k.deadline); left <= 0 || left > time.Minute {
		k.late++
	}
}

func (k *kernel) Write(p []byte) (int, error) {
	k.wrote()
	return k.ResponseRecorder.Write(p)
}

func (k *kernel) ReadFrom(src io.Reader) (int64, error) {
	k.wrote()
	part, ok := src.(*io.LimitedReader)
	if !ok {
		return 0, fmt.Errorf("%T is no part of a file", src)
	}
	if _, ok := part.R.(*os.File); !ok {
		return 0, fmt.Errorf("%T is no file", part.R)
	}
	n, err := io.Copy(k.ResponseRecorder, part)
	k.byFile += n
	return n, err
}

// serve serves a request for a blob, and reports whether the connection was cut.
func (k *kernel) serve(t *testing.T, contents cluster.Contents, dgst digest.Digest) (cut bool) {
	t.Helper()
	c := cluster.New(cluster.Options{Lease: lease, Secret: secret, Contents: contents})
	defer c.Close()
	defer func() {
		switch failure := recover(); failure {
		case nil:
		case http.ErrAbortHandler:
			cut = true
		default:
			panic(failure)
		}
	}()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/blobs/"+dgst.String()+"?block=docker.io", nil)
	r.Header.Set("Weir-Cluster", "1")
	r.Header.Set("Range", "bytes=0-")
	r.Header.Set("Authorization", cluster.Sign(secret, cluster.Want{Digest: dgst, Block: "docker.io"}, false, time.Now()))
	k.ResponseRecorder = httptest.NewRecorder()
	c.Server().Handler.ServeHTTP(k, r)
	return false
}

// The bytes of a running download reach the writer as a file, so that the kernel can send
// them, each within a time of its own. The tail and failures stay with the handler.
func TestSendfile(t *testing.T) {
	const size, tail = 3 << 20, 32 << 10
	dgst, content := body(size)
	for name, c := range map[string]struct {
		download inFile
		truncate int64
		sent     int64
		byFile   int64
		cut      bool
	}{
		"a download":       {inFile{tail: tail}, size, size, size - tail, false},
		"a slow download":  {inFile{tail: size - 10_000, pause: time.Minute}, size, size, 10_000, false},
		"it fails":         {inFile{tail: tail, failed: errors.New("the upstream has cut")}, size, size - tail, size - tail, true},
		"its file is lost": {inFile{tail: tail}, 2 << 20, 2 << 20, 2 << 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "download")
				if err := os.WriteFile(path, content[:c.truncate], 0o600); err != nil {
					t.Fatal(err)
				}
				file, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				download := c.download
				download.file, download.size = file, size
				k := new(kernel)
				if cut := k.serve(t, &download, dgst); cut != c.cut {
					t.Errorf("the connection was cut: %v, want %v", cut, c.cut)
				}
				if !bytes.Equal(k.Body.Bytes(), content[:c.sent]) {
					t.Errorf("%d bytes, want the first %d of the content", k.Body.Len(), c.sent)
				}
				if k.byFile != c.byFile {
					t.Errorf("%d bytes were sent as a file, want %d", k.byFile, c.byFile)
				}
				if k.late > 0 {
					t.Errorf("%d writes had no time of their own", k.late)
				}
			})
		})
	}
}
