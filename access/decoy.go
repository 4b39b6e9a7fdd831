package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Decoy returns the credentials that an upstream gets in place of a guess at the password of
// one of the mirror's own accounts. The upstream refuses them as it refuses any name that it
// does not know, so that neither its requests nor its time tell which names the mirror has.
// Neither the name nor the guess can be found from them: a guess may be nearly right.
//
// One name always has one decoy name and one guess one decoy, since an upstream may count the
// wrong passwords of a name. The lengths are those of the guess: an upstream may refuse long
// headers, and the length of a token of [Grants.Seal] shows them.
func (g *Grants) Decoy(guess Credentials) Credentials {
	key := g.current.Load().decoys
	return Credentials{User: decoyOf(key, guess.User, ""), Password: decoyOf(key, guess.Password, guess.User)}
}

// decoyOf returns another text of the same length as a text, which only the holder of a key
// can find. The text belongs to another one, which may be empty.
func decoyOf(key []byte, text, of string) string {
	sum := func(fields ...[]byte) []byte {
		h := hmac.New(sha256.New, key)
		for _, field := range fields { // a hash never fails
			_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
			_, _ = h.Write(field)
		}
		return h.Sum(nil)
	}
	seed, decoy := sum([]byte(of), []byte(text)), make([]byte, 0, len(text)+2*sha256.Size)
	for n := uint64(0); len(decoy) < len(text); n++ {
		decoy = hex.AppendEncode(decoy, sum(seed, binary.BigEndian.AppendUint64(nil, n)))
		// A short one may be the same by chance.
		if len(decoy) >= len(text) && string(decoy[:len(text)]) == text {
			decoy = decoy[:0]
		}
	}
	return string(decoy[:len(text)])
}
