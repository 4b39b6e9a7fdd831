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
	"time"
)

// Explain says in one line, for whoever pulls an image, which upstream failed,
// how, and what can be done about it; so does it for the other members of a
// chain. keyOf returns what the configuration calls the upstream of a host, such
// as repository."ghcr.io".upstream[0].
func (e *Error) Explain(keyOf func(host string) string) string {
	lines := []string{e.explain(keyOf(e.Host))}
	for _, other := range e.others {
		lines = append(lines, other.explain(keyOf(other.Host)))
	}
	return strings.Join(lines, "; ")
}

func (e *Error) explain(key string) string {
	switch e.Class {
	case ClassNotFound:
		return fmt.Sprintf("%s was asked for %s and does not have it%s", e.Host, e.content(), e.answer())
	case ClassDenied:
		return e.explainDenied(key)
	case ClassRateLimited:
		until := time.Now().Add(e.RetryAfter).UTC()
		return fmt.Sprintf("%s allows no more requests until %s, in %s%s: %s", e.Host,
			until.Format("15:04:05 UTC"), e.RetryAfter.Round(time.Second), e.answer(), e.raiseLimit(key))
	default:
		return e.explainUnavailable(key)
	}
}

func (e *Error) explainDenied(key string) string {
	if e.Credentials {
		return fmt.Sprintf("%s refused the configured credentials for %s%s: check username and password of %s, and that they may read it",
			e.Host, e.content(), e.answer(), key)
	}
	return fmt.Sprintf("%s does not give %s to everyone%s: it is private or does not exist; if it exists, set username and password of %s",
		e.Host, e.content(), e.answer(), key)
}

// raiseLimit says how to get on with a rate limit.
func (e *Error) raiseLimit(key string) string {
	if e.Credentials {
		return "raise tag_ttl, or add another upstream beside " + key
	}
	return fmt.Sprintf("set username and password of %s for a limit of your own, raise tag_ttl, or add another upstream", key)
}

func (e *Error) explainUnavailable(key string) string {
	text := fmt.Sprintf("%s could not deliver %s%s", e.Host, e.content(), e.answer())
	if e.Err != nil {
		text += ": " + strings.TrimPrefix(e.Err.Error(), "upstream: ")
	}
	if remedy := e.remedy(key); remedy != "" {
		text += ": " + remedy
	}
	return text
}

// remedy is what can be done about a registry that is unavailable; "" where
// nobody on this side can do anything.
func (e *Error) remedy(key string) string {
	below, _ := errors.AsType[*net.OpError](e.Err)
	transport, _ := errors.AsType[*transportError](e.Err)
	switch {
	case errors.Is(e.Err, ErrSchema1):
		return "push the image again with a current client"
	case errors.Is(e.Err, ErrManifestTooLarge):
		return "raise global.max_manifest_size if it is to be served"
	case isA[*json.SyntaxError](e.Err) && e.Op != opToken:
		return fmt.Sprintf("what answers is no registry: check url of %s, and whether a proxy or a login page is between", key)
	case errors.Is(e.Err, ErrDigestMismatch):
		return "what it stores, or a proxy before it, is broken"
	case errors.Is(e.Err, errTooManyRedirects):
		return "raise max_redirect of " + key
	case below != nil && below.Op == "proxyconnect":
		return fmt.Sprintf("check proxy of %s, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY", key)
	case transport != nil && !strings.EqualFold(transport.host, e.Host):
		return fmt.Sprintf("%s sends clients there, so the mirror must be able to reach it too", e.Host)
	case below != nil && below.Op == "remote error":
		return fmt.Sprintf("it ended the TLS handshake: check client_certificate and client_private_key of %s", key)
	case isA[*net.DNSError](e.Err):
		return fmt.Sprintf("check the host in url of %s, and the DNS of the mirror's machine", key)
	case isA[x509.UnknownAuthorityError](e.Err):
		return fmt.Sprintf("if its authority is your own, name it in server_ca_bundle of %s", key)
	case isA[x509.HostnameError](e.Err):
		return "its certificate is for another host: check url of " + key
	case isA[x509.CertificateInvalidError](e.Err):
		return "its certificate cannot be used; if it says expired, check the clock of the mirror's machine"
	case isA[tls.RecordHeaderError](e.Err):
		return fmt.Sprintf("it speaks no TLS: check whether url of %s should begin with http://", key)
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens there: check url of %s", key)
	case e.Timeout():
		return fmt.Sprintf("check the network and firewalls between, or raise connect_timeout_secs or read_timeout_secs of %s", key)
	default:
		return ""
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// content names what was asked for, in the upstream's spelling.
func (e *Error) content() string {
	switch {
	case e.Repository == "":
		return "/v2/" // the root of its API
	case e.Reference == "":
		return e.Repository
	case strings.Contains(e.Reference, ":"):
		return e.Repository + "@" + e.Reference
	default:
		return e.Repository + ":" + e.Reference
	}
}

// answer is what the upstream said, in brackets with a space before; "" where it
// said nothing.
func (e *Error) answer() string {
	var parts []string
	if e.Status != 0 {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))))
	}
	for _, part := range []string{e.Code, e.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ": ") + ")"
}
