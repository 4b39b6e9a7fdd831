package download

import (
	"fmt"
	"hash"

	"github.com/opencontainers/go-digest"
)

// checksum compares bytes, in the order of the content, with a digest. The first
// error of the writer is the caller's: a checksum is never ahead of the bytes
// that were kept.
type checksum struct {
	want    digest.Digest
	hash    hash.Hash
	written int64
}

func newChecksum(want digest.Digest) checksum {
	return checksum{want: want, hash: want.Algorithm().Hash()}
}

func (c *checksum) write(p []byte) {
	c.hash.Write(p)
	c.written += int64(len(p))
}

// verify returns an error unless the bytes are the content of the digest.
func (c *checksum) verify() error {
	if got := digest.NewDigest(c.want.Algorithm(), c.hash); got != c.want {
		return fmt.Errorf("%d bytes have digest %s", c.written, got)
	}
	return nil
}

func (c *checksum) reset() {
	c.hash.Reset()
	c.written = 0
}

// clone returns a checksum of the same bytes that goes on by itself.
func (c *checksum) clone() (checksum, error) {
	cloner, ok := c.hash.(hash.Cloner)
	if !ok {
		return checksum{}, fmt.Errorf("storage: cannot continue %s from upstream: its hash cannot be copied", c.want)
	}
	h, err := cloner.Clone()
	return checksum{want: c.want, hash: h, written: c.written}, err
}
