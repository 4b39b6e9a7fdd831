package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
)

// boxFormat is the first byte of a text that a Box has encrypted.
const boxFormat = 1

// ErrClosed says that a text was not encrypted for its place with the secret.
var ErrClosed = errors.New("it was not encrypted for this purpose by an instance with the same secret")

// Box encrypts texts for places that others can read and write, by AES-256-GCM (NIST SP
// 800-38D) with a random nonce each.
type Box struct{ aead cipher.AEAD }

// NewBox returns the Box of a secret, or nil if that is empty. Each purpose has a key of its
// own, as for [New].
func NewBox(secret, purpose string) *Box {
	if secret == "" {
		return nil
	}
	const keySize = 32 // of AES-256
	// The only errors are of lengths that a constant of 32 is not.
	key, _ := hkdf.Key(sha256.New, []byte(secret), nil, purpose, keySize)
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return &Box{aead}
}

// Seal encrypts a text for a place, such as the key of its record. A Box with the same secret
// opens it there, and nowhere else.
func (b *Box) Seal(text []byte, place string) []byte {
	return b.aead.Seal([]byte{boxFormat}, nil, text, bound(place))
}

// Open returns a text that was encrypted for a place, or [ErrClosed].
func (b *Box) Open(sealed []byte, place string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != boxFormat {
		return nil, ErrClosed
	}
	text, err := b.aead.Open(nil, nil, sealed[1:], bound(place))
	if err != nil {
		return nil, ErrClosed
	}
	return text, nil
}

// bound returns the data that a text is bound to: another format never opens as this one.
func bound(place string) []byte { return append([]byte{boxFormat}, place...) }
