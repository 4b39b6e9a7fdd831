package redistest

import (
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// Authority issues certificates for Redis and for its clients.
type Authority struct {
	*testutil.Authority
	t testing.TB
}

// NewAuthority returns an authority with a certificate that it signed itself.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	return &Authority{testutil.NewAuthority(t), t}
}

// TLS returns the settings of a server or a Sentinel that speaks TLS only, also to
// others, and asks its clients for a certificate of this authority.
func (a *Authority) TLS() []string {
	a.t.Helper()
	certificate, key := a.Issue("server", time.Now().AddDate(1, 0, 0))
	return []string{"--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", a.File(),
		"--tls-auth-clients", "yes", "--tls-replication", "yes"}
}
