package access

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/seal"
)

// Grant is what a client may show to an upstream: what its credential was exchanged for. It
// is sealed into the token that the client gets, so that Weir keeps no credential of it.
type Grant struct {
	Block    string // key of the repository block; empty: a login, which opens nothing
	Upstream string // the place there that it is for
	ID       string // of the credential
	Username string
	Password string
	Token    string // of the upstream, in place of both
	Expires  time.Time
}

// sealedGrant is a Grant as its token holds it. The bytes of a client are base64, so that their
// number alone makes the length of the token, and that they need not be UTF-8.
type sealedGrant struct {
	Block    string    `json:"b"`
	Upstream string    `json:"h"`
	ID       string    `json:"i"`
	Username []byte    `json:"u,omitempty"`
	Password []byte    `json:"p,omitempty"`
	Token    string    `json:"t,omitempty"`
	Expires  time.Time `json:"e"`
}

// Grants seals grants into tokens and opens them (RFC 7516: JWE with a direct key and
// AES-256-GCM). All methods may be called concurrently.
type Grants struct{ current atomic.Pointer[grantKeys] }

// grantKeys are made of one secret.
type grantKeys struct {
	of      [sha256.Size]byte // digest of the secret; zero: it is known to this process alone
	key     []byte
	encrypt jose.Encrypter
	names   *seal.Sealer
	decoys  []byte // key of the decoys
	tags    *tagger
	shown   *bounded.Cache[tag, remembered]
}

const (
	// MaxGrantToken bounds a sealed token, in bytes. An upstream's token has at most 16 KiB,
	// and sealing makes a third more of it.
	MaxGrantToken = 30 << 10
	// These purposes keep the keys apart.
	grantPurpose = "weir grant token v1"
	namePurpose  = "weir credential name v1"
	decoyPurpose = "weir decoy v1"
)

// ErrGrant says that a text is not a valid token of this mirror, or not one for the place that
// it is shown for.
var ErrGrant = errors.New("it is not a valid token of this mirror")

// NewGrants returns Grants with a secret that instances behind one address share. An empty
// secret makes one that is known to this process alone. It returns an error if the secret
// has less than 32 bytes.
func NewGrants(secret []byte) (*Grants, error) {
	g := &Grants{}
	return g, g.Use(secret)
}

// Use puts another secret in force, as for [NewGrants]. The tokens of the last one are
// invalid from then on. The same secret, and none again, change nothing.
func (g *Grants) Use(secret []byte) error {
	var of [sha256.Size]byte
	switch {
	case len(secret) == 0:
		secret = make([]byte, sha256.Size)
		_, _ = rand.Read(secret) // it never fails
	case len(secret) < sha256.Size:
		return fmt.Errorf("the secret has %d bytes, but needs at least %d", len(secret), sha256.Size)
	default:
		of = sha256.Sum256(secret)
	}
	if last := g.current.Load(); last != nil && last.of == of {
		return nil
	}
	key, err := hkdf.Key(sha256.New, secret, nil, grantPurpose, sha256.Size)
	if err != nil {
		return err
	}
	next := &grantKeys{of: of, key: key, names: seal.New(string(secret), namePurpose)}
	if next.decoys, err = hkdf.Key(sha256.New, secret, nil, decoyPurpose, sha256.Size); err != nil {
		return err
	}
	if next.tags, err = newTagger(); err != nil {
		return err
	}
	next.shown = bounded.New(maxShown, maxShownBytes, func(_ tag, r remembered) int { return len(r.id) })
	if next.encrypt, err = jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.DIRECT, Key: key}, nil); err != nil {
		return err
	}
	g.current.Store(next)
	return nil
}

// Name returns a name for a client's credential: the same for the same one only. It does
// not reveal the credential to a reader who does not have the secret.
func (g *Grants) Name(username, password, token string) string {
	return g.current.Load().names.Seal(username, password, token)
}

// Seal returns the token of a grant.
func (g *Grants) Seal(grant Grant) (string, error) {
	body, err := json.Marshal(sealedGrant{
		Block: grant.Block, Upstream: grant.Upstream, ID: grant.ID,
		Username: []byte(grant.Username), Password: []byte(grant.Password), Token: grant.Token, Expires: grant.Expires,
	})
	if err != nil {
		return "", err
	}
	sealed, err := g.current.Load().encrypt.Encrypt(body)
	if err != nil {
		return "", err
	}
	return sealed.CompactSerialize()
}

// IsGrant reports whether a text has the form of a sealed token: five parts, of which the
// first one is an object (RFC 7516, section 7.1). No token of a registry has it, since those are
// opaque, or signed, which makes three parts (RFC 7515), and no password that a person chooses.
func IsGrant(text string) bool {
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 4
}

// Open returns the grant of a token that has not expired. It returns [ErrGrant] for any other
// text.
func (g *Grants) Open(token string) (Grant, error) { return g.current.Load().open(token) }

func (k *grantKeys) open(token string) (Grant, error) {
	grant, err := k.decrypt(token)
	if err != nil || !time.Now().Before(grant.Expires) {
		return Grant{}, ErrGrant
	}
	return grant, nil
}

// decrypt is open for a token that may have expired.
func (k *grantKeys) decrypt(token string) (Grant, error) {
	if len(token) > MaxGrantToken {
		return Grant{}, ErrGrant
	}
	sealed, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return Grant{}, ErrGrant
	}
	body, err := sealed.Decrypt(k.key)
	var grant sealedGrant
	if err != nil || json.Unmarshal(body, &grant) != nil {
		return Grant{}, ErrGrant
	}
	return Grant{
		Block: grant.Block, Upstream: grant.Upstream, ID: grant.ID,
		Username: string(grant.Username), Password: string(grant.Password), Token: grant.Token, Expires: grant.Expires,
	}, nil
}
