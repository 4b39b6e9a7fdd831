package reply

import (
	"io"
	"net/http"
	"sync"
)

// stepSize is how many bytes a Copier reads at once. A longer stretch is left to the kernel;
// below 32 KiB the system call costs more than the copy.
const stepSize = 32 << 10

// Growing is a blob that is still coming, of which bytes are in a file.
type Growing interface {
	io.Reader
	// Stretch waits for bytes and returns the next ones, limit at most or, if that is -1, any
	// number, as a part of a file. It returns nil if they have to be Read, which also returns
	// the errors.
	Stretch(limit int64) *io.LimitedReader
	// Advance moves the content's offset behind n bytes of the last Stretch.
	Advance(n int64)
}

// Copier sends blobs as they come. Its buffers are shared by all answers, and none is held
// while a stretch is awaited. It may be used concurrently; the zero value is ready.
type Copier struct {
	buffers sync.Pool // of *[stepSize]byte
}

func (c *Copier) buffer() *[stepSize]byte {
	if buf, ok := c.buffers.Get().(*[stepSize]byte); ok {
		return buf
	}
	return new([stepSize]byte)
}

// Follow writes the next n bytes of a blob or, if n is -1, all that are left, and flushes
// the writer whenever it waits for more. The bytes that a Growing blob has in a file are
// left to the writer's own ReadFrom, so that they go out over HTTP/1.1 without a copy in user
// space. An end of the content before n bytes is an error, as in io.CopyN. Follow returns
// io.ErrUnexpectedEOF if the file ends before the stretch does.
func (c *Copier) Follow(w http.ResponseWriter, content io.Reader, n int64) (sent int64, err error) {
	growing, _ := content.(Growing)
	for sent != n {
		left := n
		if n >= 0 {
			left -= sent
		}
		var part *io.LimitedReader
		if growing != nil {
			part = growing.Stretch(left)
		}
		var m int64
		if part != nil {
			m, err = c.sendStretch(w, growing, part)
		} else {
			m, err = c.sendRead(w, content, left)
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
			_ = http.NewResponseController(w).Flush() // the next write fails too
		}
	}
	return sent, nil
}

// sendStretch sends a part of a file. If that fails, the next byte is read, so that the content
// learns of a failure that is its own and not the writer's.
func (c *Copier) sendStretch(w io.Writer, content Growing, part *io.LimitedReader) (int64, error) {
	length := part.N
	buf := c.buffer()
	defer c.buffers.Put(buf)
	n, err := io.CopyBuffer(w, part, buf[:])
	content.Advance(n)
	switch {
	case n == length:
	case err != nil:
		_, _ = content.Read(buf[:1])
	default:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// sendRead reads once, n bytes at most or, if that is -1, any number, and writes them.
func (c *Copier) sendRead(w io.Writer, content io.Reader, n int64) (int64, error) {
	buf := c.buffer()
	defer c.buffers.Put(buf)
	want := int64(stepSize)
	if n >= 0 {
		want = min(n, want)
	}
	m, failed := content.Read(buf[:want])
	if m > 0 {
		if written, err := w.Write(buf[:m]); err != nil {
			return int64(written), err
		}
	}
	return int64(m), failed
}
