package access

import (
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/forwarded"
)

// Presented is what a request shows of its sender. It is read once, at the edge.
type Presented struct {
	Authorization []string            // values of the header of that name
	Certificates  []*x509.Certificate // verified by the listener, the leaf first; empty: none
	// Request is the whole of it, and Proxies are those whose word about the client is
	// believed. Only some rules read more than the fields above.
	Request *http.Request
	Proxies forwarded.Proxies
}

// Present reads what a request shows of its sender. The proxies are those whose
// X-Forwarded-For names the client.
func Present(r *http.Request, proxies forwarded.Proxies) Presented {
	p := Presented{Authorization: HeaderOf(r), Request: r, Proxies: proxies}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		p.Certificates = r.TLS.VerifiedChains[0]
	}
	return p
}

// Address returns the address of the client, behind trusted proxies. It is invalid if that
// is not known.
func (p Presented) Address() netip.Addr {
	if p.Request == nil { // as with the zero Presented, which shows nothing
		return netip.Addr{}
	}
	return p.Proxies.Address(p.Request)
}

// Scheme returns the scheme by which the client asked.
func (p Presented) Scheme() string { return p.Proxies.Scheme(p.Request) }

// Identity is the sender of a request. It is not changed after [Rules.Identify] has
// returned it.
type Identity struct {
	ID          string       // of the configured account; empty: it has no such name
	User        string       // name of the account; empty: no password was given
	Groups      []string     // sorted
	Certificate *Certificate // nil: none was presented
	OIDC        *OIDC        // nil: no token of an issuer was presented
	Address     netip.Addr   // of the client; invalid: unknown, or no rule reads it
	Anonymous   bool         // the request came without credentials

	sender sender
}

// sender distinguishes the identities between which rules can make a difference. The zero
// sender is of an identity that [Rules.Identify] has not returned: no verdict about it is
// remembered.
type sender struct {
	credentials, certificate tag
	address                  netip.Addr // invalid if no rule reads it
}

// Certificate holds the names in a client certificate.
type Certificate struct {
	CommonName    string
	Organizations []string
	Names         []string // the subject alternative names: DNS names, addresses, mail addresses and URIs
}

// OIDC is a token of an OpenID Connect issuer.
type OIDC struct {
	Provider string         // the configured name of the issuer
	Type     string         // of the issuer, for rules that were written for Angos
	Claims   map[string]any // as encoding/json decodes them

	expires time.Time
}

// Name returns the identity as logs and messages name it: alice, cert:node-1,
// oidc:github:SUBJECT or anonymous.
func (i *Identity) Name() string { return i.Who().String() }

// Who returns the parts of the name, without joining them.
func (i *Identity) Who() Name {
	switch {
	case i.User != "":
		return Name{Subject: i.User}
	case i.OIDC != nil:
		subject, _ := i.OIDC.Claims["sub"].(string)
		return Name{Kind: "oidc", Issuer: i.OIDC.Provider, Subject: subject}
	case i.Certificate != nil:
		return Name{Kind: "cert", Subject: i.Certificate.name()}
	default:
		return Name{Subject: "anonymous"}
	}
}

// Name is the name of an identity in its parts. The zero Name is that of none.
type Name struct {
	Kind    string // empty, oidc or cert
	Issuer  string // of an oidc
	Subject string
}

// String joins the parts with colons.
func (n Name) String() string {
	switch {
	case n.Issuer != "":
		return n.Kind + ":" + n.Issuer + ":" + n.Subject
	case n.Kind != "":
		return n.Kind + ":" + n.Subject
	default:
		return n.Subject
	}
}

// Action is the kind of a request, in the words of access policies.
type Action string

// Actions of a mirror.
const (
	GetVersion   Action = "get-api-version"
	GetManifest  Action = "get-manifest"
	GetBlob      Action = "get-blob"
	ListTags     Action = "list-tags"
	ListCatalog  Action = "list-catalog"
	GetReferrers Action = "get-referrers"
	GetToken     Action = "get-token"
	ReadMetrics  Action = "metrics"
	ReadPage     Action = "ui-asset"  // the page at /
	ReadAPI      Action = "ui-api"    // cached content, below /api/v1
	ChangeAPI    Action = "ui-change" // changes of that
)

// Page is the part of a list that a request asks for (distribution-spec, "Listing Tags"), as
// decimal digits and text. Both may be empty.
type Page struct{ N, Last string }

// Question is a request in the terms of access rules.
type Question struct {
	Action       Action
	Block        string        // key of the repository block; empty: the question is about none
	Name         string        // of the repository below the block
	Namespace    string        // the block's key and the name below it, however the client spells them
	Reference    string        // tag or digest of a manifest
	Digest       digest.Digest // of a blob, of a subject, or of a manifest by digest
	ArtifactType string        // of referrers
	Page         Page          // of a list of tags, or of the catalog
	// ByUpstream is set if the upstream of the block identifies the client itself. Then no
	// credentials for the mirror are needed.
	ByUpstream bool

	listed bool // the question is about one of the repositories of a list
}
