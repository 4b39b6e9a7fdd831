package access

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
)

// tag stands in memory for a text that a request shows, such as its credentials: it tells
// texts apart and does not reveal them. It is a GMAC (NIST SP 800-38D), which takes a
// third of the time of a SHA-256, and tokens of issuers have some KiB.
//
// All tags of a tagger have one nonce. A GMAC whose values are known must not, but tags
// stay secret: they are compared in memory, and are in no answer, log or store. Without
// one, a text of 32 KiB has the tag of another text with a probability of 2^-116, and
// finding such a text takes as many requests.
type tag [16]byte

// tagger makes tags with a key of its own.
type tagger struct {
	gcm     cipher.AEAD
	buffers sync.Pool // of *tagged
}

// tagged is a text on its way to its tag.
type tagged struct {
	text  []byte
	nonce [12]byte // always zero
	tag   tag
}

func newTagger() (*tagger, error) {
	const enough = 1 << 10 // for most texts
	var key [16]byte
	rand.Read(key[:]) //nolint:errcheck // it never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil { // a mode of Go that knows no GCM
		return nil, fmt.Errorf("AES-GCM cannot be used: %w", err)
	}
	return &tagger{gcm: gcm, buffers: sync.Pool{New: func() any { return &tagged{text: make([]byte, 0, enough)} }}}, nil
}

// begin returns a buffer for a text.
func (t *tagger) begin() *tagged { return t.buffers.Get().(*tagged) }

// add adds a part to a text. Its length keeps apart texts that are the same when joined.
func (b *tagged) add(part string) {
	b.text = append(binary.AppendUvarint(b.text, uint64(len(part))), part...)
}

// addAll adds a list to a text.
func (b *tagged) addAll(list []string) {
	b.text = binary.AppendUvarint(b.text, uint64(len(list)))
	for _, part := range list {
		b.add(part)
	}
}

// addAddress adds an address to a text. An invalid one has no bits.
func (b *tagged) addAddress(address netip.Addr) {
	bytes := address.As16()
	b.text = append(append(b.text, byte(address.BitLen())), bytes[:]...)
	b.add(address.Zone())
}

// end returns the tag of the text in a buffer, which must not be used any more.
func (t *tagger) end(b *tagged) tag {
	t.gcm.Seal(b.tag[:0], b.nonce[:], nil, b.text)
	sum := b.tag
	clear(b.text) // it may be a password
	b.text = b.text[:0]
	t.buffers.Put(b)
	return sum
}

// of returns the tag of a list of texts.
func (t *tagger) of(parts ...string) tag {
	b := t.begin()
	for _, part := range parts {
		b.add(part)
	}
	return t.end(b)
}
