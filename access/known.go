package access

import (
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/bounded"
)

const (
	// maxKnown bounds the verified credentials that are remembered, and maxKnownBytes the
	// claims of their tokens: those of some thousand clients.
	maxKnown      = 8192
	maxKnownBytes = 16 << 20
	// claimsFactor is the memory of decoded claims in lengths of their token.
	claimsFactor = 8
	// maxCertificates and maxCertificateBytes bound the certificates whose names are
	// remembered: those of some thousand connections.
	maxCertificates     = 4096
	maxCertificateBytes = 16 << 20
	// certificateFactor is the memory of a parsed certificate in lengths of its bytes.
	certificateFactor = 4
)

// credentials are verified ones: those of an account, a token of an issuer, or neither.
type credentials struct {
	method  Method
	account *account
	oidc    *OIDC
	// tag distinguishes the credentials of different clients. All of one account have the same tag.
	tag tag
	// last is the place of the identity that they last had without a certificate.
	last *atomic.Pointer[Identity]
}

// proven are credentials that have just been verified, or within the last minute.
type proven struct {
	credentials
	until time.Time // until when this holds without another look at them
	size  int       // of a token
}

// memory remembers, under the tag of an Authorization header, credentials that were right.
// It holds no header. A lost one is verified again, and of a right password the account
// keeps a verdict of its own ([accounts.login]).
type memory struct {
	tags  *tagger
	known *bounded.Cache[tag, proven]
	// certificates are found by their place in memory, which is one for each connection.
	certificates *bounded.Cache[*x509.Certificate, *certified]
	nobody       credentials // of requests that show none
}

// certified is a client certificate that was presented before.
type certified struct {
	names *Certificate
	tag   tag                      // of the names
	last  atomic.Pointer[Identity] // that it had last without other credentials
}

func newMemory() (memory, error) {
	const identity = 256 // the last one, without the claims
	tags, err := newTagger()
	if err != nil {
		return memory{}, err
	}
	return memory{
		tags:  tags,
		known: bounded.New(maxKnown, maxKnownBytes, func(_ tag, p proven) int { return p.size*claimsFactor + identity }),
		certificates: bounded.New(maxCertificates, maxCertificateBytes, func(leaf *x509.Certificate, _ *certified) int {
			return len(leaf.Raw)*certificateFactor + identity
		}),
		nobody: credentials{method: MethodNone, tag: tags.of("nobody"), last: new(atomic.Pointer[Identity])},
	}, nil
}

// remembered returns the credentials of a header that were verified within the last minute. It
// reports false if they have to be verified. It returns a *[CredentialsError] if their account
// has expired since.
func (m *memory) remembered(header tag) (credentials, bool, error) {
	known, ok := m.known.Get(header)
	switch {
	// Until takes half of the time of Now.
	case !ok || time.Until(known.until) <= 0:
		return credentials{}, false, nil
	case known.account != nil && known.account.expired():
		return known.credentials, true, &CredentialsError{known.method, "the account has expired"}
	default:
		return known.credentials, true, nil
	}
}

// remember keeps verified credentials, for a minute at most: a key that an issuer withdraws
// ends all its tokens by then. It returns them with the tag of their client.
func (m *memory) remember(header tag, found proven) credentials {
	switch {
	case found.account != nil: // by its password, or by a token
		found.tag, found.last = found.account.tag, &found.account.last
	case found.oidc != nil:
		found.tag, found.last = header, new(atomic.Pointer[Identity])
	default: // a token of Weir's own may be that of a client without credentials
		found.tag, found.last = m.nobody.tag, m.nobody.last
	}
	if ends := time.Now().Add(verdictTTL); ends.Before(found.until) {
		found.until = ends
	}
	m.known.Add(header, found)
	return found.credentials
}

// certified returns the names in a verified chain, or nil without one.
func (m *memory) certified(chain []*x509.Certificate) *certified {
	if len(chain) == 0 {
		return nil
	}
	if known, ok := m.certificates.Get(chain[0]); ok {
		return known
	}
	c := &certified{names: newCertificate(chain)}
	text := m.tags.begin()
	text.add(c.names.CommonName)
	text.addAll(c.names.Organizations)
	text.addAll(c.names.Names)
	c.tag = m.tags.end(text)
	m.certificates.Add(chain[0], c)
	return c
}
