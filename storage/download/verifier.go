package download

import (
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// verifier passes a stream on but for its last bytes, which it withholds until
// the digest of the whole has been verified. It is what a spool does, for
// bytes that are not stored.
type verifier struct {
	stream *Stream
	hash   hash.Hash // of all that came before the stream and from it
	want   digest.Digest
	buf    []byte // read and not yet passed on
	chunk  []byte
	err    error // io.EOF: all of buf may be passed on
}

func (v *verifier) Read(p []byte) (int, error) {
	for {
		free := len(v.buf) - spool.Withheld
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
	v.hash.Write(v.chunk[:n])
	v.buf = append(v.buf, v.chunk[:n]...)
	if err == io.EOF && digest.NewDigest(v.want.Algorithm(), v.hash) != v.want {
		if v.stream.Reject != nil {
			v.stream.Reject()
		}
		err = fmt.Errorf("%w: %s from %s", storage.ErrCorrupt, v.want, v.stream.Origin)
	}
	v.err = err
}

func (v *verifier) Close() error { return v.stream.Close() }
