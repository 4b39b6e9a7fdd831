package registry

import (
	"io"
	"net/http"
	"sync"

	"github.com/weirhq/weir/internal/reply"
)

// following is the writer of a blob that is still being downloaded. It makes
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

// guarded records a failed read, which http.ServeContent does not report. Its close
// ends all reading: http.ServeContent reads several ranges in a goroutine that may
// outlive it when the client leaves.
type guarded struct {
	mu      sync.Mutex
	content io.ReadSeekCloser
	copier  *reply.Copier
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

// sendTo writes the next n bytes or, if that is -1, all that are left. It is one call of the
// content's reading: a close waits for it.
func (g *guarded) sendTo(w http.ResponseWriter, n int64) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sent, err := g.copier.Follow(w, locked{g}, n)
	if err == io.ErrUnexpectedEOF && g.err == nil { // a file is shorter than it was
		g.err = err
	}
	return sent, err
}

// locked is the content of a guarded for a caller that holds the mutex.
type locked struct{ *guarded }

func (l locked) Read(p []byte) (int, error) { return l.read(p) }

func (l locked) Stretch(limit int64) *io.LimitedReader {
	if content, ok := l.content.(reply.Growing); ok && !l.closed {
		return content.Stretch(limit)
	}
	return nil
}

func (l locked) Advance(n int64) { l.content.(reply.Growing).Advance(n) } // of a Stretch

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
