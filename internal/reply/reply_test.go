package reply_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/reply"
)

func TestWriter(t *testing.T) {
	for name, c := range map[string]struct {
		answer  func(w http.ResponseWriter)
		status  int
		written int64
	}{
		"nothing":               {func(http.ResponseWriter) {}, 0, 0},
		"a status":              {func(w http.ResponseWriter) { w.WriteHeader(404) }, 404, 0},
		"a second status":       {func(w http.ResponseWriter) { w.WriteHeader(404); w.WriteHeader(200) }, 404, 0},
		"an early hint":         {func(w http.ResponseWriter) { w.WriteHeader(103); w.WriteHeader(206) }, 206, 0},
		"a body alone":          {func(w http.ResponseWriter) { _, _ = w.Write([]byte("abc")) }, 0, 3},
		"a status after a body": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "abc"); w.WriteHeader(500) }, 0, 3},
		"a copy": {func(w http.ResponseWriter) {
			w.WriteHeader(200)
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("abcd"))
		}, 200, 4},
	} {
		below := httptest.NewRecorder()
		w := &reply.Writer{ResponseWriter: below}
		c.answer(w)
		if w.Status != c.status || w.Written != c.written || int64(below.Body.Len()) != c.written {
			t.Errorf("%s: %d, %d bytes, and %d below", name, w.Status, w.Written, below.Body.Len())
		}
	}
}

// fileWriter is a writer whose ReadFrom takes files.
type fileWriter struct {
	*httptest.ResponseRecorder
	got io.Reader
}

func (w *fileWriter) ReadFrom(body io.Reader) (int64, error) {
	w.got = body
	return 7, io.ErrUnexpectedEOF
}

// A file arrives at the writer below as itself, for the kernel to send.
func TestReadFrom(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	below := &fileWriter{ResponseRecorder: httptest.NewRecorder()}
	w := &reply.Writer{ResponseWriter: below}
	part := &io.LimitedReader{R: file, N: 9}
	if n, err := io.Copy(w, part); n != 7 || err != io.ErrUnexpectedEOF || w.Written != 7 {
		t.Error(n, err, w.Written)
	}
	if below.got != part {
		t.Errorf("%T", below.got)
	}
	if _, ok := below.got.(*io.LimitedReader).R.(syscall.Conn); !ok {
		t.Error("the kernel cannot read it")
	}
}

// The methods of net/http's own writer are found by a controller.
func TestUnwrap(t *testing.T) {
	below := httptest.NewRecorder()
	if err := http.NewResponseController(&reply.Writer{ResponseWriter: below}).Flush(); err != nil || !below.Flushed {
		t.Error(err)
	}
}
