package upstream

import (
	"net/http"
	"time"
)

// deniedEvery is how often a client reports that its credentials are refused. Every
// pull meets the refusal, and an operator needs one line.
const deniedEvery = 5 * time.Minute

// noteDenied reports a refusal of the configured credentials, which are a password, a
// client certificate, or both.
func (c *Client) noteDenied(e *Error, call call) {
	// The credential of a client is no business of the operator's.
	if call.sender != nil && call.sender.client != "" {
		return
	}
	if c.onDenied == nil || !c.deniesCredentials(e) || !isFinal(e, call) {
		return
	}
	now := time.Now().UnixNano()
	last := c.deniedAt.Load()
	// A clock that was set back must not silence the reports.
	if last != 0 && last <= now && now-last < int64(deniedEvery) || !c.deniedAt.CompareAndSwap(last, now) {
		return
	}
	c.onDenied(e)
}

// deniesCredentials reports whether a failure is a refusal of credentials that the
// registry or its token service got.
func (c *Client) deniesCredentials(e *Error) bool {
	if e.Class == ClassDenied {
		// A password that was not asked for was not refused. The certificate was shown
		// with the connection.
		return e.Credentials && !e.NotAsked || c.certificate && !e.Foreign()
	}
	// A certificate that is not accepted ends the TLS handshake.
	return c.certificate && e.Remedy() == CheckClientCertificate
}

// isFinal reports whether a failure is the upstream's last word. A refused HEAD is not:
// a GET decides. Nor is a refused list of referrers, since registries without that
// endpoint refuse it too.
func isFinal(e *Error, call call) bool {
	return e.Op == opToken || e.Status == 0 || call.method == http.MethodGet && e.Op != opReferrers
}
