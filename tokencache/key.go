package tokencache

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"strings"
)

// Key identifies the requests that a token is valid for. A token is never used
// for another key.
type Key struct {
	Registry string // the upstream's scheme, host and port
	Realm    string // URL of the token service (distribution token specification)
	Service  string
	Scope    string
	// Account is the [Fingerprint] of the credential that the token was
	// acquired with, never the credential. Empty means anonymous.
	Account string
	// Private is set if the token is that of a client, and stays in this process.
	Private bool
}

// digest names the key of a token that is shared, in places that should not show the mirrored repositories.
// It is the same in every instance, and distinct keys have distinct digests.
func (k Key) digest() string {
	h := sha256.New()
	writeFields(h, k.Registry, k.Realm, k.Service, k.Scope, k.Account)
	return hex.EncodeToString(h.Sum(nil))
}

// fingerprintDomain keeps fingerprints apart from any other hash of the same
// credential. It is not a secret: instances that share a Redis must agree on it.
const fingerprintDomain = "weir token cache account v1"

// Fingerprint returns a short name for a credential: equal for equal
// credentials in every instance, without revealing the credential. Its fields are a
// username and a password, or three that name the source of both. It is empty for
// anonymous access, with neither username nor password.
func Fingerprint(fields ...string) string {
	if strings.Join(fields, "") == "" {
		return ""
	}
	h := hmac.New(sha256.New, []byte(fingerprintDomain))
	writeFields(h, fields...)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// writeFields hashes each field with its length before it, so that no two lists
// of fields run together into the same bytes.
func writeFields(h hash.Hash, fields ...string) {
	var length [8]byte
	for _, field := range fields {
		binary.BigEndian.PutUint64(length[:], uint64(len(field)))
		h.Write(length[:])
		io.WriteString(h, field)
	}
}
