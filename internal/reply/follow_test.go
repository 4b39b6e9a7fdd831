package reply_test

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/weirhq/weir/internal/reply"
)

// growing is a blob that comes in steps. Those of a file are stretches, the others are read.
type growing struct {
	t     *testing.T
	file  *os.File
	steps []step
	at    int64
	end   error // after the last step
	reads int
}

type step struct {
	n      int64
	inFile bool
}

func newGrowing(t *testing.T, content []byte, steps ...step) *growing {
	file, err := os.Create(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	return &growing{t: t, file: file, steps: steps, end: io.EOF}
}

func (g *growing) use(n int64) {
	g.at += n
	if g.steps[0].n -= n; g.steps[0].n == 0 {
		g.steps = g.steps[1:]
	}
}

func (g *growing) Read(p []byte) (int, error) {
	g.reads++
	if len(g.steps) == 0 {
		return 0, g.end
	}
	n, err := g.file.ReadAt(p[:min(int64(len(p)), g.steps[0].n)], g.at)
	g.use(int64(n))
	return n, err
}

func (g *growing) Stretch(limit int64) *io.LimitedReader {
	if len(g.steps) == 0 || !g.steps[0].inFile {
		return nil
	}
	n := g.steps[0].n
	if limit >= 0 {
		n = min(n, limit)
	}
	if _, err := g.file.Seek(g.at, io.SeekStart); err != nil {
		g.t.Fatal(err)
	}
	return &io.LimitedReader{R: g.file, N: n}
}

func (g *growing) Advance(n int64) { g.use(n) }

// kernel is a writer that takes files, as that of net/http does.
type kernel struct {
	*httptest.ResponseRecorder
	byFile int64
	fails  int64 // after that many bytes of a file; 0: never
}

var errGone = errors.New("the client is gone")

func (k *kernel) ReadFrom(src io.Reader) (int64, error) {
	part, _ := src.(*io.LimitedReader)
	if part == nil {
		return 0, errors.New("not a part of a file")
	}
	if _, ok := part.R.(*os.File); !ok {
		return 0, errors.New("not a file")
	}
	if k.fails > 0 {
		n, _ := io.CopyN(k.ResponseRecorder, part, k.fails)
		return n, errGone
	}
	n, err := io.Copy(k.ResponseRecorder, part)
	k.byFile += n
	return n, err
}

func TestFollow(t *testing.T) {
	const size = 200_000
	content := bytes.Repeat([]byte("0123456789"), size/10)
	errCut := errors.New("the upstream has cut")
	for name, c := range map[string]struct {
		steps  []step
		end    error
		n      int64
		sent   int64
		byFile int64
		err    error
	}{
		"all of it":               {[]step{{1000, false}, {100_000, true}, {99_000, false}}, io.EOF, -1, size, 100_000, nil},
		"in many stretches":       {[]step{{50_000, true}, {50_000, true}, {100_000, true}}, io.EOF, size, size, size, nil},
		"the first part":          {[]step{{100_000, true}, {100_000, true}}, io.EOF, 150_000, 150_000, 150_000, nil},
		"the first part, by Read": {[]step{{size, false}}, io.EOF, 150_000, 150_000, 0, nil},
		"more than there is":      {[]step{{size, true}}, io.EOF, size + 1, size, size, io.EOF},
		"it breaks off":           {[]step{{100_000, true}}, errCut, -1, 100_000, 100_000, errCut},
		"its file is short":       {[]step{{100_000, true}, {size, true}}, errCut, -1, size, size, io.ErrUnexpectedEOF},
		"nothing":                 {nil, io.EOF, -1, 0, 0, nil},
		"no byte of it":           {[]step{{size, true}}, errCut, 0, 0, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrowing(t, content, c.steps...)
			g.end = c.end
			w := &kernel{ResponseRecorder: httptest.NewRecorder()}
			sent, err := new(reply.Copier).Follow(w, g, c.n)
			if sent != c.sent || !errors.Is(err, c.err) {
				t.Errorf("sent %d bytes, %v; want %d, %v", sent, err, c.sent, c.err)
			}
			if !bytes.Equal(w.Body.Bytes(), content[:c.sent]) {
				t.Errorf("%d bytes, and not those of the content", w.Body.Len())
			}
			if w.byFile != c.byFile {
				t.Errorf("%d bytes came as a file, want %d", w.byFile, c.byFile)
			}
			if c.sent > 0 && c.sent != c.n && !w.Flushed {
				t.Error("the writer was not flushed before the wait for more bytes")
			}
		})
	}
}

// A blob that is in no file is written as it is read.
func TestFollowReader(t *testing.T) {
	w := &kernel{ResponseRecorder: httptest.NewRecorder()}
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	sent, err := new(reply.Copier).Follow(w, bytes.NewReader(content), -1)
	if sent != int64(len(content)) || err != nil || !bytes.Equal(w.Body.Bytes(), content) {
		t.Errorf("sent %d bytes, %v", sent, err)
	}
}

// A stretch that cannot be written ends the answer. The content is read once more, and learns
// of a failure of its own.
func TestFollowFails(t *testing.T) {
	g := newGrowing(t, make([]byte, 100_000), step{100_000, true})
	w := &kernel{ResponseRecorder: httptest.NewRecorder(), fails: 1000}
	sent, err := new(reply.Copier).Follow(w, g, -1)
	if sent != 1000 || !errors.Is(err, errGone) || g.reads != 1 {
		t.Errorf("sent %d bytes, %v, %d reads", sent, err, g.reads)
	}
}
