package download

import (
	"fmt"
	"io"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// verifier passes a stream on except for its last bytes, which it withholds until
// the digest of the whole content is verified. It protects the readers
// of bytes that are not stored as a spool protects those of the others.
type verifier struct {
	stream *Stream
	sum    checksum // of all bytes before the stream and from it
	buf    []byte   // read and not yet passed on
	chunk  []byte
	err    error // io.EOF: all of buf may be passed on
}

func (v *verifier) Read(p []byte) (int, error) {
	for {
		free := len(v.buf) - spool.TailHold
		// At a verified end nothing is withheld any more.
		if v.err == io.EOF {
			free = len(v.buf)
		}
		if free > 0 {
			n := copy(p, v.buf[:free])
			v.buf = v.buf[:copy(v.buf, v.buf[n:])]
			return n, nil
		}
		if v.err != nil {
			return 0, v.err
		}
		v.fill()
	}
}

func (v *verifier) fill() {
	if v.chunk == nil {
		v.chunk = make([]byte, copyBuffer)
	}
	n, err := v.stream.Read(v.chunk)
	v.sum.write(v.chunk[:n])
	v.buf = append(v.buf, v.chunk[:n]...)
	// The end is passed on only if it is that of the right content.
	if err == io.EOF && v.sum.verify() != nil {
		if v.stream.Reject != nil {
			v.stream.Reject()
		}
		err = fmt.Errorf("%w: %s from %s", storage.ErrCorrupt, v.sum.want, v.stream.Origin)
	}
	v.err = err
}

func (v *verifier) Close() error { return v.stream.Close() }
