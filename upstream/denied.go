package upstream

import (
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

// deniedEvery is how often a client reports that its credentials are refused. Every
// pull meets the refusal, and an operator needs one line.
const deniedEvery = 5 * time.Minute

// noteDenied reports a refusal of the configured credentials, which are a password, a
// client certificate, or both.
func (c *Client) noteDenied(e *Error, call call) {
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

// hide takes the password out of a text of the upstream's, which clients and the log
// get. A misconfigured registry or proxy may repeat a request's header.
func (c credentials) hide(text string) string {
	// A shorter password would cut harmless words into pieces, which shows it.
	const shortest = 4
	if len(c.password) < shortest {
		return text
	}
	basic := base64.StdEncoding.EncodeToString([]byte(c.username + ":" + c.password))
	return strings.NewReplacer(c.password, "[hidden]", basic, "[hidden]").Replace(text)
}
