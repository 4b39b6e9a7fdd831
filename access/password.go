package access

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Limits of the cost of one verification: 256 MiB, and 5 s on a slow core.
const (
	maxHashMemory = 256 << 10 // KiB
	// maxHashWork bounds memory times passes, in KiB. A slow core does 256 MiB in a second.
	maxHashWork = 5 * 256 << 10
	// maxHashLanes bounds the threads of one verification.
	maxHashLanes = 16
	// maxBcryptCost takes about 4 s on a slow core, and each step doubles the time.
	maxBcryptCost = 15
	// maxHash bounds a PHC line, in bytes. Argon2 with a salt and a sum of 64 bytes has 200.
	maxHash = 512
)

// Costs of new hashes: OWASP's recommendation for Argon2id, about 50 ms.
const (
	newHashMemory = 19 << 10 // KiB
	newHashPasses = 2
	newHashLanes  = 1
	newSaltBytes  = 16
	newSumBytes   = 32
)

// ErrHash says that a text is not a hash of a password that can be verified.
var ErrHash = errors.New("is not a bcrypt or Argon2 hash of a password. `weir auth hash` and `htpasswd -B` write such hashes")

// Hash is the hash of a password, by bcrypt or Argon2.
type Hash struct {
	text   string
	bcrypt []byte // nil: it is an Argon2 hash
	argon2 argon2Hash
}

// argon2Hash is an Argon2 hash (RFC 9106).
type argon2Hash struct {
	derive                func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte
	passes, memory, lanes uint32
	salt, sum             []byte
}

// ParseHash reads a hash: $2y$... of bcrypt, or $argon2id$... and $argon2i$... in the PHC
// string format. It returns [ErrHash] for any other text, and an error if one
// verification would cost more than 256 MiB or 5 s. No error quotes the text.
func ParseHash(text string) (*Hash, error) {
	kind, _, _ := strings.Cut(strings.TrimPrefix(text, "$"), "$")
	switch {
	// The decoder of base64 passes over line breaks.
	case !strings.HasPrefix(text, "$"), len(text) > maxHash, strings.ContainsAny(text, "\r\n"):
		return nil, ErrHash
	case kind == "2a", kind == "2b", kind == "2y":
		cost, err := bcrypt.Cost([]byte(text))
		if err != nil || len(text) != 60 || !isBcryptText(text[7:]) {
			return nil, ErrHash
		}
		if cost > maxBcryptCost {
			return nil, fmt.Errorf("has bcrypt cost %d: verifying it would take more than 5 s. Use at most %d", cost, maxBcryptCost)
		}
		return &Hash{text: text, bcrypt: []byte(text)}, nil
	case kind == "argon2id", kind == "argon2i":
		return parseArgon2(text)
	default:
		return nil, ErrHash
	}
}

// isBcryptText reports whether a text has characters of bcrypt's own base64 only.
func isBcryptText(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// parseArgon2 reads $argon2id$v=19$m=19456,t=2,p=1$SALT$SUM.
func parseArgon2(text string) (*Hash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[2] != "v=19" {
		return nil, ErrHash
	}
	h := argon2Hash{derive: argon2.IDKey}
	if parts[1] == "argon2i" {
		h.derive = argon2.Key
	}
	costs := strings.Split(parts[3], ",")
	for i, name := range []string{"m=", "t=", "p="} { // the order of the format
		if len(costs) != 3 || !strings.HasPrefix(costs[i], name) {
			return nil, ErrHash
		}
		n, err := strconv.ParseUint(costs[i][len(name):], 10, 32)
		if err != nil || n == 0 {
			return nil, ErrHash
		}
		*[]*uint32{&h.memory, &h.passes, &h.lanes}[i] = uint32(n)
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return nil, ErrHash
	}
	if h.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return nil, ErrHash
	}
	switch {
	case len(h.salt) < 8, len(h.sum) < 16: // the least of the format, and of a sum that is not a guess
		return nil, ErrHash
	case h.memory > maxHashMemory:
		return nil, fmt.Errorf("has m=%d: verifying it would take more than 256 MiB. Use at most m=%d", h.memory, maxHashMemory)
	case uint64(h.memory)*uint64(h.passes) > maxHashWork:
		return nil, fmt.Errorf("has m=%d,t=%d: verifying it would take more than 5 s. Use a smaller product of m and t", h.memory, h.passes)
	case h.lanes > maxHashLanes:
		return nil, fmt.Errorf("has p=%d: verifying it would take too many threads. Use at most p=%d", h.lanes, maxHashLanes)
	}
	return &Hash{text: text, argon2: h}, nil
}

// cost is how much a verification costs: it is the same for hashes that cost the same.
func (h *Hash) cost() string {
	// Of $2y$10$SALT... and $argon2id$v=19$m=19456,t=2,p=1$SALT$SUM, all but the salt and the sum.
	if h.bcrypt != nil {
		return h.text[len("$2y$"):len("$2y$10")]
	}
	return h.text[:strings.LastIndexByte(h.text[:strings.LastIndexByte(h.text, '$')], '$')]
}

// Matches reports whether a password is the one of the hash. It takes the time that the
// costs of the hash say, whatever the password.
func (h *Hash) Matches(password string) bool {
	if h.bcrypt != nil {
		return bcrypt.CompareHashAndPassword(h.bcrypt, []byte(password)) == nil
	}
	a := h.argon2
	sum := a.derive([]byte(password), a.salt, a.passes, a.memory, uint8(a.lanes), uint32(len(a.sum)))
	return subtle.ConstantTimeCompare(sum, a.sum) == 1
}

// NewHash returns an Argon2id hash of a password, as a PHC line with a random salt.
func NewHash(password string) string {
	salt := make([]byte, newSaltBytes)
	rand.Read(salt) //nolint:errcheck // it never fails
	sum := argon2.IDKey([]byte(password), salt, newHashPasses, newHashMemory, newHashLanes, newSumBytes)
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, newHashMemory, newHashPasses, newHashLanes, encode(salt), encode(sum))
}
