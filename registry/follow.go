package registry

import (
	"io"
	"net/http"
	"sync"
)

// following is the writer of a content that is still being downloaded. It makes
// http.ServeContent hand the whole copy to the content.
type following struct {
	http.ResponseWriter
	content *guarded
}

// ReadFrom copies the content in its own way. Parts of an answer with several ranges come
// through a pipe, and are copied as usual.
func (f *following) ReadFrom(src io.Reader) (int64, error) {
	part, ok := src.(*io.LimitedReader)
	if !ok || part.R != f.content {
		return io.Copy(f.ResponseWriter, src)
	}
	n, err := f.content.sendTo(f.ResponseWriter, part.N)
	part.N -= n
	return n, err
}

// stretched is the content of a running download, of which bytes are in a file.
type stretched interface {
	// Stretch returns the next bytes, limit at most or, if that is -1, any number, as a part
	// of a file, or nil if they have to be read.
	Stretch(limit int64) *io.LimitedReader
	// Advance tells how many bytes of a Stretch have been used.
	Advance(n int64)
}

// guarded records a failed read, which http.ServeContent does not report. Its close
// ends all reading: http.ServeContent reads several ranges in a goroutine that may
// outlive it when the client leaves.
type guarded struct {
	mu      sync.Mutex
	content io.ReadSeekCloser
	buffers *sync.Pool // of *[oneWrite]byte
	err     error
	closed  bool
}

func (g *guarded) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.read(p)
}

// read is Read for a caller that holds the mutex.
func (g *guarded) read(p []byte) (int, error) {
	if g.closed {
		return 0, http.ErrAbortHandler
	}
	n, err := g.content.Read(p)
	if err != nil && err != io.EOF {
		g.err = err
	}
	return n, err
}

// sendTo writes the next n bytes or, if that is -1, all that are left. Bytes in a file are
// left to the writer's own ReadFrom, so that they reach a client over HTTP/1.1 without a copy
// in user space. An end before n bytes is an error, as in io.CopyN.
func (g *guarded) sendTo(w http.ResponseWriter, n int64) (sent int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	content, ok := g.content.(stretched)
	for sent != n {
		left := n
		if n >= 0 {
			left -= sent
		}
		var part *io.LimitedReader
		if ok && !g.closed {
			part = content.Stretch(left)
		}
		var m int64
		if part != nil {
			m, err = g.sendStretch(w, content, part)
		} else {
			m, err = g.sendRead(w, left)
		}
		sent += m
		switch {
		case sent == n: // whatever follows
		case n < 0 && err == io.EOF:
			return sent, nil
		case err != nil:
			return sent, err
		default:
			// The next bytes may take long to come, and the writer may keep the last ones.
			_ = http.NewResponseController(w).Flush()
		}
	}
	return sent, nil
}

// sendStretch sends a part of a file. A failed read of that is told from a failed write,
// which is the client's: the next byte cannot be read either, or is missing.
func (g *guarded) sendStretch(w io.Writer, content stretched, part *io.LimitedReader) (int64, error) {
	length := part.N
	buf := g.buffers.Get().(*[oneWrite]byte)
	defer g.buffers.Put(buf)
	n, err := io.CopyBuffer(w, part, buf[:])
	content.Advance(n)
	switch {
	case n == length:
	case err != nil:
		_, _ = g.read(buf[:1])
	default:
		err = io.ErrUnexpectedEOF
		g.err = err
	}
	return n, err
}

// sendRead reads once, n bytes at most or, if that is -1, any number, and writes them.
func (g *guarded) sendRead(w io.Writer, n int64) (int64, error) {
	buf := g.buffers.Get().(*[oneWrite]byte)
	defer g.buffers.Put(buf)
	want := int64(oneWrite)
	if n >= 0 {
		want = min(n, want)
	}
	m, failed := g.read(buf[:want])
	if m > 0 {
		if written, err := w.Write(buf[:m]); err != nil {
			return int64(written), err
		}
	}
	return int64(m), failed
}

func (g *guarded) Seek(offset int64, whence int) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, http.ErrAbortHandler
	}
	return g.content.Seek(offset, whence)
}

// close closes the content, once, and returns the error of its reads.
func (g *guarded) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		g.content.Close()
	}
	return g.err
}
