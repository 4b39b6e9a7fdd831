package load

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
)

// Noise makes blobs that differ in their first bytes only, so that many large ones need the
// memory of one.
type Noise struct{ bytes []byte }

// NewNoise returns noise of 1 MiB, which repeats itself, and is the same each time.
func NewNoise() *Noise {
	n := &Noise{make([]byte, 1<<20)}
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(n.bytes) // never fails
	return n
}

// Content returns the content with a number, of a size in bytes.
func (n *Noise) Content(number uint64, size int64) io.ReadSeeker {
	p := &pattern{noise: n.bytes}
	binary.BigEndian.PutUint64(p.head[:], number)
	return io.NewSectionReader(p, 0, size)
}

// pattern is head, and then noise without end.
type pattern struct {
	head  [8]byte
	noise []byte
}

func (p *pattern) ReadAt(buf []byte, off int64) (int, error) {
	for n := 0; n < len(buf); {
		n += copy(buf[n:], p.noise[(off+int64(n))%int64(len(p.noise)):])
	}
	if off < int64(len(p.head)) {
		copy(buf, p.head[off:])
	}
	return len(buf), nil
}
