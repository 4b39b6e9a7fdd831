package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/internal/zone"
	"github.com/weirhq/weir/oci"
)

// Remedy is the kind of change that may end a failure, for a caller that knows
// how the upstream is configured and turns it into advice.
type Remedy uint8

const (
	NoRemedy               Remedy = iota // nothing on this side helps
	PushAgain                            // there is only a Docker schema 1 manifest
	RaiseManifestSize                    // the manifest exceeds Options.MaxManifestSize
	RaiseBlobSize                        // the blob exceeds Options.MaxBlobSize
	CheckForRegistry                     // the answer is not that of a registry, such as a login page
	CheckPort                            // as CheckForRegistry; the port may be one of TLS
	CheckBehind                          // a page instead of an error document: a proxy whose registry is down, or no registry
	CheckContent                         // the content is corrupt, at the upstream or on its way
	RaiseRedirects                       // more redirects than Options.MaxRedirects
	CheckProxy                           // the proxy does not connect
	ReachOtherHost                       // a host that the upstream redirects to cannot be reached
	CheckOtherHost                       // the host that the upstream redirects to refused the request
	CheckClientCertificate               // the upstream ended the TLS handshake
	CheckDNS                             // the host's name does not resolve
	TrustAuthority                       // the authority of the upstream's certificate is unknown
	CheckCertificateHost                 // the certificate is for another host
	CheckCertificateTime                 // the certificate has expired, or is unusable otherwise
	CheckScheme                          // the upstream speaks no TLS
	CheckListener                        // nothing listens at the address
	CheckTimeouts                        // one of Weir's own time limits ended the request
	EndLoop                              // the upstream leads back to this mirror
	AwaitOtherHost                       // the host that the upstream redirects to limits the rate of requests
	AdmitPrivate                         // a redirect or a realm leads to a private address, without Options.AllowPrivateRedirects
	TrustRealm                           // the registry names another token service than Options.TokenRealm
	NeverAdmitted                        // a redirect or a realm leads to a link-local address
	CheckSpeed                           // an answer other than a blob comes too slowly
	CheckHelper                          // Options.Helper gives no password
	StayPublic                           // the upstream is at an address that Options.Reach does not admit
	RaiseLimits                          // this machine lacks open files, ports or memory
)

// Remedy returns the kind of change that may end a failure of
// [ClassUnavailable]. It returns NoRemedy for the other classes, whose remedy
// follows from the class and Credentials, except AwaitOtherHost for a rate limit.
func (e *Error) Remedy() Remedy {
	switch {
	case e.Class == ClassRateLimited && isA[*redirectedError](e.Err):
		return AwaitOtherHost // credentials for the upstream change nothing there
	case e.Class != ClassUnavailable:
		return NoRemedy
	}
	// The order matters: causes that name one setting come before those that
	// several settings may end, and a time limit last, since it may wrap any.
	switch {
	case e.Local():
		return RaiseLimits
	case isA[*credhelper.Error](e.Err):
		return CheckHelper
	case errors.Is(e.Err, oci.ErrSchema1):
		return PushAgain
	case errors.Is(e.Err, oci.ErrManifestTooLarge):
		return RaiseManifestSize
	case errors.Is(e.Err, errBlobTooLarge):
		return RaiseBlobSize
	case isA[*redirectedError](e.Err):
		return CheckOtherHost
	case isA[*otherRealmError](e.Err):
		return TrustRealm
	case isA[*refusedZoneError](e.Err):
		return zoneRemedy(e.Err)
	case e.Foreign() && e.Status == http.StatusBadRequest:
		// Web servers answer so to plain HTTP on a port of TLS.
		return CheckPort
	case e.Foreign():
		return CheckForRegistry
	case errors.Is(e.Err, ErrDigestMismatch):
		return CheckContent
	case errors.Is(e.Err, errTooManyRedirects):
		return RaiseRedirects
	case errors.Is(e.Err, errNoLocation):
		return CheckForRegistry
	default:
		return e.connectionRemedy()
	}
}

// zoneRemedy returns the kind of change that may end the refusal of an address.
func zoneRemedy(err error) Remedy {
	switch refused, _ := errors.AsType[*refusedZoneError](err); {
	case refused.zone == zone.LinkLocal && !refused.own:
		return NeverAdmitted
	case refused.zone == zone.LinkLocal:
		return NoRemedy
	case refused.own:
		return StayPublic
	}
	return AdmitPrivate
}

// connectionRemedy returns the kind of change that may end a failure below HTTP, or a
// failure that names no setting by itself.
func (e *Error) connectionRemedy() Remedy {
	below, _ := errors.AsType[*net.OpError](e.Err)
	transport, _ := errors.AsType[*transportError](e.Err)
	switch {
	case isNoHTTP(e.Err):
		return CheckPort
	case below != nil && below.Op == "proxyconnect":
		return CheckProxy
	case transport != nil && !strings.EqualFold(transport.host, e.Host):
		return ReachOtherHost
	case below != nil && below.Op == "remote error":
		return CheckClientCertificate
	case isA[*net.DNSError](e.Err):
		return CheckDNS
	case isA[x509.UnknownAuthorityError](e.Err):
		return TrustAuthority
	case isA[x509.HostnameError](e.Err):
		return CheckCertificateHost
	case isA[x509.CertificateInvalidError](e.Err):
		return CheckCertificateTime
	case isA[tls.RecordHeaderError](e.Err):
		return CheckScheme
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return CheckListener
	case e.page:
		return CheckBehind
	case errors.Is(e.Err, errTooSlow): // a time limit, but none that can be raised
		return CheckSpeed
	case e.Timeout():
		return CheckTimeouts
	case e.Loop():
		return EndLoop
	default:
		return NoRemedy
	}
}

// Foreign reports whether the answer is not one of a registry, but a web page, such as
// a login page, or the text of a load balancer. A server that is out of order may
// answer with a page, too, so 500 and above say nothing, except 511, which only a
// login page has (RFC 6585, section 6).
func (e *Error) Foreign() bool {
	switch {
	case e.foreign && (e.Status < http.StatusInternalServerError || e.Status == http.StatusNetworkAuthenticationRequired):
		return true
	case e.Op == opToken:
		return false
	default:
		return errors.Is(e.Err, errPage) || isA[*json.SyntaxError](e.Err) || isA[*json.UnmarshalTypeError](e.Err)
	}
}

// isNoHTTP reports whether an answer is not even HTTP, as that of a TLS port, a mail
// server or a database. net/http has no type for this, only its text.
func isNoHTTP(err error) bool { return err != nil && strings.Contains(err.Error(), "malformed HTTP ") }

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// Members returns the failures of all members of a chain that were asked, the
// most hopeful first. The failure of a single client is its own only member.
func (e *Error) Members() []*Error { return append([]*Error{e}, e.others...) }

// Content names the requested content, in the upstream's spelling.
func (e *Error) Content() string {
	switch {
	case e.Repository == "":
		return e.root
	case e.Reference == "":
		return e.Repository
	case strings.Contains(e.Reference, ":"):
		return e.Repository + "@" + e.Reference
	default:
		return e.Repository + ":" + e.Reference
	}
}

// Answer returns the upstream's status, code and message, or "" if there was no
// answer.
func (e *Error) Answer() string {
	var parts []string
	if e.Status != 0 {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))))
	}
	for _, part := range []string{e.Code, e.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}
